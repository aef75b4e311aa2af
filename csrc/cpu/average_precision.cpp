// drcl::average_precision on a CPU: exact ranks of the relevant items without sorting the gallery.
//
// The rank of a relevant item is one more than the number of items before it. So only the scores of the
// relevant items, the thresholds, are sorted; every other score is placed among them and counted. The
// score's range is cut into equal steps, several for each threshold: an item in a step without thresholds
// adds one to the step's count, and sums over the steps place them all. The few that share their step
// with a threshold are compared with it, or searched for among several, by (score, index).
// Scores below the lowest threshold are dropped by a vector compare. The work of a query is the work of
// one thread, in counts of whole items, so the result does not depend on threads or blocks.

#include "average_precision_arguments.h"
#include "intrinsics.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

namespace drcl {
namespace {

constexpr int64_t kChunk = 1024;
// More steps find more items a step without thresholds; fewer stay nearer to the core.
constexpr int64_t kStepsPerThreshold = 8;
inline int64_t num_steps(int64_t thresholds) {
  return std::clamp<int64_t>((kStepsPerThreshold * thresholds + 15) / 16 * 16, 64, 1 << 17);
}

constexpr int32_t kHolds = std::numeric_limits<int32_t>::min();  // the sign bit of a step's count

// The scores' extent, and mean and deviation; sums in any order will do.
template <class T>
struct Spread {
  T lowest, highest, mean, deviation;
};

template <class T>
struct Loops;

// The relevant items of a query in ranking order: by falling score, ties by rising index; and a table
// over equal steps of the score's range. Step b holds thresholds [ends[b], ends[b + 1]).
template <class T>
struct Thresholds {
  std::vector<T> score;
  std::vector<int32_t> item, step;
  std::vector<int32_t> ends;
  std::vector<int32_t> counts;  // by step: items placed so far, with the sign bit where it holds thresholds
  Scale<T> scale;
  T lowest = 0;

  int64_t size() const { return static_cast<int64_t>(score.size()); }

  // Sorts the items, given in rising index, and builds the table.
  void build(const Loops<T>& loops);

  // Counts an item of a step with thresholds at the first of them that it is before; with `tied`, one
  // that equals thresholds at the first of these.
  void place(T value, int32_t index, int32_t b, int32_t* below, int32_t* tied) const {
    const T* s = score.data();
    int32_t g = ends[b], count = ends[b + 1] - g;
    while (count > 0) {
      const int32_t half = count / 2, middle = g + half;
      const bool before = s[middle] > value ||
                          (tied == nullptr && s[middle] == value && item[middle] < index);
      g = before ? middle + 1 : g;
      count = before ? count - half - 1 : half;
    }
    if (tied != nullptr && g < ends[b + 1] && s[g] == value) {
      tied[g] += 1;
    } else {
      below[g] += 1;
    }
  }

 private:
  void sort_long_steps(int32_t longest);

  std::vector<T> unsorted_;
  std::vector<int32_t> unsorted_item_, unsorted_step_;
};

// The loops of placing.inc, as they are compiled for one instruction set.
template <class T>
struct Loops {
  bool (*load_row)(const T*, const T*, const T*, T*, int64_t);
  void (*group_maxima)(const T*, int64_t, T*, int64_t);
  int64_t (*count_above)(const T*, int64_t, T);
  Spread<T> (*spread)(const T*, int64_t);
  void (*step_of)(const T*, int64_t, const Scale<T>&, int32_t*);
  int32_t (*open_steps)(int32_t*, int64_t, int32_t*);
  void (*place_row)(const T*, int64_t, Thresholds<T>&, int32_t*, int32_t*);
};

namespace plain {
#include "placing.inc"
}

#if defined(DRCL_X86)
// The places of the bits that are set in a byte, in order.
struct SetBits {
  uint8_t of[256][8];

