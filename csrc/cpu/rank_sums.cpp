// drcl::rank_sums on a CPU: sums over the first relevant items of every ranking, of what each adds at its
// rank. One walk along a query's ranks finds them at all of its counts; nothing as large as the ranks is made.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

namespace drcl {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums of `part` at each of some counts, which `order` sorts.
template <class Part>
void at_counts(const Part& part, const int64_t* counts, std::vector<int64_t>& order, double* out) {
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return counts[a] < counts[b]; });
  double sum = 0.0;
  int64_t j = 0;
  for (const int64_t c : order) {
    for (; j < counts[c]; ++j) sum += part(j);
    out[c] = sum;
  }
}

// Shapes: drcl/ops/rank_sums.py.
Tensor rank_sums(const Tensor& ranks, const Tensor& values, const Tensor& counts,
                 const std::optional<Tensor>& weights) {
  const int64_t queries = ranks.size(0), width = ranks.size(1), number = counts.size(1);
  STD_TORCH_CHECK(width <= 1 || (ranks.stride(1) == 1 && values.stride(1) == 1), "ranks: expected contiguous rows");
  STD_TORCH_CHECK(values.size(1) == width && (values.size(0) == queries || values.size(0) == 1),
                  "values: expected those of ", width, " relevant items");
  Tensor out = torch::stable::empty({queries, number}, ScalarType::Double);
  double* sums = static_cast<double*>(out.mutable_data_ptr());
  const auto* all_ranks = static_cast<const double*>(ranks.const_data_ptr());
  const auto* all_values = static_cast<const double*>(values.const_data_ptr());
  const auto* all_counts = static_cast<const int64_t*>(counts.const_data_ptr());
  const double* table = weights.has_value() ? static_cast<const double*>(weights->const_data_ptr()) : nullptr;
  const int64_t rank_step = ranks.stride(0), value_step = values.size(0) == 1 ? 0 : values.stride(0);
  const int64_t grain = std::max<int64_t>((int64_t{1} << 14) / std::max<int64_t>(width, 1), 1);
  torch::stable::parallel_for(0, queries, grain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> order(number);
    for (int64_t q = begin; q < end; ++q) {
      const double *rank = all_ranks + q * rank_step, *value = all_values + q * value_step;
      const int64_t* mine = all_counts + q * number;
      if (table != nullptr) {
        at_counts([=](int64_t j) { return value[j] * table[static_cast<int64_t>(rank[j]) - 1]; }, mine, order,
                  sums + q * number);
      } else {
        at_counts([=](int64_t j) { return value[j] / rank[j]; }, mine, order, sums + q * number);
      }
    }
  });
  return out;
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("rank_sums", TORCH_BOX(&drcl::rank_sums));
}
