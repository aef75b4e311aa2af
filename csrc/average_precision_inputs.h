// The arguments of drcl::average_precision, checked, as pointers: what CPU and CUDA code have in common.

#pragma once

#include "average_precision_phases.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <optional>
#include <vector>

namespace drcl {

using torch::stable::Tensor;

template <class T>
const T* pointer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

inline void check_scores(const Tensor& scores) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(scores.dim() == 2 && (scores.size(1) == 1 || scores.stride(1) == 1),
                  "scores: expected (Q, N) with contiguous rows");
  STD_TORCH_CHECK(scores.size(1) < std::numeric_limits<int32_t>::max(),
                  "scores: expected fewer than 2^31 gallery items, got ", scores.size(1));
  const auto type = scores.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "scores: expected float32 or float64");
}

template <class T>
phases::Inputs<T> inputs(const Tensor& scores, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& left_out_offsets,
                         const std::optional<Tensor>& left_out, const Tensor& member_offsets,
                         const Tensor& members, const std::optional<Tensor>& offsets,
                         const std::optional<Tensor>& items, const std::optional<Tensor>& gains,
                         const std::optional<Tensor>& bits, bool average_ties) {
  return {
      scores.size(1),
      scores.stride(0),
      static_cast<const T*>(scores.const_data_ptr()),
      pointer<T>(scale),
      pointer<T>(bias),
      pointer<int64_t>(left_out_offsets),
      pointer<int64_t>(left_out),
      static_cast<const int64_t*>(member_offsets.const_data_ptr()),
      static_cast<const int64_t*>(members.const_data_ptr()),
      pointer<int64_t>(offsets),
      pointer<int32_t>(items),
      pointer<int32_t>(gains),
      pointer<uint64_t>(bits),
      bits.has_value() ? bits->size(1) : 0,
      average_ties,
  };
}

}  // namespace drcl
