// One query's ranking by a group of threads: the GPU's form of cpu/average_precision.cpp.
//
// The work is a sequence of phases with a barrier after each. A phase is a function of the thread's index;
// within a phase threads write disjoint places, or add to one atomically. `each` runs a phase: on a GPU
// every thread of a block runs it once and waits, on a CPU a loop runs it for every index in any order, or
// real threads meet at a barrier, so that all of this is tested where there is no GPU.
//
//   mark      a bit for every relevant item of several lists, and for every item left out
//   gather    the relevant items' keys, which hold score and item, in any order
//   table     equal steps over the middle of their scores, one for each key
//   sort      by step, then within each step: one order, whatever the gathering's
//   count     every item, also a relevant one, is placed among the keys of its step by binary search
//   rank      running sums of the counts: a relevant item counts itself
//   divide    the precisions at the relevant items, all at once
//   measure   one thread adds them up in order: average_precision.h

#pragma once

#include "average_precision.h"

#include <cmath>
#include <cstring>

namespace drcl::phases {

// A score and an item in one number that rises as a ranking goes on: by falling score, by rising item.
// -0 is 0, as it compares. NaN gets a place like any number, in a row that is refused in the end.
template <class T>
struct Key;

template <>
struct Key<float> {
  uint64_t both;

  DRCL_HD static Key of(float score, int32_t item) {
    score += 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    bits ^= bits >> 31 ? 0 : 0x7fffffffu;
    return {static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(item)};
  }
  DRCL_HD float score() const {
    uint32_t bits = static_cast<uint32_t>(both >> 32);
    bits ^= bits >> 31 ? 0 : 0x7fffffffu;
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
  }
  DRCL_HD int32_t item() const { return static_cast<int32_t>(both); }
  DRCL_HD bool operator<(const Key& other) const { return both < other.both; }
  DRCL_HD bool ties(const Key& other) const { return both >> 32 == other.both >> 32; }
};

template <>
struct Key<double> {
  uint64_t falling;
  int32_t number;

  DRCL_HD static Key of(double score, int32_t item) {
    score += 0.0;
    uint64_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    return {bits ^ (bits >> 63 ? 0 : 0x7fffffffffffffffu), item};
  }
  DRCL_HD double score() const {
    const uint64_t bits = falling ^ (falling >> 63 ? 0 : 0x7fffffffffffffffu);
    double score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
  }
  DRCL_HD int32_t item() const { return number; }
  DRCL_HD bool operator<(const Key& other) const {
    return falling < other.falling || (falling == other.falling && number < other.number);
  }
  DRCL_HD bool ties(const Key& other) const { return falling == other.falling; }
};

// What one group of threads works in; no query has more than `capacity` relevant items. Some arrays may lie
// in the place of another one that is done with: average_precision_workspace.h.
template <class T>
struct Workspace {
  Key<T> *keys, *other;           // (capacity,)
  int32_t* ends;                  // (capacity + 1,) the keys of step b end before ends[b + 1]
  int32_t* below;                 // (capacity + 1,) items before each key and after the one before; ranks
  int32_t* tied;                  // (capacity + 1,) items of each key's score, with averaged ties
  double* precision;              // (capacity,)
  int32_t *gain, *best;           // (capacity,) with gains: of each key, and falling
  double* gained;                 // (capacity,) with gains
  int32_t* partial;               // (threads,)
  uint32_t *relevant, *excluded;  // (⌈n/32⌉,) bits
  TieGroup* groups;               // (capacity,) with averaged ties
  double* ideal;                  // (K,)
  Scale<T>* scale;                // (1,)
  int32_t* found;                 // (4,) how many keys, items left out, NaN scores, keys in long steps
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

// No fused multiply-add: a product and a sum must round as on the CPU, or ties would differ.
template <class T>
DRCL_HD inline T rounded(T s, T scale, T bias) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return __fadd_rn(__fmul_rn(s, scale), bias);
  } else {
    return __dadd_rn(__dmul_rn(s, scale), bias);
  }
#else
  return s * scale + bias;
#endif
}

