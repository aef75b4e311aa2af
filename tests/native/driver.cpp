// Draws calls of drcl::average_precision and holds every form of its C++ code to the oracle: the CPU op,
// the GPU's phases by threads in turn and by real ones, all with the same bits.
//
//   driver CASES SEED [PLANT]   with a seed; a fuzzer built with -DDRCL_FUZZER draws the bytes itself
//
// PLANT is a bug in the driver's own use of the op, to show that the harness sees such bugs:
//   overrun      the scores' block is one element short (AddressSanitizer)
//   misaligned   the scores' block begins between two elements (UndefinedBehaviorSanitizer)
//   race         two threads write one row (ThreadSanitizer)
//   wrong        the op gets other scores than the oracle

#include "average_precision_workspace.h"
#include "call.h"
#include "oracle.h"

#include <pthread.h>

#include <cstdio>
#include <cstdlib>

namespace {

struct WithBarrier {
  int32_t t, threads;
  pthread_barrier_t* barrier;

  template <class Phase>
  void operator()(const Phase& phase) const {
    phase(t, threads);
    pthread_barrier_wait(barrier);
  }
};

// The phases as a GPU runs them: `threads` at once, each through all of the code, with a barrier after
// each phase. Every part of the workspace is a block of its own, filled with garbage.
template <class T>
Outcome phases_at_once(const Case<T>& c, int32_t threads) {
  const drcl::Queries<T> in = c.inputs();
  const drcl::Request want = c.request();
  const int64_t capacity = std::max<int64_t>(std::min(c.max_relevant, c.n), 1), words = (c.n + 31) / 32;
  const int64_t gains = want.needs_gains() ? capacity : 0, ties = c.average_ties ? capacity : 0;
  std::vector<drcl::phases::Key<T>> keys(capacity, drcl::phases::Key<T>::of(77, 77)), other(keys);
  std::vector<int32_t> ends(capacity + 1, -77), below(ends), tied(ties + 1, -77), gain(gains, -77), best(gain);
  std::vector<int32_t> partial(threads, -77), found(4, -77);
  std::vector<uint32_t> relevant(words, 0xa5a5a5a5), excluded(relevant);
  std::vector<drcl::TieGroup> groups(ties, {-77, -77, -77, -77});
  std::vector<double> precision(capacity, -77), gained(gains, -77), ideal(c.cutoffs.size(), -77);
  drcl::Scale<T> scale{77, 77, 77};
  const drcl::phases::Workspace<T> workspace{
      keys.data(), other.data(), ends.data(), below.data(), tied.data(), precision.data(),
      gain.data(), best.data(), gained.data(), partial.data(), relevant.data(), excluded.data(),
      groups.data(), ideal.data(), &scale, found.data()};
  Outcome outcome;
  outcome.table.assign(c.queries * c.width(), torch::stable::kUnwritten);
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(threads));
  const auto run = [&](int32_t t) {
    for (int64_t q = 0; q < c.queries; ++q) {
      const auto rank = c.average_ties ? drcl::phases::rank_query<true, T, WithBarrier>
                                       : drcl::phases::rank_query<false, T, WithBarrier>;
      rank(in, want, workspace, q, outcome.table.data() + q * c.width(), {t, threads, &barrier});
    }
  };
  std::vector<std::thread> others;
  for (int32_t t = 1; t < threads; ++t) others.emplace_back(run, t);
  run(0);
  for (std::thread& thread : others) thread.join();
  pthread_barrier_destroy(&barrier);
  return outcome;
}

template <class T>
[[noreturn]] void disagree(const Case<T>& c, const char* what, int64_t query, double expected, double found) {
  std::fprintf(stderr,
               "%s, query %lld: expected %.17g, found %.17g\n  %s, %lld queries, n %lld, depth %lld, levels %lld, "
               "%zu cut-offs, divisor %lld, average_ties %d, discounts %d, bits %d, left out %d, scale %d, bias %d\n",
               what, static_cast<long long>(query), expected, found, sizeof(T) == 4 ? "float" : "double",
               static_cast<long long>(c.queries), static_cast<long long>(c.n), static_cast<long long>(c.depth),
               static_cast<long long>(c.recall_levels), c.cutoffs.size(), static_cast<long long>(c.divisor),
               c.average_ties, c.discounts.has_value(), c.bits.has_value(), c.excluded.has_value(),
               c.scale.has_value(), c.bias.has_value());
  std::abort();
}

