// The arguments of drcl::average_precision: flat where torch calls the op, one struct from there on.

#pragma once

#include "average_precision.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <optional>
#include <vector>

namespace drcl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
const T* pointer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// In the order of the schema (ops.cpp); what they mean is in drcl/ranking.py.
struct Arguments {
  Tensor scores;
  std::optional<Tensor> scale, bias, excluded_offsets, excluded;
  Tensor member_offsets, members;
  std::optional<Tensor> offsets, items, gains, bits;
  int64_t max_relevant;
  std::vector<int64_t> cutoffs;
  int64_t depth, divisor;
  bool average_ties;
  int64_t recall_levels;
  std::optional<Tensor> discounts;
  int64_t ranks;
  bool rank_gains;
  int64_t limit;  // bytes to work in; of average_precision_phases the number of threads

  void check() const {
    STD_TORCH_CHECK(scores.dim() == 2 && (scores.size(1) == 1 || scores.stride(1) == 1),
                    "scores: expected (Q, N) with contiguous rows");
    STD_TORCH_CHECK(scores.size(1) < std::numeric_limits<int32_t>::max(),
                    "scores: expected fewer than 2^31 gallery items, got ", scores.size(1));
    const auto type = scores.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                    "scores: expected float32 or float64");
  }

  template <class T>
  Queries<T> inputs() const {
    const Inputs<T> in{
        scores.size(1),
        scores.stride(0),
        static_cast<const T*>(scores.const_data_ptr()),
        pointer<T>(scale),
        pointer<T>(bias),
        pointer<int64_t>(excluded_offsets),
        pointer<int64_t>(excluded),
        static_cast<const int64_t*>(member_offsets.const_data_ptr()),
        static_cast<const int64_t*>(members.const_data_ptr()),
        pointer<int64_t>(offsets),
        pointer<int32_t>(items),
        pointer<int32_t>(gains),
        pointer<uint64_t>(bits),
        bits.has_value() ? bits->size(1) : 0,
        average_ties,
    };
    return {in, scores.size(0), max_relevant};
  }

  // `rank` of the inputs in the scores' dtype.
  template <class Rank>
  void by_dtype(const Rank& rank) const {
    scores.scalar_type() == ScalarType::Float ? rank(inputs<float>()) : rank(inputs<double>());
  }

  // The cut-offs are this struct's own, in the host's memory.
  Request request() const {
    return {cutoffs.data(), static_cast<int64_t>(cutoffs.size()), depth, static_cast<Divisor>(divisor),
            recall_levels, pointer<double>(discounts), ranks, average_ties, rank_gains};
  }

  // The table that `rank` fills from inputs and request, for scores in the host's memory.
  template <class Rank>
  Tensor table(const Rank& rank) const {
    check();
    const Request want = request();
    Tensor out = torch::stable::empty({scores.size(0), want.width()}, ScalarType::Double);
    double* rows = static_cast<double*>(out.mutable_data_ptr());
    by_dtype([&](const auto& in) { rank(in, want, rows); });
    return out;
  }
};

// An op as torch calls it.
template <Tensor (*Op)(const Arguments&)>
Tensor flat(const Tensor& scores, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias,
            const std::optional<Tensor>& excluded_offsets, const std::optional<Tensor>& excluded,
            const Tensor& member_offsets, const Tensor& members, const std::optional<Tensor>& offsets,
            const std::optional<Tensor>& items, const std::optional<Tensor>& gains,
            const std::optional<Tensor>& bits, int64_t max_relevant, const std::vector<int64_t>& cutoffs,
            int64_t depth, int64_t divisor, bool average_ties, int64_t recall_levels,
            const std::optional<Tensor>& discounts, int64_t ranks, bool rank_gains, int64_t limit) {
  return Op({scores, scale, bias, excluded_offsets, excluded, member_offsets, members, offsets, items,
             gains, bits, max_relevant, cutoffs, depth, divisor, average_ties, recall_levels, discounts,
             ranks, rank_gains, limit});
}

}  // namespace drcl