template <class T>
DRCL_HD inline T score_of(const Inputs<T>& in, const T* row, int64_t item) {
  const T s = row[item];
  if (in.scale == nullptr && in.bias == nullptr) return s;
  return rounded(s, in.scale ? in.scale[item] : T(1), in.bias ? in.bias[item] : T(0));
}

// Several items' scores at once: all their loads come first, so that they wait together.
constexpr int32_t kAtOnce = 4;

template <class T>
DRCL_HD inline void scores_of(const Inputs<T>& in, const T* row, const uint32_t (&items)[kAtOnce],
                              T (&scores)[kAtOnce]) {
  T scale[kAtOnce], bias[kAtOnce];
  DRCL_UNROLL(kAtOnce)
  for (int32_t k = 0; k < kAtOnce; ++k) scores[k] = row[items[k]];
  if (in.scale == nullptr && in.bias == nullptr) return;
  DRCL_UNROLL(kAtOnce)
  for (int32_t k = 0; k < kAtOnce; ++k) scale[k] = in.scale != nullptr ? in.scale[items[k]] : T(1);
  DRCL_UNROLL(kAtOnce)
  for (int32_t k = 0; k < kAtOnce; ++k) bias[k] = in.bias != nullptr ? in.bias[items[k]] : T(0);
  DRCL_UNROLL(kAtOnce)
  for (int32_t k = 0; k < kAtOnce; ++k) scores[k] = rounded(scores[k], scale[k], bias[k]);
}

DRCL_HD inline bool has(const uint32_t* words, int64_t i) { return words[i >> 5] >> (i & 31) & 1; }

// The first of the places begin..end - 1 whose key is not before `key`; end if there is none.
template <class T>
DRCL_HD inline int32_t place(const Key<T>* keys, int32_t begin, int32_t end, const Key<T>& key) {
  int32_t count = end - begin;
  while (count > 0) {
    const int32_t half = count / 2;
    const bool before = keys[begin + half] < key;
    begin = before ? begin + half + 1 : begin;
    count = before ? count - half - 1 : half;
  }
  return begin;
}

// Equal steps over three standard deviations about the mean, as on the CPU, of a sample: a few far scores
// must not leave the crowd in a handful of steps.
template <class T>
DRCL_HD inline Scale<T> table_of(const Key<T>* keys, int32_t found, int32_t steps) {
  constexpr int32_t kSample = 64;
  const int32_t stride = (found + kSample - 1) / kSample;
  const T centre = keys[0].score();
  T sum = 0, square = 0, count = 0;
  for (int32_t j = 0; j < found; j += stride) {
    const T d = keys[j].score() - centre;
    sum += d;
    square += d * d;
    count += 1;
  }
  const T mean = sum / count, variance = square / count - mean * mean;
  const T reach = 3 * std::sqrt(variance > 0 ? variance : T(0));
  return Scale<T>::over(centre + mean - reach, centre + mean + reach, steps);
}

// Whole numbers up to the number of steps must be exact in float32.
constexpr int32_t kMostSteps = 1 << 20;

// A step of more keys than this is searched as well as any other, but not sorted by comparing all with all.
constexpr int32_t kLongStep = 32;

// A thread's stretch of an array for running sums. Its length is odd, so that threads that read their
// stretches side by side meet in no bank of shared memory.
struct Stretch {
  int32_t begin, end;

  DRCL_HD Stretch(int32_t t, int32_t threads, int32_t count) {
    const int32_t length = ((count + threads - 1) / threads) | 1;
    begin = static_cast<int32_t>(static_cast<int64_t>(t) * length < count ? t * length : count);
    end = length < count - begin ? begin + length : count;
  }
};

// Sum of what the threads before this one have left in `partial`.
DRCL_HD inline int32_t sum_before(const int32_t* partial, int32_t t) {
  int32_t sum = 0;
  for (int32_t i = 0; i < t; ++i) sum += partial[i];
  return sum;
}

