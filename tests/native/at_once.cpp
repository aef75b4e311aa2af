// The GPU's phases as a GPU runs them: real threads, each through all of the code, that meet at a barrier
// after each phase. Built with ThreadSanitizer, it finds a phase that reads what another thread writes in
// the same phase. The result must have the bits of threads in turn.
//
//   at_once CASES SEED            2 to 16 threads, any options
//   at_once CASES SEED PHASE      a control: 4 threads, and no barrier after the phase of that number
//
// Phases are numbered by their lambda's type: one that runs many times, as the steps of the sorting network
// do, counts once, in each form of the code. The line printed says how many there are.

#include "average_precision_workspace.h"
#include "cases.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace {

class Barrier {
 public:
  explicit Barrier(int32_t threads) : threads_(threads) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t round = round_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++round_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round_ != round; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  const int32_t threads_;
  int32_t waiting_ = 0;
  int64_t round_ = 0;
};

int64_t without = -1, next_number = 0;

// A phase by one of the threads, or, without a barrier, by all of them in turn.
struct Each {
  int32_t t, threads;
  Barrier* barrier;
  uint64_t* delays;

  template <class Phase>
  void operator()(const Phase& phase) const {
    // Found once, in turns: a lock here would order the threads, and hide what they race for.
    static const int64_t number = next_number++;
    if (barrier == nullptr) {
      for (int32_t turn = 0; turn < threads; ++turn) phase(turn, threads);
      return;
    }
    *delays = *delays * 6364136223846793005 + 1442695040888963407;  // some are late
    if (*delays >> 60 == 0) std::this_thread::sleep_for(std::chrono::microseconds(*delays >> 56 & 15));
    phase(t, threads);
    if (number != without) barrier->wait();
  }
};

template <class T>
struct Memory {
  std::vector<int64_t> near, far;
  drcl::phases::Workspace<T> workspace;

  Memory(const drcl::phases::Layout& layout, int64_t garbage)
      : near(layout.near_bytes / 8, garbage),
        far(layout.far_bytes / 8, garbage),
        workspace(layout.at<T>(reinterpret_cast<char*>(near.data()), reinterpret_cast<char*>(far.data()))) {}
};

template <class T>
void rank(const drcl::Inputs<T>& in, const drcl::Request& want, const drcl::phases::Workspace<T>& w,
          int64_t queries, double* out, const Each& each) {
  for (int64_t q = 0; q < queries; ++q, out += want.width()) {
    in.average_ties ? drcl::phases::rank_query<true>(in, want, w, q, out, each)
                    : drcl::phases::rank_query<false>(in, want, w, q, out, each);
  }
}

// In turns, and, unless that is all, at once.
template <class T>
void check(Source from, bool only_in_turns) {
  const Case<T> c = draw_case<T>(from);
  const drcl::Queries<T> in = c.inputs();
  const drcl::Request want = c.request();
  const int32_t threads = without < 0 ? 2 + static_cast<int32_t>(from.below(15)) : 4;
  const auto layout = drcl::phases::Layout::of(in, want, threads);
  Memory<T> turns(layout, -1), at_once(layout, 0x0000000100000001);  // a control reads it, and shall not crash
  std::vector<double> expected(c.queries * c.width(), -7), found(expected);
  rank(in, want, turns.workspace, c.queries, expected.data(), {0, threads, nullptr, nullptr});
  if (only_in_turns) return;

  Barrier barrier(threads);
  std::vector<std::thread> all;
  for (int32_t t = 0; t < threads; ++t) {
    all.emplace_back([&, t] {
      uint64_t delays = static_cast<uint64_t>(c.n * 31 + t);
      rank(in, want, at_once.workspace, c.queries, found.data(), {t, threads, &barrier, &delays});
    });
  }
  for (std::thread& thread : all) thread.join();
  if (without >= 0) return;
  for (int64_t q = 0; q < c.queries; ++q) {
    const double *a = expected.data() + q * c.width(), *b = found.data() + q * c.width();
    const bool refused = std::isnan(a[0]) && std::isnan(b[0]);  // NaN: the rest of the row is not written
    if (refused || std::memcmp(a, b, c.width() * sizeof(double)) == 0) continue;
    std::fprintf(stderr, "query %lld of %lld: %d threads at once find other bits than in turn\n",
                 static_cast<long long>(q), static_cast<long long>(c.queries), threads);
    std::abort();
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  const long long cases = std::atoll(arguments[1]), seed = std::atoll(arguments[2]);
  if (count > 3) without = std::atoll(arguments[3]);
  const auto check_all = [](long long count, long long from_seed, bool only_in_turns) {
    for (long long i = 0; i < count; ++i) {
      Source from(static_cast<uint64_t>(from_seed) << 32 | static_cast<uint64_t>(i));
      from.below(2) == 0 ? check<float>(from, only_in_turns) : check<double>(from, only_in_turns);
    }
  };
  check_all(60, 0, true);  // numbers the phases, whatever cases follow
  check_all(cases, seed, false);
  std::printf("%lld cases, %lld phases\n", cases, static_cast<long long>(next_number));
  return 0;
}
