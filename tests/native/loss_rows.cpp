// Draws calls of the loss's stages by rows (csrc/cpu/reversible_consistency.h) and runs them in every instruction
// set that the machine has: within their buffers, with the same bits, and with the properties that the stages have
// by their formulas.
//
//   loss_rows CASES SEED THREADS [PLANT]
//
// PLANT is a bug in the driver's own use of the loops, to show that the harness sees such bugs:
//   overrun   the features are one element short (AddressSanitizer)
//   race      two threads take one block (ThreadSanitizer)

#include "cpu/whole_space.h"

#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <thread>

namespace {

using namespace drcl::loss;

int64_t threads = 1;
std::string plant;

// The blocks in turn, or a share of them to each thread.
template <class F>
void over_blocks(int64_t rows, const F& f) {
  const int64_t blocks = blocks_of(rows);
  std::vector<std::thread> all;
  for (int64_t t = 0; t < threads; ++t) {
    all.emplace_back([&, t] {
      for (int64_t block = plant == "race" ? 0 : t; block < blocks; block += threads) f(block);
    });
  }
  for (std::thread& thread : all) thread.join();
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

template <class T>
struct Case {
  int64_t b, d, c, k;
  bool by_rows, multiply, converging, mixing, by_ids;
  std::vector<T> features, targets, basis, recast, weight, logits, products, matrices, cross, small, whole;
  std::vector<int64_t> ids, permutation;

  explicit Case(std::mt19937_64& from) {
    const auto below = [&](int64_t n) { return static_cast<int64_t>(from() % static_cast<uint64_t>(n)); };
    const auto drawn = [&](int64_t n) {
      std::vector<T> values(n);
      for (T& one : values) one = static_cast<T>(below(2001) - 1000) / T(512);
      return values;
    };
    b = 1 + below(45), d = 2 + below(45);
    c = 1 + below(below(4) > 0 ? 30 : 600), k = std::min(c, d - 1);  // some of more than a tile
    by_rows = below(2), multiply = below(2), converging = below(2), mixing = below(2), by_ids = below(2);
    features = drawn(b * d - (plant == "overrun"));
    targets = drawn(b * c);
    for (T& one : targets) one = one > T(1) ? one : T(0);
    for (int64_t i = 0; i < b; ++i) ids.push_back(below(c + 1) - 1);
    permutation.resize(b);
    std::iota(permutation.begin(), permutation.end(), 0);
    std::shuffle(permutation.begin(), permutation.end(), from);
    basis = drawn(k * d), recast = drawn(c * k), weight = drawn(k * c);
    for (int64_t i = 0; i < k; ++i) {  // Gram and Schmidt, twice
      T* row = basis.data() + i * d;
      row[i] += T(4);
      for (int64_t j = 0; j < 2 * i; ++j) {
        const T *other = basis.data() + j % i * d, share = std::inner_product(row, row + d, other, T(0));
        for (int64_t at = 0; at < d; ++at) row[at] -= share * other[at];
      }
      const T length = std::sqrt(std::inner_product(row, row + d, row, T(0)));
      for (int64_t at = 0; at < d; ++at) row[at] /= length;
    }
    logits = drawn(b * c);
    for (T& one : logits) one *= T(below(60));
    products = drawn(b * d), matrices = drawn(2 * b * b), cross = drawn(2 * k * d), small = drawn(3 * k * k), whole = drawn(c * d);
  }
};

// Everything that the stages leave.
template <class T>
struct Found {
  std::vector<T> outside, coordinates, label_gradient, norms, both, gradient, by_logits, probabilities;
  std::vector<double> partial, entropies;
  double squares = 0.0;

  bool operator==(const Found& other) const {
    const auto same = [](const auto& one, const auto& two) {
      return one.size() == two.size() && (one.empty() || std::memcmp(one.data(), two.data(), one.size() * sizeof(one[0])) == 0);
    };
    return same(outside, other.outside) && same(coordinates, other.coordinates) &&
           same(label_gradient, other.label_gradient) && same(norms, other.norms) && same(both, other.both) &&
           same(gradient, other.gradient) && same(partial, other.partial) && squares == other.squares &&
           same(by_logits, other.by_logits) && same(probabilities, other.probabilities) &&
           same(entropies, other.entropies);
  }
};

template <class T>
Found<T> run(const Case<T>& in, const Loops<T>& loops, void (*entropies)(const drcl::EntropyCall<T>&, int64_t)) {
  const int64_t b = in.b, d = in.d, k = in.k;
  Found<T> out;
  const T unwritten = T(-12345);
  out.outside.assign(b * d, unwritten);
  out.coordinates.assign(b * 3 * k, unwritten);
  out.label_gradient.assign(b * k, unwritten);
  out.norms.assign(2 * b, unwritten);
  out.partial.assign(kSums * blocks_of(b), -12345.0);
  RowsCall<T> rows{};
  rows.features = in.features.data();
  rows.ids = in.by_ids ? in.ids.data() : nullptr;
  rows.targets = in.targets.data();
  rows.permutation = in.mixing ? in.permutation.data() : nullptr;
  rows.basis = in.basis.data();
  rows.recast = in.recast.data();
  rows.weight = in.weight.data();
  rows.q = 0.3;
  rows.temperature = 0.7;
  rows.lam = T(0.9);
  rows.batch = b, rows.width = d, rows.classes = in.c, rows.k = k;
  rows.slopes = true;
  T* const outside = out.outside.data();
  rows.outside = outside;
  rows.coordinates = out.coordinates.data();
  rows.label_gradient = out.label_gradient.data();
  rows.lengths = out.norms.data();
  rows.recast_lengths = rows.lengths + b;
  rows.partial = out.partial.data();
  over_blocks(b, [&](int64_t block) {
    const Scratch<T> scratch(rows);
    loops.rows(rows, block, scratch);
  });

  std::vector<T> by_column(3 * k * b);
  for (int64_t i = 0; i < b; ++i) {
    for (int64_t j = 0; j < 3 * k; ++j) by_column[j * b + i] = out.coordinates[i * 3 * k + j];
  }
  out.both = in.matrices;
  DifferencesCall<T> differences{};
  differences.outside = outside;
  differences.coordinates = out.coordinates.data();
  differences.by_column = by_column.data();
  differences.lengths = rows.lengths;
  differences.recast_lengths = rows.recast_lengths;
  differences.converging = in.converging;
  differences.multiply = in.multiply;
  differences.batch = b, differences.width = d, differences.k = k;
  differences.m = out.both.data();
  differences.z = out.both.data() + b * b;
  over_blocks(b, [&](int64_t block) { loops.differences(differences, block); });
  over_blocks(b, [&](int64_t block) { loops.mirror(differences, block); });

  out.gradient = in.products;
  std::vector<T> factors = in.cross;
  factors.insert(factors.end(), in.basis.begin(), in.basis.end());
  GradientCall<T> gradient{};
  gradient.outside = outside;
  gradient.coordinates = out.coordinates.data();
  gradient.label_gradient = out.label_gradient.data();
  gradient.lengths = rows.lengths;
  gradient.recast_lengths = rows.recast_lengths;
  gradient.by = {0.7, -0.4, 0.2};
  gradient.batch = b, gradient.width = d, gradient.k = k;
  gradient.gradient = out.gradient.data();
  if (in.by_rows) {
    gradient.m = differences.m;
    gradient.z = differences.z;
    gradient.by_column = by_column.data();
    gradient.factors = in.basis.data();
    gradient.multiply = in.multiply;
  } else {
    gradient.by_u = in.small.data();
    gradient.vv = in.small.data() + k * k;
    gradient.uu = in.small.data() + 2 * k * k;
    gradient.cross = in.cross.data();
    gradient.factors = factors.data();
    gradient.converging = in.converging;
  }
  over_blocks(b, [&](int64_t block) { loops.gradient(gradient, block); });
  out.squares = loops.sum_of_squares(in.matrices.data(), static_cast<int64_t>(in.matrices.size()));

  out.by_logits.assign(b * in.c, unwritten), out.probabilities.assign(b * in.c, unwritten);
  out.entropies.assign(2 * ((b + drcl::kEntropyBlock - 1) / drcl::kEntropyBlock), -12345.0);
  drcl::EntropyCall<T> entropy{};
  entropy.logits = in.logits.data();
  entropy.ids = rows.ids;
  entropy.targets = in.targets.data();
  entropy.q = 0.3, entropy.share = 0.1, entropy.slopes = true;
  entropy.batch = b, entropy.classes = in.c;
  entropy.gradient = out.by_logits.data();
  entropy.probabilities = out.probabilities.data();
  entropy.partial = out.entropies.data();
  for (int64_t i = 0; i < static_cast<int64_t>(out.entropies.size()) / 2; ++i) entropies(entropy, i);
  return out;
}

// What the stages leave in the whole space: of ids, with a row for each class, or of as many rows as there are samples.
template <class T>
std::vector<std::vector<T>> run_whole(const Case<T>& in, const WholeLoops<T>& loops) {
  const int64_t b = in.b, d = in.d, c = in.by_ids ? in.c : b;
  std::vector<T> recast(c * d), scaled(b * d), coordinates(b * 3 * d), norms(2 * b), both(2 * b * b), gradient(b * d);
  for (int64_t i = 0; i < c; ++i) {  // of labels, and of those that rows of zeros leave out
    loops.label_product(in.targets.data() + i % b * in.c, in.c, in.whole.data(), d, recast.data() + i * d);
  }
  std::vector<double> partial(2 * blocks_of(b));
  const auto labelled = std::make_unique<bool[]>(b);
  std::vector<T> mixed(b * in.c);
  WholeLabelsCall<T> labels{};
  labels.ids = in.by_ids ? in.ids.data() : nullptr;
  labels.targets = in.by_ids ? nullptr : in.targets.data();
  labels.permutation = in.mixing ? in.permutation.data() : nullptr;
  labels.lam = T(0.9);
  labels.classes = in.c;
  labels.batch = b;
  labels.mixed = mixed.data();
  labels.labelled = labelled.get();
  over_blocks(b, [&](int64_t block) { loops.labels(labels, block); });
  for (int64_t i = 0; i < b; ++i) {
    const int64_t other = in.mixing ? in.permutation[i] : i;
    if (in.by_ids && labelled[i] != (in.ids[i] >= 0 && in.ids[other] >= 0)) fail("another label");
  }
  WholeRowsCall<T> rows{};
  rows.features = in.features.data();
  rows.recast = recast.data();
  rows.ids = in.by_ids ? in.ids.data() : nullptr;
  rows.labelled = in.by_ids ? nullptr : labelled.get();
  rows.permutation = in.mixing ? in.permutation.data() : nullptr;
  rows.temperature = T(0.7), rows.lam = T(0.9);
  rows.batch = b, rows.width = d, rows.classes = c;
  rows.scaled = scaled.data();
  rows.coordinates = coordinates.data();
  rows.lengths = norms.data();
  rows.recast_lengths = rows.lengths + b;
  rows.partial = partial.data();
  over_blocks(b, [&](int64_t block) { loops.rows(rows, block); });
  WholeDifferencesCall<T> differences{};
  differences.product = in.matrices.data();
  differences.lengths = rows.lengths;
  differences.recast_lengths = rows.recast_lengths;
  differences.batch = b;
  differences.m = both.data();
  differences.z = both.data() + b * b;
  over_blocks(b, [&](int64_t block) { loops.differences(differences, block); });
  WholeGradientCall<T> by{};
  by.coordinates = coordinates.data();
  by.label_gradient = in.products.data();
  by.lengths = rows.lengths;
  by.recast_lengths = rows.recast_lengths;
  if (in.by_rows) by.m = differences.m, by.z = differences.z;
  if (!in.by_rows) gradient = in.products;
  by.by = {0.7, -0.4, 0.2};
  by.batch = b, by.width = d;
  by.gradient = gradient.data();
  over_blocks(b, [&](int64_t block) { loops.gradient(by, block); });
  std::vector<T> sums(partial.begin(), partial.end());
  return {recast, mixed, scaled, coordinates, norms, both, gradient, sums};
}

// Lengths are those of the rows, M is symmetric and Z antisymmetric, F is orthogonal to Q; probabilities sum to one and their gradient to nothing.
template <class T>
void hold(const Case<T>& in, const Found<T>& found) {
  const int64_t b = in.b, d = in.d, k = in.k;
  for (int64_t i = 0; i < b; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      if (found.both[i * b + j] != found.both[j * b + i]) fail("M is not symmetric");
      if (found.both[(b + i) * b + j] != -found.both[(b + j) * b + i]) fail("Z is not antisymmetric");
    }
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0.0;
      for (int64_t at = 0; at < d; ++at) {
        sum += static_cast<double>(found.outside[i * d + at]) * static_cast<double>(in.basis[j * d + at]);
      }
      if (!(std::abs(sum) < 1e-5)) fail("F is not orthogonal to Q");
    }
    if (in.mixing || !in.by_ids) continue;
    double squares = 0.0;
    for (int64_t at = 0; at < d; ++at) squares += static_cast<double>(in.features[i * d + at]) * static_cast<double>(in.features[i * d + at]);
    const double expected = in.ids[i] < 0 ? 0.0 : std::sqrt(squares);
    if (!(std::abs(found.norms[i] - expected) <= 1e-6 * expected)) fail("another length");
  }
  for (int64_t i = 0; i < b; ++i) {
    double sum = 0.0, by_logits = 0.0;
    for (int64_t j = 0; j < in.c; ++j) {
      sum += static_cast<double>(found.probabilities[i * in.c + j]);
      by_logits += static_cast<double>(found.by_logits[i * in.c + j]);
    }
    if (!(std::abs(sum - 1.0) < 1e-5)) fail("probabilities do not sum to one");
    if (!(std::abs(by_logits) < 1e-6)) fail("a gradient by logits does not sum to nothing");
  }
  for (const T one : found.gradient) {
    if (!std::isfinite(one) || one == T(-12345)) fail("an entry of the gradient is no number");
  }
}

template <class T>
void check(std::mt19937_64& from) {
  const Case<T> in(from);
  const Found<T> found = run(in, plain::loops<T>(), drcl::entropy::plain::entropies<T>);
  if (plant.empty()) hold(in, found);
  if (!(found == run(in, loops_here<T>(), drcl::entropy::loop_here<T>()))) fail("another instruction set finds other bits");
  const auto whole = run_whole(in, plain::whole_loops<T>()), here = run_whole(in, whole_loops_here<T>());
  for (size_t i = 0; i < whole.size(); ++i) {
    if (std::memcmp(whole[i].data(), here[i].data(), whole[i].size() * sizeof(T)) != 0) {
      fail("another instruction set finds other bits in the whole space");
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) return 2;
  const int64_t cases = std::atoll(arguments[1]);
  std::mt19937_64 from(static_cast<uint64_t>(std::atoll(arguments[2])));
  threads = std::atoll(arguments[3]);
  if (count > 4) plant = arguments[4];
  for (int64_t i = 0; i < cases; ++i) {
#if !defined(DRCL_FLOAT32_ALONE)  // which compiles in half the time
    if (i % 2 > 0) {
      check<double>(from);
      continue;
    }
#endif
    check<float>(from);
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
  return 0;
}