  constexpr SetBits() : of{} {
    for (int byte = 0; byte < 256; ++byte) {
      for (int bit = 0, at = 0; bit < 8; ++bit) {
        if (byte >> bit & 1) of[byte][at++] = static_cast<uint8_t>(bit);
      }
    }
  }
};
constexpr SetBits kSetBits;
#define DRCL_AVX2
#endif
DRCL_TARGET("avx2,fma")
namespace avx2 {
#include "placing.inc"
}
DRCL_END_TARGET
#undef DRCL_AVX2
#if defined(DRCL_X86)
#if defined(__clang__)
DRCL_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma")
#else
DRCL_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif
#define DRCL_AVX512
namespace avx512 {
#include "placing.inc"
}
#undef DRCL_AVX512
DRCL_END_TARGET
#endif

// The loops for the instruction set of this processor.
template <class T>
Loops<T> loops_here() {
#if defined(DRCL_X86)
  if (runs_avx512()) return avx512::loops<T>();
#endif
  return runs_avx2() ? avx2::loops<T>() : plain::loops<T>();
}

template <class T>
void Thresholds<T>::build(const Loops<T>& loops) {
  const int64_t n = size();
  const Spread<T> spread = loops.spread(score.data(), n);
  lowest = spread.lowest;
  // The table covers three standard deviations: a few far thresholds (a query's own duplicate) must
  // not leave the crowd in a handful of steps. What lies outside falls in the first or last step.
  const T top = std::min(spread.highest, spread.mean + 3 * spread.deviation);
  const T bottom = std::max(spread.lowest, spread.mean - 3 * spread.deviation);
  const int64_t steps = num_steps(n);
  scale = Scale<T>::over(bottom, top, steps);

  // A counting sort by step, then each step on its own: mostly one threshold or none.
  unsorted_.swap(score);
  unsorted_item_.swap(item);
  unsorted_step_.resize(n);
  loops.step_of(unsorted_.data(), n, scale, unsorted_step_.data());
  counts.assign(steps, 0);
  for (int64_t j = 0; j < n; ++j) counts[unsorted_step_[j]] += 1;
  // While the sort runs, ends[b + 1] is where the next threshold of step b goes.
  ends.resize(steps + 1);
  ends[0] = 0;
  const int32_t longest = loops.open_steps(counts.data(), steps, ends.data() + 1);
  score.resize(n);
  item.resize(n);
  step.resize(n);
  for (int64_t j = 0; j < n; ++j) {
    const int32_t b = unsorted_step_[j], to = ends[b + 1]++;
    score[to] = unsorted_[j];
    item[to] = unsorted_item_[j];
    step[to] = b;
  }
  sort_long_steps(longest);
  for (int64_t j = 1; j < n; ++j) {  // insertion sort, stable: equal scores keep their rising index
    const T s = score[j];
    if (!(score[j - 1] < s)) continue;
    const int32_t i = item[j];
    int64_t to = j;
    for (; to > 0 && score[to - 1] < s; --to) {
      score[to] = score[to - 1];
      item[to] = item[to - 1];
    }
    score[to] = s;
    item[to] = i;
  }
}

template <class T>
void Thresholds<T>::sort_long_steps(int32_t longest) {
  constexpr int32_t kShort = 32;
  if (longest <= kShort) return;
  std::vector<int32_t> order;
  for (size_t b = 0; b + 1 < ends.size(); ++b) {
    const int32_t begin = ends[b], end = ends[b + 1];
    if (end - begin <= kShort) continue;
    order.resize(end - begin);
    std::iota(order.begin(), order.end(), begin);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t x, int32_t y) { return score[x] > score[y]; });
    for (int32_t j = begin; j < end; ++j) {
      unsorted_[j] = score[order[j - begin]];
      unsorted_item_[j] = item[order[j - begin]];
    }
    std::copy(unsorted_.begin() + begin, unsorted_.begin() + end, score.begin() + begin);
    std::copy(unsorted_item_.begin() + begin, unsorted_item_.begin() + end, item.begin() + begin);
  }
}