// Sorts `count` places, for any count; `before(i, j)` compares places, `swap(i, j)` swaps them. A bitonic
// network whose runs are merged from their ends, so that every comparison puts the first before the last:
// what would lie beyond `count` stays there, and is neither read nor written.
template <class Each, class Before, class Swap>
DRCL_HD inline void bitonic(const Each& each, int32_t count, const Before& before, const Swap& swap) {
  for (int64_t run = 2; run < 2 * static_cast<int64_t>(count); run *= 2) {
    for (int64_t gap = run / 2; gap > 0; gap /= 2) {
      each([&](int32_t t, int32_t threads) {
        for (int64_t pair = t;; pair += threads) {
          const int64_t i = 2 * pair - (pair & (gap - 1));
          const int64_t j = gap == run / 2 ? i ^ (run - 1) : i + gap;
          if (i >= count) break;
          if (j < count && before(j, i)) swap(i, j);
        }
      });
    }
  }
}

// Ranks one query and writes its result row. Averaged ties are a form of their own: what only they need
// would cost the other registers.
template <bool kAverageTies, class T, class Each>
DRCL_HD inline void rank_query(const Inputs<T>& in, const Request& want, const Workspace<T>& w,
                               int64_t query, double* out, const Each& each) {
  const int32_t words = static_cast<int32_t>((in.n + 31) / 32);
  const int64_t first_member = in.member_offsets[query], last_member = in.member_offsets[query + 1];
  const T* const row = in.scores + query * in.stride;
  const bool excludes = in.excluded_offsets != nullptr;
  const bool one_list = in.bits == nullptr && last_member - first_member == 1;
  each([&](int32_t t, int32_t threads) {
    for (int32_t i = t; i < 4; i += threads) w.found[i] = 0;
    for (int32_t i = t; i < words; i += threads) {
      if (!one_list) w.relevant[i] = 0;
      if (excludes) w.excluded[i] = 0;
    }
  });
  if (excludes || !one_list) {
    each([&](int32_t t, int32_t threads) {
      if (excludes) {
        const int64_t end = in.excluded_offsets[query + 1];
        for (int64_t e = in.excluded_offsets[query] + t; e < end; e += threads) {
          if (set_bit(w.excluded, in.excluded[e]) == 0) add(w.found + 1, 1);
        }
      }
      for (int64_t m = first_member; m < last_member && !one_list; ++m) {
        const int64_t list = in.members[m];
        if (in.bits != nullptr) {
          const uint32_t* bits = reinterpret_cast<const uint32_t*>(in.bits + list * in.words);
          for (int32_t i = t; i < words; i += threads) w.relevant[i] |= bits[i];  // each its own words
        } else {
          for (int64_t e = in.offsets[list] + t; e < in.offsets[list + 1]; e += threads) {
            set_bit(w.relevant, in.items[e]);
          }
        }
      }
    });
  }
  each([&](int32_t t, int32_t threads) {
    if (!one_list) {
      for (int32_t i = t; i < words; i += threads) {
        for (uint32_t word = w.relevant[i] & ~(excludes ? w.excluded[i] : 0); word != 0; word &= word - 1) {
          const int32_t item = 32 * i + lowest_bit(word);
          w.keys[add(w.found, 1)] = Key<T>::of(score_of(in, row, item), item);
        }
      }
      return;
    }
    const int64_t list = in.members[first_member];
    const int32_t* items = in.items + in.offsets[list];
    const int32_t count = static_cast<int32_t>(in.offsets[list + 1] - in.offsets[list]);
    for (int64_t start = t; start < count; start += kAtOnce * threads) {
      uint32_t mine[kAtOnce];
      T scores[kAtOnce];
      DRCL_UNROLL(kAtOnce)
      for (int32_t k = 0; k < kAtOnce; ++k) {
        const int64_t e = start + k * threads;
        mine[k] = items[e < count ? e : count - 1];
      }
      scores_of(in, row, mine, scores);
      DRCL_UNROLL(kAtOnce)
      for (int32_t k = 0; k < kAtOnce; ++k) {
        const int64_t e = start + k * threads;
        if (e >= count || (excludes && has(w.excluded, mine[k]))) continue;
        w.keys[excludes ? add(w.found, 1) : e] = Key<T>::of(scores[k], static_cast<int32_t>(mine[k]));
      }
    }
    if (t == 0 && !excludes) w.found[0] = count;
  });
  const int32_t found = w.found[0], ranked = static_cast<int32_t>(in.n) - w.found[1];

  const int32_t steps = found < kMostSteps ? found : kMostSteps;

  // The table, and the keys sorted by their steps: counts of keys, running sums, each key to its step.
  each([&](int32_t t, int32_t threads) {
    for (int32_t b = t; b <= steps; b += threads) w.ends[b] = 0;
    if (t == threads - 1) *w.scale = found > 0 ? table_of(w.keys, found, steps) : Scale<T>{};
  });
  const Scale<T> scale = *w.scale;
  each([&](int32_t t, int32_t threads) {
    for (int32_t j = t; j < found; j += threads) {
      if (add(w.ends + 1 + scale(w.keys[j].score()), 1) == kLongStep) add(w.found + 3, 1);
    }
  });
  each([&](int32_t t, int32_t threads) {
    const Stretch mine(t, threads, steps);
    int32_t sum = 0;
    for (int32_t b = mine.begin; b < mine.end; ++b) sum += w.ends[b + 1];
    w.partial[t] = sum;
  });
  each([&](int32_t t, int32_t threads) {  // ends[b + 1]: where the next key of step b goes
    const Stretch mine(t, threads, steps);
    int32_t before = sum_before(w.partial, t);
    for (int32_t b = mine.begin; b < mine.end; ++b) {
      const int32_t count = w.ends[b + 1];
      w.ends[b + 1] = before;
      before += count;
    }
  });
  each([&](int32_t t, int32_t threads) {
    for (int32_t j = t; j < found; j += threads) {
      const Key<T> key = w.keys[j];
      w.other[add(w.ends + 1 + scale(key.score()), 1)] = key;
    }
  });
  const bool by_step = w.found[3] == 0;
  each([&](int32_t t, int32_t threads) {
    for (int32_t j = t; j < found; j += threads) {
      const Key<T> key = w.other[j];
      int32_t to = j;
      if (by_step) {
        const int32_t b = scale(key.score()), end = w.ends[b + 1];
        to = w.ends[b];
        for (int32_t i = to; i < end; ++i) to += w.other[i] < key;
      }
      w.keys[to] = key;
    }
  });
  if (!by_step) {
    bitonic(
        each, found, [&](int64_t i, int64_t j) { return w.keys[i] < w.keys[j]; },
        [&](int64_t i, int64_t j) {
          const Key<T> key = w.keys[i];
          w.keys[i] = w.keys[j];
          w.keys[j] = key;
        });
  }

  each([&](int32_t t, int32_t threads) {
    for (int32_t j = t; j <= found; j += threads) {
      w.below[j] = 0;
      if (kAverageTies) w.tied[j] = 0;
    }
  });
  each([&](int32_t t, int32_t threads) {
    const T lowest = found > 0 ? w.keys[found - 1].score() : T(0);
    const uint32_t n = static_cast<uint32_t>(in.n);
    for (uint32_t start = t; start < n; start += kAtOnce * threads) {
      uint32_t items[kAtOnce];
      T scores[kAtOnce];
      DRCL_UNROLL(kAtOnce)
      for (int32_t k = 0; k < kAtOnce; ++k) {
        const uint32_t i = start + k * threads;
        items[k] = i < n ? i : n - 1;
      }
      scores_of(in, row, items, scores);
      DRCL_UNROLL(kAtOnce)
      for (int32_t k = 0; k < kAtOnce; ++k) {
        const uint32_t i = start + k * threads;
        const T score = scores[k];
        if (i >= n || (excludes && has(w.excluded, i))) continue;
        if (score != score) add(w.found + 2, 1);
        if (found == 0 || !(score >= lowest)) continue;
        const Key<T> key = Key<T>::of(score, kAverageTies ? 0 : static_cast<int32_t>(i));
        const int32_t b = scale(score), end = w.ends[b + 1];
        const int32_t g = place(w.keys, w.ends[b], end, key);
        const bool tie = kAverageTies && g < end && w.keys[g].ties(key);
        add((tie ? w.tied : w.below) + g, 1);
      }
    }
  });
  each([&](int32_t t, int32_t threads) {
    const Stretch mine(t, threads, found);
    int32_t sum = 0;
    for (int32_t j = mine.begin; j < mine.end; ++j) {
      sum += w.below[j];
      if (kAverageTies) sum += w.tied[j];
    }
    w.partial[t] = sum;
  });
  each([&](int32_t t, int32_t threads) {
    const Stretch mine(t, threads, found);
    int32_t before = sum_before(w.partial, t);
    for (int32_t j = mine.begin; j < mine.end; ++j) {
      before += w.below[j];
      w.below[j] = before;  // the rank; with averaged ties: how many items score higher
      if (kAverageTies) before += w.tied[j];
    }
    if (!want.needs_gains()) return;
    for (int32_t j = t; j < found; j += threads) {
      const int32_t item = w.keys[j].item();
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
  });
  if (want.discounts != nullptr) {
    bitonic(
        each, found, [&](int64_t i, int64_t j) { return w.best[i] > w.best[j]; },
        [&](int64_t i, int64_t j) {
          const int32_t gain = w.best[i];
          w.best[i] = w.best[j];
          w.best[j] = gain;
        });
  }
  if (!kAverageTies) {
    each([&](int32_t t, int32_t threads) {
      if (w.found[2] != 0) return;  // what is NaN has not been counted: the ranks are none
      for (int32_t j = t; j < found && w.below[j] <= want.depth; j += threads) {
        w.precision[j] = precision_at(w.below, j);
        if (want.discounts != nullptr) w.gained[j] = discounted(w.below, w.gain, want.discounts, j);
      }
      const Row columns(out, want);
      for (int64_t j = t; j < want.ranks; j += threads) {
        const bool ranked = j < found && w.below[j] <= want.depth;
        const double rank = ranked ? static_cast<double>(w.below[j]) : INFINITY;
        write_rank(columns, want, j, rank, rank, ranked && want.gains ? w.gain[j] : 0);
      }
    });
  }
  each([&](int32_t t, int32_t) {
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
    if constexpr (!kAverageTies) {
      measure(
          w.below, [&](int64_t i) { return w.precision[i]; }, [&](int64_t i) { return w.gained[i]; },
          ranks_within(w.below, found, want.depth), found, ranked, w.ideal, want, out);
    } else {
      const Row columns(out, want);
      int64_t groups = 0, written = 0;
      for (int32_t begin = 0, end; begin < found; begin = end) {
        int64_t gain = 0;
        for (end = begin; end < found && w.keys[end].ties(w.keys[begin]); ++end) {
          if (want.discounts != nullptr) gain += w.gain[end];
        }
        const TieGroup group{w.below[begin], w.tied[begin], end - begin, gain};
        if (group.above >= want.depth) continue;
        w.groups[groups++] = group;
        for (int32_t i = begin; i < end && i < want.ranks; ++i, ++written) {
          write_rank(columns, want, i, group.first(), group.last(), want.gains ? w.gain[i] : 0);
        }
      }
      for (; written < want.ranks; ++written) write_rank(columns, want, written, INFINITY, INFINITY, 0);
      measure_expected(w.groups, groups, found, ranked, w.ideal, want, out);
    }
  });
}

}  // namespace drcl::phases
