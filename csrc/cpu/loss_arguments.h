// What the ops of the loss's stages share: their threads, and arguments as the loops take them.

#pragma once

#include "reversible_consistency.h"
#include "tensors.h"

#include <optional>

namespace drcl::loss {

constexpr int64_t kGrain = int64_t{1} << 17;  // multiplications that are worth a thread

inline int64_t grain_of(int64_t per_row) { return std::max<int64_t>(kGrain / (kBlock * std::max<int64_t>(per_row, 1)), 1); }

template <class F>
void over_blocks(int64_t rows, int64_t per_row, const F& f) {
  torch::stable::parallel_for(0, blocks_of(rows), grain_of(per_row), f);
}

using Maybe = std::optional<Tensor>;

inline const int64_t* permutation_of(const Maybe& permutation, int64_t batch) {
  if (!permutation.has_value()) return nullptr;
  check("permutation", *permutation, ScalarType::Long, {batch});
  const auto* order = data<int64_t>(*permutation);
  for (int64_t i = 0; i < batch; ++i) {
    STD_TORCH_CHECK(order[i] >= 0 && order[i] < batch, "permutation: expected rows 0..", batch - 1, ", got ", order[i]);
  }
  return order;
}

template <class T>
Labels<T> labels_of(const Tensor& targets, const Maybe& permutation, int64_t batch, int64_t classes, double lam) {
  STD_TORCH_CHECK(classes >= 1, "weight: expected classes");
  const bool ids = check_targets(targets, type_of<T>, batch, classes);
  return {ids ? data<int64_t>(targets) : nullptr, ids ? nullptr : data<T>(targets), permutation_of(permutation, batch),
          static_cast<T>(lam), classes};
}

// From the gradients of the loss and its parts, the parts' weights in the loss, and the sums over rows.
template <class T>
Factors factors_of(const std::vector<Maybe>& grads, const std::vector<double>& weights, const Tensor& sums,
                   int64_t width) {
  const auto grad = [&](size_t i) {
    if (!grads.at(i).has_value()) return 0.0;
    check("grads", *grads[i], type_of<T>, {});
    return static_cast<double>(*data<T>(*grads[i]));
  };
  const auto by = [&](size_t i) { return weights.at(i) * grad(0) + grad(i + 1); };
  const double count = std::max(static_cast<double>(data<T>(sums)[2]), 1.0);
  return {by(0) / count, by(1) * (-16.0 / (count * count)), by(2) * (2.0 / (count * static_cast<double>(width)))};
}

}  // namespace drcl::loss