// One query's work, and the memory it reuses from query to query.
template <class T>
class Ranker {
 public:
  Ranker(const Queries<T>& in, const Request& want)
      : in_(in), want_(want), row_(in.n), marks_((in.n + 63) / 64),
        ideal_(want.num_cutoffs) {
    thresholds_.score.reserve(in.max_relevant);
    thresholds_.item.reserve(in.max_relevant);
    if (want.needs_gains()) gain_of_.assign(in.n, 0);
  }

  // False when a score is NaN.
  bool rank(int64_t query, double* out) {
    static const Loops<T> loops = loops_here<T>();
    const int64_t n = in_.n;
    const T* scores = in_.scores + query * in_.stride;
    if (!loops.load_row(scores, in_.scale, in_.bias, row_.data(), n)) return false;
    const T nan = std::numeric_limits<T>::quiet_NaN();
    int64_t ranked = n;
    if (in_.excluded_offsets != nullptr) {
      for (int64_t e = in_.excluded_offsets[query]; e < in_.excluded_offsets[query + 1]; ++e) {
        T& score = row_[in_.excluded[e]];
        ranked -= score == score;
        score = nan;
      }
    }
    const int64_t relevant = collect(query, reachable(loops, ranked));
    ideal_gains(relevant, ranked);
    const int64_t found = thresholds_.size();
    if (found == 0) {
      measure_ranks(0, relevant, ranked, out);
      return true;
    }
    thresholds_.build(loops);
    below_.assign(found + 1, 0);
    if (in_.average_ties) tied_.assign(found + 1, 0);
    loops.place_row(row_.data(), n, thresholds_, below_.data(),
                    in_.average_ties ? tied_.data() : nullptr);
    if (in_.average_ties) {
      group(out);
      measure_expected(groups_.data(), static_cast<int64_t>(groups_.size()), relevant, ranked,
                       ideal_.data(), want_, out);
    } else {
      measure_ranks(ranks(), relevant, ranked, out);
    }
    return true;
  }

 private:
  // A score that every item within the depth reaches: the depth-th highest of the maxima of disjoint
  // groups cannot lie above the depth-th highest score.
  T reachable(const Loops<T>& loops, int64_t ranked) {
    const int64_t n = in_.n, groups = std::max<int64_t>(4 * want_.depth, 64);
    constexpr T kNothing = -std::numeric_limits<T>::infinity();
    if (want_.depth >= ranked || groups > n / 2) return kNothing;
    maxima_.resize(groups);
    loops.group_maxima(row_.data(), n, maxima_.data(), groups);
    const auto at = maxima_.begin() + (want_.depth - 1);
    std::nth_element(maxima_.begin(), at, maxima_.end(), std::greater<T>());
    if (*at > kNothing) return *at;
    // Where most scores are -inf, the others may still fill the ranks within the depth.
    return loops.count_above(row_.data(), n, kNothing) >= want_.depth ? std::numeric_limits<T>::lowest() : kNothing;
  }

