// The products of a prior similarity, free of torch, for each instruction set. A block of rows goes through all of
// them, and X is read once from memory; the weights are copied into panels, in the order in which they are read.

#pragma once

#include "reversible_consistency.h"

namespace drcl::similarity {

constexpr int64_t kRows = 2 * kEntropyBlock;  // of a block
constexpr int64_t kDepth = 256;               // entries of a row whose products are added up before those sums are

template <class T>
struct Call {
  static constexpr int64_t kLanes = Vector<T>::lanes, kPanel = 3 * kLanes;
  const T *features, *weight;  // (B, D), (D, C)
  int64_t batch, width, classes;
  T scale;
  bool by_x, by_w;
  T* slopes;                    // (B, C): the logits, and then the loss's gradient by them
  T *by_features, *by_weight;   // (B, D), (D, C)
  T *columns, *rows;            // panels of W, filled up with zeros: one after the other of its columns (D, kPanel), the
                                // last one of as few vectors as will do, and of its rows, transposed (C, kPanel)
  T* partial;                   // (parts, panels of rows, C, kPanel): sums over the rows of each part of the batch

  int64_t padded() const { return (classes + kLanes - 1) / kLanes * kLanes; }
  int64_t panels() const { return (width + kPanel - 1) / kPanel; }
  int64_t sums() const { return panels() * classes * kPanel; }
};

// Into how many parts the batch is divided, whatever the number of threads. Each has many more rows than there are
// classes, or to add up the parts' sums would take as long as to read the rows; two are made sooner, as one part is
// work for one thread.
inline int64_t parts_of(int64_t batch, int64_t classes) {
  int64_t parts = 1;
  const int64_t rows = std::max<int64_t>(4 * kRows, 2 * classes);
  while (parts < 64 && batch / (2 * parts) >= (parts == 1 ? rows / 2 : rows)) parts *= 2;
  return parts;
}

template <class T>
struct Products {
  void (*pack_columns)(const Call<T>&);
  void (*pack_rows)(const Call<T>&, int64_t panel);
  void (*logits)(const Call<T>&, int64_t first, int64_t count, T* room);     // room: (kRows, padded)
  void (*gradients)(const Call<T>&, int64_t first, int64_t count, T* part);  // part: one of `partial`
  void (*total)(const Call<T>&, int64_t parts, int64_t panel);
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
  if (runs_avx2()) return avx2::products<T>();
#endif
  return plain::products<T>();
}

}  // namespace drcl::similarity
