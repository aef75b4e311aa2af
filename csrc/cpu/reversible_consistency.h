// The loss's stages by rows, free of torch: what they read and write, and their loops for each instruction set.
// drcl/eager/reversible_consistency.py has the formulas, the shapes and the reasons, under the same names.

#pragma once

#include "cross_entropy.h"
#include "fused.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

namespace drcl::loss {

constexpr int64_t kTogether = 4;  // rows that go through a loop at once: each part of Q is loaded once for them
constexpr int64_t kBlock = 16;    // rows whose part of a sum is added up before the blocks' are, in their order
constexpr int64_t kMaxK = 256;    // of the prior's space; where that is the faster: drcl/native
constexpr int64_t kSums = 3;      // over rows: of GCE and |r − x|², and the number of labelled rows

// What samples are labelled with.
template <class T>
struct Labels {
  const int64_t* ids;          // (B,), or null where there are
  const T* targets;            // rows (B, C)
  const int64_t* permutation;  // (B,), or null
  T lam;
  int64_t classes;

  bool has_rows() const { return ids == nullptr || permutation != nullptr; }  // not ids alone
};

// All matrices are contiguous; K < D, and Q is held by columns, (K, D).
template <class T>
struct RowsCall : Labels<T> {
  const T* features;                 // (B, D)
  const T *basis, *recast, *weight;  // (K, D), (C, K), (K, C)
  double q, temperature;
  int64_t batch, width, k;
  bool slopes;  // whether the label gradient is wanted
  T *outside, *coordinates, *label_gradient, *lengths, *recast_lengths;
  double* partial;  // (blocks, kSums)
};

template <class T>
struct DifferencesCall {
  const T *outside, *coordinates;  // (B, D), (B, 3K)
  const T* by_column;              // H transposed: (3K, B)
  const T *lengths, *recast_lengths;
  bool converging;  // Δ is smaller than V
  bool multiply;    // FFᵀ is formed here too; else its upper triangle is in M
  int64_t batch, width, k;
  T *m, *z;  // (B, B)
};

// J_L, J_D and J_MSE.
template <class T>
std::vector<T> parts_of(const T* sums, double similarity, int64_t width) {
  const double count = std::max(static_cast<double>(sums[2]), 1.0);
  return {static_cast<T>(static_cast<double>(sums[0]) / count), static_cast<T>(similarity * 4 / (count * count)),
          static_cast<T>(static_cast<double>(sums[1]) / (count * static_cast<double>(width)))};
}

// What the gradients of J_L, J_D and J_MSE are multiplied with.
struct Factors {
  double label, similarity, squared;
};

template <class T>
struct GradientCall {
  const T *outside, *coordinates, *label_gradient, *lengths, *recast_lengths;
  const T *m, *z, *by_column;  // for B < D, else null and
  const T *by_u, *vv, *uu;     // (K, K)
  const T* cross;              // (2K, D)
  const T* factors;            // [cross; Qᵀ] (3K, D), or for B < D Qᵀ (K, D)
  bool converging, multiply;   // multiply: MF is formed here too
  Factors by;
  int64_t batch, width, k;
  T* gradient;  // (B, D): holds MF or F·FᵀF, unless that is formed here
};

// What a thread works in, each part at the start of a cache line. Rows of logits lie an odd number of tiles, of 1 KiB,
// apart: lines of one tile in all of them then do not drive each other out of the nearest cache.
template <class T>
struct Scratch {
  static constexpr int64_t kPanel = 6 * Vector<T>::lanes;  // columns of the weights that are copied at once
  static constexpr int64_t kTile = 32 * Vector<T>::lanes;  // classes whose part of a sum is added up at once
  int64_t padded;
  std::unique_ptr<T[]> memory;
  T *scaled, *panel, *lanes;  // rows by the prior's coordinates (kBlock, K); (K, kPanel); sums (kBlock, K, lanes)
  T *logits, *row;            // a block's, and then their gradient (kBlock, padded); one row of them
  T *y, *mate;                // rows of labels (C,), where there are such

  explicit Scratch(const RowsCall<T>& c) : padded(((c.classes + kTile - 1) / kTile | 1) * kTile) {
    constexpr int64_t kLanes = Vector<T>::lanes, kLine = 2 * kLanes;
    const int64_t labels = c.has_rows() ? c.classes : 0;
    const int64_t sizes[] = {kBlock * c.k,    c.k * kPanel, kBlock * c.k * kLanes,
                             kBlock * padded, padded,       labels, labels};
    T** const parts[] = {&scaled, &panel, &lanes, &logits, &row, &y, &mate};
    int64_t all = kLine;
    for (const int64_t size : sizes) all += (size + kLine - 1) / kLine * kLine;
    memory = std::make_unique_for_overwrite<T[]>(all);
    const auto offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.get()) / sizeof(T) % kLine);
    T* next = memory.get() + (kLine - offset) % kLine;
    for (size_t i = 0; i < std::size(sizes); ++i) {
      *parts[i] = next;
      next += (sizes[i] + kLine - 1) / kLine * kLine;
    }
  }
};

template <class T>
struct Loops {
  void (*rows)(const RowsCall<T>&, int64_t block, const Scratch<T>&);
  void (*differences)(const DifferencesCall<T>&, int64_t block);
  void (*mirror)(const DifferencesCall<T>&, int64_t block);
  void (*gradient)(const GradientCall<T>&, int64_t block);
  void (*inner)(const T* h, int64_t count, int64_t columns, double* wide, double* sums);
  double (*sum_of_squares)(const T* values, int64_t n);
};

// lerp as torch computes it.
template <class T>
T mixed(T from, T to, T weight) {
  return weight < T(0.5) ? from + weight * (to - from) : to - (to - from) * (T(1) - weight);
}

// Columns of doubles as whole vectors.
inline int64_t padded_to_vectors(int64_t columns) {
  constexpr int64_t kLanes = Vector<double>::lanes;
  return (columns + kLanes - 1) / kLanes * kLanes;
}

inline int64_t blocks_of(int64_t rows) { return (rows + kBlock - 1) / kBlock; }

namespace plain {
using namespace fused::plain;
#include "reversible_consistency.inc"
}

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
namespace avx2 {
using namespace fused::avx2;
#include "reversible_consistency.inc"
}
DRCL_END_TARGET
#endif

// Every instruction set finds the same bits: products are fused with their sums in all of them.
template <class T>
Loops<T> loops_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return avx2::loops<T>();
#endif
  return plain::loops<T>();
}

}  // namespace drcl::loss
