// Matrices of float32 and their products in panels (panels.h): of whole rows, and of columns.

#pragma once

#include "panels.h"

#include <torch/headeronly/util/Exception.h>

#include <cmath>

namespace drcl {

using torch::stable::Tensor;

// float32 rows in memory, `apart` entries from each other.
template <class T>
struct Rows {
  T* first;
  int64_t count, width, apart;

  T* operator[](int64_t i) const { return first + i * apart; }
};

template <class T>
Rows<T> rows_of(const char* name, const Tensor& matrix, T* first) {
  const bool right =
      matrix.is_cpu() && matrix.dim() == 2 && matrix.scalar_type() == torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(right, name, ": expected a matrix of float32 on the CPU");
  STD_TORCH_CHECK(matrix.stride(1) == 1 || matrix.size(1) == 1, name, ": expected rows that are contiguous");
  return {first, matrix.size(0), matrix.size(1), matrix.stride(0)};
}

// float32 as a Form of panels.h. A product and a sum are rounded once, also where that is slow.
struct Floats {
  using Value = float;
  using Sum = float;
  typedef float Lanes __attribute__((vector_size(32), may_alias));
  static constexpr int64_t kGroup = 1, kDepth = 256;
  static DRCL_INLINE void spread(const float* entry, Lanes& y) {
    for (int64_t l = 0; l < panels::kLanes; ++l) y[l] = *entry;
  }
  static DRCL_INLINE void add(const Lanes& x, const Lanes& y, Lanes& sums) {
    for (int64_t l = 0; l < panels::kLanes; ++l) sums[l] = std::fma(x[l], y[l], sums[l]);
  }
};

using FloatSums = panels::Sums<float>;

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
struct FusedFloats : Floats {
  static DRCL_INLINE void spread(const float* entry, Lanes& y) { y = _mm256_broadcast_ss(entry); }
  static DRCL_INLINE void add(const Lanes& x, const Lanes& y, Lanes& sums) { sums = _mm256_fmadd_ps(x, y, sums); }
};
DRCL_END_TARGET
#endif

}  // namespace drcl