uint64_t digest = 0;

template <class T>
void check(Source& from) {
  const Case<T> c = draw_case<T>(from);
  constexpr int64_t kMemory[] = {1, 1 << 28};  // one query at a time, or as many as there are threads
  stand_in::workers = 1;
  if (from.one_in(8) || plant == "race") stand_in::workers = 2 + from.below(3);
  const int64_t memory = kMemory[from.below(2)];
  const Outcome outcome = call("average_precision", c, memory);
  if (memory == 1 && stand_in::parts > 1) disagree(c, "queries at once", 0, 1, static_cast<double>(stand_in::parts));

  const int64_t nan = c.first_nan();
  if (nan >= 0) {
    if (outcome.error != "scores: row " + std::to_string(nan) + " holds NaN") {
      std::fprintf(stderr, "NaN in row %lld: %s\n", static_cast<long long>(nan), outcome.error.c_str());
      std::abort();
    }
  } else if (!outcome.error.empty()) {
    disagree(c, outcome.error.c_str(), 0, 0, 0);
  }
  for (int64_t q = 0; q < c.queries && nan < 0; ++q) {
    const std::vector<double> expected = expected_row(c, q);
    const double* row = outcome.table.data() + q * c.width();
    for (int64_t i = 0; i < c.width(); ++i) {
      const bool written = i < static_cast<int64_t>(expected.size());
      if (written && row[i] == expected[i]) continue;  // a rank of none is infinite
      if (written && std::abs(row[i] - expected[i]) <= 1e-12 * (1 + std::abs(expected[i]))) continue;
      disagree(c, "the op", q, written ? expected[i] : torch::stable::kUnwritten, row[i]);
    }
  }

  // The GPU's form: a row with NaN, other than in what is left out, says so; the same bits otherwise.
  const auto same = [&](const Outcome& found, const char* what) {
    for (int64_t q = 0; q < c.queries; ++q) {
      const double* row = found.table.data() + q * c.width();
      const std::vector<bool> kept = c.kept(q);
      bool holds_nan = false;
      for (int64_t i = 0; i < c.n && nan >= 0; ++i) holds_nan |= kept[i] && std::isnan(c.value(q, i));
      if (holds_nan != std::isnan(row[0])) disagree(c, what, q, holds_nan, row[0]);
      if (nan >= 0) continue;
      const double* expected = outcome.table.data() + q * c.width();
      if (std::memcmp(row, expected, c.width() * sizeof(double)) != 0) {
        int64_t i = 0;
        while (std::memcmp(row + i, expected + i, sizeof(double)) == 0) ++i;
        disagree(c, what, q, expected[i], row[i]);
      }
    }
  };
  constexpr int64_t kTurns[] = {1, 5, -32};
  same(call("average_precision_phases", c, kTurns[from.below(3)]), "phases in turns");
  same(phases_at_once(c, 1 + (from.one_in(8) ? static_cast<int32_t>(from.below(7)) : 0)), "phases at once");

  // Calls at once from several threads, all of the same inputs.
  if (from.one_in(16) || plant == "race") {
    std::vector<Outcome> outcomes(3);
    std::vector<std::thread> callers;
    for (Outcome& one : outcomes) callers.emplace_back([&] { one = call("average_precision", c, kMemory[1]); });
    for (std::thread& caller : callers) caller.join();
    for (const Outcome& one : outcomes) {
      if (!(one == outcome)) disagree(c, "calls at once", 0, 0, 0);
    }
  }
  for (const double value : outcome.table) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    digest = (digest ^ bits) * 0x100000001b3;
  }
}

void check(Source from) {
  if (from.below(2) == 0) {
    check<float>(from);
  } else {
    check<double>(from);
  }
}

}  // namespace

#if defined(DRCL_FUZZER)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check(Source(data, size));
  return 0;
}
#else
int main(int count, char** arguments) {
  if (count < 3) return 2;
  const long long cases = std::atoll(arguments[1]), seed = std::atoll(arguments[2]);
  plant = count > 3 ? arguments[3] : "";
  stand_in::overlap = plant == "race";
  for (long long i = 0; i < cases; ++i) check(Source(static_cast<uint64_t>(seed) << 32 | static_cast<uint64_t>(i)));
  std::printf("%lld cases, digest %016llx\n", cases, static_cast<unsigned long long>(digest));
  return 0;
}
#endif
