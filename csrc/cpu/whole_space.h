// The loss's stages by rows in the whole space, free of torch: nothing is projected, and the products are PyTorch's.
// drcl/eager/reversible_consistency.py has the formulas, the shapes and the reasons.

#pragma once

#include "reversible_consistency.h"

namespace drcl::loss {

// All matrices are contiguous.
template <class T>
struct WholeLabelsCall : Labels<T> {
  int64_t batch;
  T* mixed;        // rows of labels (B, C), zero where there are none
  bool* labelled;  // (B,)
};

template <class T>
struct WholeRowsCall {
  const T *features, *recast;  // (B, D): R, or for ids P (C, D)
  const int64_t* ids;          // (B,), or null where there are
  const bool* labelled;        // (B,): a row without a label is recast to zero
  const int64_t* permutation;  // (B,), or null
  T temperature, lam;
  int64_t batch, width, classes;
  T *scaled, *coordinates, *lengths, *recast_lengths;  // scaled: mixed rows over the temperature (B, D)
  double* partial;                                     // (blocks, 2): Σ |r − x|², labelled rows
};

template <class T>
struct WholeDifferencesCall {
  const T* product;  // (U + V)Δᵀ (B, B)
  const T *lengths, *recast_lengths;
  int64_t batch;
  T *m, *z;  // (B, B)
};

template <class T>
struct WholeGradientCall {
  const T *coordinates, *label_gradient, *lengths, *recast_lengths;
  const T *m, *z;  // (B, B), or null where the gradient's place holds what they come to
  Factors by;
  int64_t batch, width;
  T* gradient;  // (B, D)
};

template <class T>
struct WholeLoops {
  void (*labels)(const WholeLabelsCall<T>&, int64_t block);
  void (*rows)(const WholeRowsCall<T>&, int64_t block);
  void (*differences)(const WholeDifferencesCall<T>&, int64_t block);
  void (*gradient)(const WholeGradientCall<T>&, int64_t block);
  void (*label_product)(const T* row, int64_t classes, const T* matrix, int64_t width, T* out);
};

namespace plain {
#include "whole_space.inc"
}

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
namespace avx2 {
#include "whole_space.inc"
}
DRCL_END_TARGET
#endif

template <class T>
WholeLoops<T> whole_loops_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return avx2::whole_loops<T>();
#endif
  return plain::whole_loops<T>();
}

}  // namespace drcl::loss
