// The products of a small prior similarity, free of torch, for each instruction set.

#pragma once

#include "reversible_consistency.h"

namespace drcl::similarity {

template <class T>
struct Products {
  void (*logits)(const T* features, const T* columns, int64_t batch, int64_t width, int64_t classes, T scale, T* out);
  void (*product)(const T* factors, const T* matrix, int64_t n, int64_t m, int64_t width, T scale, T* out);
};

namespace plain {
using namespace loss::plain;
#include "prior_similarity.inc"
}

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
namespace avx2 {
using namespace loss::avx2;
#include "prior_similarity.inc"
}
DRCL_END_TARGET
#endif

template <class T>
Products<T> products_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return {avx2::logits_of<T>, avx2::product_of<T>};
#endif
  return {plain::logits_of<T>, plain::product_of<T>};
}

}  // namespace drcl::similarity