  // Moves the relevant items that reach `low` out of the row; returns how many there are in all.
  int64_t collect(int64_t query, T low) {
    const int64_t begin = in_.member_offsets[query], end = in_.member_offsets[query + 1];
    thresholds_.score.clear();
    thresholds_.item.clear();
    all_gains_.clear();
    const bool one_list = in_.bits == nullptr && end - begin == 1;
    ones_ = one_list && in_.gains == nullptr;
    if (one_list && (ones_ || !want_.needs_gains())) return collect_list(in_.members[begin], low);
    std::fill(gain_of_.begin(), gain_of_.end(), 0);
    int64_t relevant = 0;
    const auto take = [&](int32_t item) {
      T& score = row_[item];
      if (score != score) return;  // left out
      relevant += 1;
      if (want_.discounts != nullptr) all_gains_.push_back(gain_of_[item]);
      if (score >= low) {
        thresholds_.score.push_back(score);
        thresholds_.item.push_back(item);
      }
      score = std::numeric_limits<T>::quiet_NaN();
    };
    if (one_list) {
      const int64_t list = in_.members[begin];
      for (int64_t e = in_.offsets[list]; e < in_.offsets[list + 1]; ++e) {
        gain_of_[in_.items[e]] = in_.gains[e];
        take(in_.items[e]);
      }
      return relevant;
    }
    std::fill(marks_.begin(), marks_.end(), 0);
    for (int64_t m = begin; m < end; ++m) {
      const int64_t list = in_.members[m];
      if (in_.bits != nullptr) {
        const uint64_t* bits = in_.bits + list * in_.words;
        for (int64_t w = 0; w < in_.words; ++w) marks_[w] |= bits[w];
      } else {
        for (int64_t e = in_.offsets[list]; e < in_.offsets[list + 1]; ++e) {
          const int32_t item = in_.items[e];
          marks_[item >> 6] |= uint64_t{1} << (item & 63);
          if (want_.needs_gains()) gain_of_[item] += in_.gains ? in_.gains[e] : 1;
        }
      }
    }
    for (int64_t w = 0; w < static_cast<int64_t>(marks_.size()); ++w) {
      for (uint64_t word = marks_[w]; word != 0; word &= word - 1) {
        const int32_t item = static_cast<int32_t>(64 * w + __builtin_ctzll(word));
        if (in_.bits != nullptr && want_.needs_gains()) {
          for (int64_t m = begin; m < end; ++m) {
            gain_of_[item] += in_.bits[in_.members[m] * in_.words + w] >> (item & 63) & 1;
          }
        }
        take(item);
      }
    }
    return relevant;
  }

  // `collect` for the most frequent case: the items of one class, all of the same gain.
  int64_t collect_list(int64_t list, T low) {
    const int32_t* items = in_.items + in_.offsets[list];
    const int64_t count = in_.offsets[list + 1] - in_.offsets[list];
    thresholds_.score.resize(count);
    thresholds_.item.resize(count);
    T* __restrict score = thresholds_.score.data();
    int32_t* __restrict item = thresholds_.item.data();
    int64_t relevant = 0, found = 0;
    for (int64_t e = 0; e < count; ++e) {
      const T s = row_[items[e]];
      row_[items[e]] = std::numeric_limits<T>::quiet_NaN();
      score[found] = s;
      item[found] = items[e];
      relevant += s == s;
      found += s >= low;  // not what is left out: that is NaN
    }
    thresholds_.score.resize(found);
    thresholds_.item.resize(found);
    if (want_.discounts != nullptr) all_gains_.assign(relevant, 1);
    return relevant;
  }

  // The DCG of the best ranking at every cut-off: gains falling.
  void ideal_gains(int64_t relevant, int64_t ranked) {
    if (want_.discounts == nullptr) return;
    const std::greater<int32_t> falls;  // as most often they all are 1
    if (!std::is_sorted(all_gains_.begin(), all_gains_.end(), falls)) {
      std::sort(all_gains_.begin(), all_gains_.end(), falls);
    }
    double dcg = 0.0;
    int64_t j = 0;
    for (int64_t c = 0; c < want_.num_cutoffs; ++c) {
      const int64_t k = std::min({want_.cutoffs[c], ranked, relevant});
      for (; j < k; ++j) dcg += all_gains_[j] * want_.discounts[j];
      ideal_[c] = dcg;
    }
  }

  void measure_ranks(int64_t hits, int64_t relevant, int64_t ranked, double* out) const {
    const int32_t *ranks = below_.data(), *gains = gains_.data();
    const double* discounts = want_.discounts;
    measure(
        ranks, [=](int64_t j) { return precision_at(ranks, j); },
        [=](int64_t j) { return discounted(ranks, gains, discounts, j); }, hits, relevant, ranked,
        ideal_.data(), want_, out);
    const Row row(out, want_);
    const int64_t within = std::min(hits, want_.ranks);
    for (int64_t j = 0; j < within; ++j) {
      const double rank = static_cast<double>(ranks[j]);
      write_rank(row, want_, j, rank, rank, want_.gains ? gains[j] : 0);
    }
    no_ranks_from(within, row);
  }

