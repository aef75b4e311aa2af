// What the two forms of drcl::top_k that look at inexact products first have in common: the items that are left are
// compared with their query in float32.

#pragma once

#include "intrinsics.h"

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace drcl {

constexpr int64_t kSums = 16;  // that an entry's numbers are added to in turn

// one(i, j) for every entry i, and which of the sums it belongs to.
template <class One>
DRCL_INLINE void each(int64_t width, const One& one) {
  int64_t i = 0;
  for (; i + kSums <= width; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) one(i + j, j);
  }
  for (int64_t j = 0; i + j < width; ++j) one(i + j, j);
}

template <int64_t Count>
DRCL_INLINE float total(float (&sums)[Count]) {
  for (int64_t half = Count / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

inline void check_matrix(const char* name, const torch::stable::Tensor& matrix, int64_t rows,
                         torch::headeronly::ScalarType type) {
  const bool right = matrix.dim() == 2 && matrix.is_contiguous() && matrix.scalar_type() == type;
  STD_TORCH_CHECK(right && matrix.size(0) == rows, name, ": expected a contiguous matrix of ", rows,
                  " rows, of its dtype");
}

inline const float* vector_of(const char* name, const torch::stable::Tensor& one, int64_t size) {
  const bool right = one.dim() == 1 && one.scalar_type() == torch::headeronly::ScalarType::Float && one.is_contiguous();
  STD_TORCH_CHECK(right && one.size(0) == size, name, ": expected ", size, " contiguous float32");
  return static_cast<const float*>(one.const_data_ptr());
}

// Queries, a tile's rows and the k highest scores of every query; shapes: drcl/ops/top_k.py.
struct Highest {
  int64_t count, items, width, k, begin;
  const float *queries, *rows, *scales;
  float* values;
  int64_t* indices;

  static Highest of(const torch::stable::Tensor& queries, const torch::stable::Tensor& rows,
                    const std::optional<torch::stable::Tensor>& scale, int64_t begin, torch::stable::Tensor& values,
                    torch::stable::Tensor& indices);

  // The last score that is kept of a query.
  float last(int64_t q) const { return values[q * k + k - 1]; }

  // Computes the scores of the items that were found for every query, which rise, and keeps the highest.
  void take(const std::vector<std::vector<int64_t>>& found) const;
};

}  // namespace drcl
