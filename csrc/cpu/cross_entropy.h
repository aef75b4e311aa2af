// The generalised cross-entropy by rows, free of torch, and its loop for each instruction set.

#pragma once

#include "instruction_sets.h"
#include "vectors.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace drcl {

constexpr int64_t kUnlabelled = -1, kNoClass = -2;

// An id as a class, as unlabelled or as none of these.
inline int64_t class_of(int64_t id, int64_t classes) {
  return id == kUnlabelled || (id >= 0 && id < classes) ? id : kNoClass;
}

// Σ_c y[c], in eight sums that do not wait for each other.
template <class T>
double mass_of(const T* y, int64_t n) {
  Doubles low = {}, high = {};
  int64_t c = 0;
  for (; c + 8 <= n; c += 8) {
    typename Vector<T>::quad a, b;
    DRCL_LOAD(a, y + c);
    DRCL_LOAD(b, y + c + 4);
    low += __builtin_convertvector(a, Doubles);
    high += __builtin_convertvector(b, Doubles);
  }
  low += high;
  double sum = (low[0] + low[2]) + (low[1] + low[3]);
  for (; c < n; ++c) sum += static_cast<double>(y[c]);
  return sum;
}

constexpr int64_t kEntropyBlock = 16;  // rows whose sums are added up before the blocks' are, in their order

// All matrices are contiguous.
template <class T>
struct EntropyCall {
  const T* logits;     // (B, C); may be the gradient's place
  const int64_t* ids;  // (B,), or null where there are
  const T* targets;    // rows (B, C)
  double q, share;     // share: what the gradient is multiplied with
  int64_t batch, classes;
  bool slopes;                  // whether the gradient is wanted; else its place holds what is in between
  T *gradient, *probabilities;  // (B, C); probabilities may be null
  double* partial;              // (blocks, 2): the sums of the losses and of the probabilities of the rows' classes

  bool labelled(int64_t row) const {
    return ids != nullptr ? ids[row] != kUnlabelled : mass_of(targets + row * classes, classes) != 0.0;
  }
};

namespace entropy {
namespace plain {
#include "cross_entropy.inc"
}

DRCL_TARGET("avx2")
namespace avx2 {
#include "cross_entropy.inc"
}
DRCL_END_TARGET

template <class T>
auto loop_here() {
  return runs_avx2() ? avx2::entropies<T> : plain::entropies<T>;
}
}  // namespace entropy

}  // namespace drcl
