// One query's ranking by a group of threads: the GPU's form of cpu/average_precision.cpp.
//
// The work is a sequence of phases with a barrier after each. A phase is a function of the thread's index;
// within a phase threads write disjoint places, or add to one atomically. `each` runs a phase: on a GPU
// every thread of a block runs it once and waits, on a CPU a loop runs it for every index in any order, or
// real threads meet at a barrier, so that all of this is tested where there is no GPU.
//
//   mark      a bit for every relevant item, none for those left out
//   gather    their scores: the thresholds, in any order
//   sort      bitonic, by falling score and rising index: one order, whatever the gathering's
//   count     every other item is placed among the thresholds by binary search
//   rank      prefix sums of the counts
//   measure   average_precision.h

#pragma once

#include "average_precision.h"

#include <cmath>

namespace drcl::phases {

// The inputs of a call; shapes as in drcl/ops/average_precision.py.
template <class T>
struct Inputs {
  int64_t n, stride;
  const T *scores, *scale, *bias;
  const int64_t *left_out_offsets, *left_out;
  const int64_t *member_offsets, *members;
  const int64_t* offsets;
  const int32_t *items, *gains;
  const uint64_t* bits;
  int64_t words;
  bool average_ties;
};

// What one group of threads works in: `capacity` is a power of two, and no query has more relevant items.
template <class T>
struct Workspace {
  T* score;                               // (capacity,)
  int32_t *item, *below, *tied, *gain, *best;  // (capacity,), below and tied one more
  uint32_t *relevant, *left_out;          // (⌈n/32⌉,) bits
  int64_t* partial;                       // (threads + 1,)
  TieGroup* groups;                       // (capacity,) with averaged ties
  double* ideal;                          // (K,)
  int32_t* found;                         // (3,) how many thresholds, items left out, scores that are NaN
};

template <class T>
DRCL_HD inline T add(T* place, T value) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(place, value);
#else
  return __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
#endif
}

DRCL_HD inline uint32_t set_bit(uint32_t* words, int64_t i) {
  const uint32_t bit = 1u << (i & 31);
#if defined(__CUDA_ARCH__)
  return atomicOr(words + (i >> 5), bit) & bit;
#else
  return __atomic_fetch_or(words + (i >> 5), bit, __ATOMIC_RELAXED) & bit;
#endif
}

DRCL_HD inline int lowest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(word) - 1;
#else
  return __builtin_ctz(word);
#endif
}

DRCL_HD inline int64_t power_of_two(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

// No fused multiply-add: a product and a sum must round as on the CPU, or ties would differ.
DRCL_HD inline float rounded(float s, float scale, float bias) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(s, scale), bias);
#else
  return s * scale + bias;
#endif
}

DRCL_HD inline double rounded(double s, double scale, double bias) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(__dmul_rn(s, scale), bias);
#else
  return s * scale + bias;
#endif
}

template <class T>
DRCL_HD inline T score_of(const Inputs<T>& in, int64_t query, int64_t item) {
  const T s = in.scores[query * in.stride + item];
  if (in.scale == nullptr && in.bias == nullptr) return s;
  return rounded(s, in.scale ? in.scale[item] : T(1), in.bias ? in.bias[item] : T(0));
}

// How many thresholds come before (score, item): all that score higher, and with index order the equal
// ones of lower index.
template <class T>
DRCL_HD inline int32_t place(const Workspace<T>& w, int32_t found, T score, int32_t item, bool by_index) {
  int32_t begin = 0, count = found;
  while (count > 0) {
    const int32_t half = count / 2, middle = begin + half;
    const bool before =
        w.score[middle] > score || (by_index && w.score[middle] == score && w.item[middle] < item);
    begin = before ? middle + 1 : begin;
    count = before ? count - half - 1 : half;
  }
  return begin;
}

DRCL_HD inline bool has(const uint32_t* words, int64_t i) { return words[i >> 5] >> (i & 31) & 1; }

