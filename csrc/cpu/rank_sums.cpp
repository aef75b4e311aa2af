// drcl::rank_sums on a CPU: sums over the first relevant items of every ranking, of what each adds at its
// rank. One walk along a query's ranks finds them at all of its counts; nothing as large as the ranks is made.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

namespace drcl {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums of `part` at each of some counts, which `order` sorts; false where one of them is not `known`.
template <class Part, class Known>
bool at_counts(const Part& part, const Known& known, const int64_t* counts, std::vector<int64_t>& order,
               double* out) {
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return counts[a] < counts[b]; });
  double sum = 0.0;
  int64_t j = 0;
  for (const int64_t c : order) {
    for (; j < counts[c]; ++j) {
      if (!known(j)) return false;
      sum += part(j);
    }
    out[c] = sum;
  }
  return true;
}

// Whether a rank is from 1 to the last. Bits of positive doubles rise with them, those of NaN, infinity and
// what is negative are above all. Two comparisons of doubles would slow the walk down; this one does not.
struct Within {
  explicit Within(int64_t last) : span(last > 0 ? bits(static_cast<double>(last)) - one : 0), any(last > 0) {}
  bool operator()(double rank) const { return any && bits(rank) - one <= span; }

 private:
  static uint64_t bits(double x) { return std::bit_cast<uint64_t>(x); }
  static constexpr uint64_t one = std::bit_cast<uint64_t>(1.0);
  uint64_t span;
  bool any;
};

void check_matrix(const char* name, const Tensor& matrix, ScalarType type, const char* type_name) {
  const bool right = matrix.dim() == 2 && matrix.scalar_type() == type;
  STD_TORCH_CHECK(right, name, ": expected a matrix of ", type_name);
}

// Shapes: drcl/ops/rank_sums.py.
Tensor rank_sums(const Tensor& ranks, const Tensor& values, const Tensor& counts,
                 const std::optional<Tensor>& weights) {
  check_matrix("ranks", ranks, ScalarType::Double, "float64");
  check_matrix("values", values, ScalarType::Double, "float64");
  check_matrix("counts", counts, ScalarType::Long, "int64");
  const int64_t queries = ranks.size(0), width = ranks.size(1), number = counts.size(1);
  STD_TORCH_CHECK(counts.size(0) == queries && counts.is_contiguous(), "counts: expected ", queries,
                  " contiguous rows");
  if (weights.has_value()) {
    const bool right = weights->dim() == 1 && weights->scalar_type() == ScalarType::Double;
    STD_TORCH_CHECK(right && weights->is_contiguous(), "weights: expected a contiguous vector of float64");
  }
  STD_TORCH_CHECK(width <= 1 || (ranks.stride(1) == 1 && values.stride(1) == 1), "ranks: expected contiguous rows");
  STD_TORCH_CHECK(values.size(1) == width && (values.size(0) == queries || values.size(0) == 1),
                  "values: expected those of ", width, " relevant items");
  Tensor out = torch::stable::empty({queries, number}, ScalarType::Double);
  double* sums = static_cast<double*>(out.mutable_data_ptr());
  const auto* all_ranks = static_cast<const double*>(ranks.const_data_ptr());
  const auto* all_values = static_cast<const double*>(values.const_data_ptr());
  const auto* all_counts = static_cast<const int64_t*>(counts.const_data_ptr());
  for (int64_t i = 0; i < queries * number; ++i) {
    STD_TORCH_CHECK(all_counts[i] >= 0 && all_counts[i] <= width, "counts: expected 0 to ", width, ", got ",
                    all_counts[i]);
  }
  const double* table = weights.has_value() ? static_cast<const double*>(weights->const_data_ptr()) : nullptr;
  const int64_t last = weights.has_value() ? weights->size(0) : 0;
  const Within within(last);
  std::atomic<bool> inside{true};  // no exception may leave a thread
  const int64_t rank_step = ranks.stride(0), value_step = values.size(0) == 1 ? 0 : values.stride(0);
  const int64_t grain = std::max<int64_t>((int64_t{1} << 14) / std::max<int64_t>(width, 1), 1);
  torch::stable::parallel_for(0, queries, grain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> order(number);
    for (int64_t q = begin; q < end; ++q) {
      const double *rank = all_ranks + q * rank_step, *value = all_values + q * value_step;
      const int64_t* mine = all_counts + q * number;
      if (weights.has_value()) {
        const auto part = [=](int64_t j) { return value[j] * table[static_cast<int64_t>(rank[j]) - 1]; };
        const auto known = [=](int64_t j) { return within(rank[j]); };
        if (!at_counts(part, known, mine, order, sums + q * number)) inside = false;
      } else {
        const auto part = [=](int64_t j) { return value[j] / rank[j]; };
        at_counts(part, [](int64_t) { return true; }, mine, order, sums + q * number);
      }
    }
  });
  STD_TORCH_CHECK(inside, "ranks: expected 1 to ", last, ", the weights there are");
  return out;
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("rank_sums", TORCH_BOX(&drcl::rank_sums));
}
