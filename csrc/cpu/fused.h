// sum += x·y of 32-byte vectors, rounded once: the same bits in every instruction set. Without an instruction for it,
// as on x86 processors before AVX2, that is right but slow. Of numbers std::fma does it.

#pragma once

#include "intrinsics.h"
#include "vectors.h"

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace drcl::fused {

namespace plain {
template <class V>
DRCL_INLINE void add_product(const V& x, const V& y, V& sum) {
#if defined(__has_builtin) && __has_builtin(__builtin_elementwise_fma)
  sum = __builtin_elementwise_fma(x, y, sum);
#else
  for (size_t l = 0; l < sizeof(V) / sizeof(sum[0]); ++l) sum[l] = std::fma(x[l], y[l], sum[l]);
#endif
}

// Of one number with every lane.
template <class T, class V>
DRCL_INLINE void add_multiple(T x, const V& y, V& sum) {
  for (size_t l = 0; l < sizeof(V) / sizeof(T); ++l) sum[l] = std::fma(x, y[l], sum[l]);
}
}  // namespace plain

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
namespace avx2 {
using Floats = Vector<float>::type;

DRCL_INLINE void add_product(const Floats& x, const Floats& y, Floats& sum) { sum = _mm256_fmadd_ps(x, y, sum); }
DRCL_INLINE void add_product(const Doubles& x, const Doubles& y, Doubles& sum) { sum = _mm256_fmadd_pd(x, y, sum); }
DRCL_INLINE void add_multiple(float x, const Floats& y, Floats& sum) { add_product(_mm256_set1_ps(x), y, sum); }
DRCL_INLINE void add_multiple(double x, const Doubles& y, Doubles& sum) { add_product(_mm256_set1_pd(x), y, sum); }
}  // namespace avx2
DRCL_END_TARGET
#endif

}  // namespace drcl::fused