// Sorts the first `size` (a power of two) places; `before(i, j)` compares places, `swap(i, j)` swaps them.
template <class Each, class Before, class Swap>
DRCL_HD inline void bitonic(const Each& each, int64_t size, const Before& before, const Swap& swap) {
  for (int64_t run = 2; run <= size; run *= 2) {
    for (int64_t gap = run / 2; gap > 0; gap /= 2) {
      each([&](int64_t t, int64_t threads) {
        for (int64_t i = t; i < size; i += threads) {
          const int64_t j = i ^ gap;
          if (j <= i) continue;
          const bool rising = (i & run) == 0;
          if (rising ? before(j, i) : before(i, j)) swap(i, j);
        }
      });
    }
  }
}

// Ranks one query and writes its result row.
template <class T, class Each>
DRCL_HD inline void rank_query(const Inputs<T>& in, const Request& want, const Workspace<T>& w,
                               int64_t query, double* out, const Each& each) {
  const int64_t words = (in.n + 31) / 32;
  const int64_t first_member = in.member_offsets[query], last_member = in.member_offsets[query + 1];
  each([&](int64_t t, int64_t threads) {
    for (int64_t i = t; i < words; i += threads) w.relevant[i] = w.left_out[i] = 0;
    if (t == 0) w.found[0] = w.found[1] = w.found[2] = 0;
  });
  each([&](int64_t t, int64_t threads) {
    if (in.left_out_offsets != nullptr) {
      const int64_t end = in.left_out_offsets[query + 1];
      for (int64_t e = in.left_out_offsets[query] + t; e < end; e += threads) {
        if (set_bit(w.left_out, in.left_out[e]) == 0) add(w.found + 1, 1);
      }
    }
    for (int64_t m = first_member; m < last_member; ++m) {
      const int64_t list = in.members[m];
      if (in.bits != nullptr) {
        const uint32_t* bits = reinterpret_cast<const uint32_t*>(in.bits + list * in.words);
        for (int64_t i = t; i < words; i += threads) w.relevant[i] |= bits[i];  // each its own words
      } else {
        for (int64_t e = in.offsets[list] + t; e < in.offsets[list + 1]; e += threads) {
          set_bit(w.relevant, in.items[e]);
        }
      }
    }
  });
  each([&](int64_t t, int64_t threads) {
    for (int64_t i = t; i < words; i += threads) {
      for (uint32_t word = w.relevant[i] & ~w.left_out[i]; word != 0; word &= word - 1) {
        const int32_t item = static_cast<int32_t>(32 * i + lowest_bit(word));
        const int32_t to = add(w.found, 1);
        w.item[to] = item;
        w.score[to] = score_of(in, query, item);
      }
    }
  });
  const int32_t found = w.found[0];
  const int64_t ranked = in.n - w.found[1], size = power_of_two(found);
  each([&](int64_t t, int64_t threads) {
    for (int64_t j = t; j < size + 1; j += threads) w.below[j] = w.tied[j] = 0;
    for (int64_t j = found + t; j < size; j += threads) w.item[j] = INT32_MAX;  // sorted to the end
  });
  bitonic(
      each, size,
      [&](int64_t i, int64_t j) {
        if (w.item[i] == INT32_MAX || w.item[j] == INT32_MAX) return w.item[i] < w.item[j];
        return w.score[i] > w.score[j] || (w.score[i] == w.score[j] && w.item[i] < w.item[j]);
      },
      [&](int64_t i, int64_t j) {
        const T score = w.score[i];
        const int32_t item = w.item[i];
        w.score[i] = w.score[j];
        w.item[i] = w.item[j];
        w.score[j] = score;
        w.item[j] = item;
      });
  each([&](int64_t t, int64_t threads) {
    for (int64_t i = t; i < in.n; i += threads) {
      const T score = score_of(in, query, i);
      if (score != score && !has(w.left_out, i)) add(w.found + 2, 1);
      if (found == 0 || !(score >= w.score[found - 1])) continue;
      const int32_t item = static_cast<int32_t>(i);
      const int32_t g = place(w, found, score, item, !in.average_ties);
      if (has(w.left_out, i) || has(w.relevant, i)) continue;
      const bool tie = in.average_ties && g < found && w.score[g] == score;
      add((tie ? w.tied : w.below) + g, 1);
    }
  });
  // Prefix sums: each thread its own stretch, one thread over the stretches, each thread again.
  each([&](int64_t t, int64_t threads) {
    const int64_t step = (found + threads - 1) / threads;
    int64_t sum = 0;
    for (int64_t j = t * step; j < (t + 1) * step && j < found; ++j) sum += w.below[j] + w.tied[j];
    w.partial[t] = sum;
  });
  each([&](int64_t t, int64_t threads) {
    if (t != 0) return;
    int64_t before = 0;
    for (int64_t i = 0; i < threads; ++i) {
      const int64_t sum = w.partial[i];
      w.partial[i] = before;
      before += sum;
    }
  });
  each([&](int64_t t, int64_t threads) {
    const int64_t step = (found + threads - 1) / threads;
    int64_t before = w.partial[t];
    for (int64_t j = t * step; j < (t + 1) * step && j < found; ++j) {
      before += w.below[j];
      w.below[j] = static_cast<int32_t>(before + j + 1);  // the rank; ties: of its group's first
      before += w.tied[j];
    }
    if (want.discounts == nullptr) return;
    for (int64_t j = t; j < found; j += threads) {
      const int32_t item = w.item[j];
      int32_t gain = 0;
      for (int64_t m = first_member; m < last_member; ++m) {
        const int64_t list = in.members[m];
        if (in.bits != nullptr) {
          gain += static_cast<int32_t>(in.bits[list * in.words + (item >> 6)] >> (item & 63) & 1);
          continue;
        }
        int64_t begin = in.offsets[list], count = in.offsets[list + 1] - begin;
        while (count > 0) {
          const int64_t half = count / 2;
          const bool less = in.items[begin + half] < item;
          begin = less ? begin + half + 1 : begin;
          count = less ? count - half - 1 : half;
        }
        if (begin < in.offsets[list + 1] && in.items[begin] == item) gain += in.gains ? in.gains[begin] : 1;
      }
      w.gain[j] = w.best[j] = gain;
    }
    for (int64_t j = found + t; j < size; j += threads) w.best[j] = 0;
  });
  if (want.discounts != nullptr) {
    bitonic(
        each, size, [&](int64_t i, int64_t j) { return w.best[i] > w.best[j]; },
        [&](int64_t i, int64_t j) {
          const int32_t gain = w.best[i];
          w.best[i] = w.best[j];
          w.best[j] = gain;
        });
  }
  each([&](int64_t t, int64_t) {
    if (t != 0) return;
    if (w.found[2] != 0) {  // the caller looks for this
      out[0] = NAN;
      return;
    }
    double dcg = 0.0;
    int64_t j = 0;
    for (int64_t c = 0; c < want.num_cutoffs; ++c) {
      int64_t k = want.cutoffs[c] < ranked ? want.cutoffs[c] : ranked;
      k = found < k ? found : k;
      if (want.discounts != nullptr) {
        for (; j < k; ++j) dcg += w.best[j] * want.discounts[j];
      }
      w.ideal[c] = dcg;
    }
    if (!in.average_ties) {
      int64_t hits = 0;
      while (hits < found && w.below[hits] <= want.depth) ++hits;
      measure(w.below, want.discounts ? w.gain : nullptr, hits, found, ranked, w.ideal, want, out);
      return;
    }
    int64_t groups = 0;
    for (int64_t begin = 0, end; begin < found; begin = end) {
      int64_t gain = 0;
      for (end = begin; end < found && w.score[end] == w.score[begin]; ++end) {
        if (want.discounts != nullptr) gain += w.gain[end];
      }
      const TieGroup group{w.below[begin] - 1, end - begin + w.tied[begin], end - begin, gain};
      if (group.above < want.depth) w.groups[groups++] = group;
    }
    measure_expected(w.groups, groups, found, ranked, w.ideal, want, out);
  });
}

}  // namespace drcl::phases