  void no_ranks_from(int64_t begin, const Row& row) const {
    for (int64_t j = begin; j < want_.ranks; ++j) write_rank(row, want_, j, INFINITY, INFINITY, 0);
  }

  // The gain of the j-th relevant item.
  int32_t gain(int64_t j) const { return ones_ ? 1 : gain_of_[thresholds_.item[j]]; }

  // Turns the counts into ranks, in place; returns how many are within the depth.
  int64_t ranks() {
    const int64_t found = thresholds_.size();
    int32_t before = 0;
    int64_t hits = 0;
    for (int64_t j = 0; j < found; ++j) {
      before += below_[j];
      below_[j] = before + thresholds_.counts[thresholds_.step[j]] + static_cast<int32_t>(j) + 1;
      hits += below_[j] <= want_.depth;
    }
    if (want_.needs_gains()) {
      gains_.resize(found);
      for (int64_t j = 0; j < found; ++j) gains_[j] = gain(j);
    }
    return hits;
  }

  // The groups of tied items; the columns of their ranks are the row's.
  void group(double* out) {
    const Row row(out, want_);
    const std::vector<T>& score = thresholds_.score;
    const int64_t found = thresholds_.size();
    groups_.clear();
    int64_t before = 0, written = 0;
    for (int64_t j = 0; j < found;) {
      int64_t end = j, gains = 0;
      for (; end < found && score[end] == score[j]; ++end) {
        if (want_.discounts != nullptr) gains += gain(end);
      }
      before += below_[j];
      const TieGroup g{before + thresholds_.counts[thresholds_.step[j]] + j, end - j + tied_[j], end - j, gains};
      if (g.above < want_.depth) {
        groups_.push_back(g);
        for (int64_t i = j; i < std::min(end, want_.ranks); ++i, ++written) {
          write_rank(row, want_, i, g.first(), g.last(), want_.gains ? gain(i) : 0);
        }
      }
      before += tied_[j];
      j = end;
    }
    no_ranks_from(written, row);
  }

  const Queries<T>& in_;
  const Request& want_;
  std::vector<T> row_, maxima_;
  std::vector<uint64_t> marks_;
  Thresholds<T> thresholds_;
  std::vector<int32_t> below_, tied_, gain_of_, gains_, all_gains_;
  bool ones_ = false;  // whether all gains are 1, and `gain_of_` does not say so
  std::vector<TieGroup> groups_;
  std::vector<double> ideal_;
};

// What a Ranker takes, at most.
template <class T>
int64_t bytes_of(const Queries<T>& in, const Request& want) {
  const int64_t most = std::min(in.max_relevant, in.n), item = sizeof(int32_t);
  const int64_t row = sizeof(T) + 1 + (want.needs_gains() ? item : 0);
  const int64_t threshold = 2 * sizeof(T) + 8 * item + (in.average_ties ? sizeof(TieGroup) : 0);
  return in.n * row + most * threshold + 2 * item * num_steps(most);
}

template <class T>
void rank_all(const Queries<T>& in, const Request& want, int64_t max_bytes, double* out) {
  const int64_t queries = in.queries, width = want.width();
  const int64_t at_once = std::max<int64_t>(max_bytes / bytes_of(in, want), 1);
  const int64_t each = (queries + at_once - 1) / at_once;  // at least this many for a Ranker
  torch::stable::parallel_for(0, queries, std::max<int64_t>(each, 1), [&](int64_t begin, int64_t end) {
    Ranker<T> ranker(in, want);
    for (int64_t q = begin; q < end; ++q) {
      if (!ranker.rank(q, out + q * width)) out[q * width] = NAN;
    }
  });
  for (int64_t q = 0; q < queries; ++q) {  // the first of them, whichever thread met one first
    STD_TORCH_CHECK(!std::isnan(out[q * width]), "scores: row ", q, " holds NaN");
  }
}

Tensor average_precision(const Arguments& a) {
  return a.table([&](const auto& in, const Request& want, double* rows) { rank_all(in, want, a.limit, rows); });
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("average_precision", TORCH_BOX(&drcl::flat<drcl::average_precision>));
}
