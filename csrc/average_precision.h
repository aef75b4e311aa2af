// Retrieval numbers of one ranking, from the ranks of its relevant items: the part that CPU and GPU share.
//
// The columns of a result row, with K cut-offs and L recall levels:
//
//   relevant, first, reciprocal                   how many items are relevant; rank of the first; MRR's term
//   ap[K], recall[K], precision[K], ndcg[K]       at each cut-off
//   interpolated[L], raw[L]                       precision at L recall levels from 0 to 1
//   first[T], last[T], gain[T]                    of each relevant item, best first, up to the depth; then ∞
//                                                 and a gain of 0: its rank, or with averaged ties the first
//                                                 and the last rank of its score. Gains only if asked for
//
// All sums run in rank order, in double: the same ranks give the same bits on every machine.

#pragma once

#include <cmath>
#include <cstdint>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "drcl: expected a little-endian processor, got a big-endian one"
#endif

#if defined(__CUDACC__)
#define DRCL_HD __host__ __device__
#define DRCL_PRAGMA(text) _Pragma(#text)
#define DRCL_UNROLL(times) DRCL_PRAGMA(unroll times)
#else
#define DRCL_HD
#define DRCL_UNROLL(times)
#endif

namespace drcl {

enum class Divisor : int64_t { kHits = 0, kMin = 1, kRelevant = 2 };

// From a score to its step of a table of equal steps, falling: the same arithmetic for thresholds and items,
// and monotone, which is all that correctness needs. NaN (inf times 0) becomes step 0.
template <class T>
struct Scale {
  T high = 0, steps = 0, last = 0;

  // Over [bottom, top]; one step for all where that cannot be.
  DRCL_HD static Scale over(T bottom, T top, int64_t count) {
    const T width = top - bottom, steps = static_cast<T>(count) / width;
    const bool usable = std::isfinite(top) && std::isfinite(width) && width > 0 && std::isfinite(steps);
    return usable ? Scale{top, steps, static_cast<T>(count - 1)} : Scale{};
  }

  DRCL_HD int32_t operator()(T score) const {
    T x = (high - score) * steps;
    x = x > T(0) ? x : T(0);
    x = x < last ? x : last;
    return static_cast<int32_t>(x);
  }
};

// What the ranking of a query reads; shapes as in drcl/ranking.py. An array that was not given is null.
template <class T>
struct Inputs {
  int64_t n, stride;
  const T *scores, *scale, *bias;
  const int64_t *excluded_offsets, *excluded;
  const int64_t *member_offsets, *members;
  const int64_t* offsets;
  const int32_t *items, *gains;
  const uint64_t* bits;
  int64_t words;
  bool average_ties;
};

// The inputs of a call. Its own numbers stay out of what a kernel is given: there they cost registers.
template <class T>
struct Queries : Inputs<T> {
  int64_t queries, max_relevant;
};

// How many columns a query has, a cut-off and a recall level.
constexpr int64_t kPerQuery = 3, kPerCutoff = 4, kPerLevel = 2;

// What is asked of every ranking of a call.
struct Request {
  const int64_t* cutoffs;  // (K,) ascending, each in 1..N
  int64_t num_cutoffs;
  int64_t depth;           // ranks beyond it change nothing that is asked for
  Divisor divisor;
  int64_t recall_levels;   // L, 0 for no curve
  const double* discounts; // (>= depth,) nDCG's 1 / log2(rank + 1), or null: no nDCG
  int64_t ranks;           // T, 0 for no ranks
  bool last_ranks, gains;  // whether the columns `last` and `gain` are there

  DRCL_HD bool needs_gains() const { return discounts != nullptr || gains; }
  DRCL_HD int64_t width() const {
    return kPerQuery + kPerCutoff * num_cutoffs + kPerLevel * recall_levels + ranks * (1 + last_ranks + gains);
  }
};

// Views of one result row.
struct Row {
  double *head, *ap, *recall, *precision, *ndcg, *interpolated, *raw, *first, *last, *gain;

  DRCL_HD Row(double* out, const Request& want)
      : head(out),
        ap(out + kPerQuery),
        recall(ap + want.num_cutoffs),
        precision(recall + want.num_cutoffs),
        ndcg(precision + want.num_cutoffs),
        interpolated(ndcg + want.num_cutoffs),
        raw(interpolated + want.recall_levels),
        first(raw + want.recall_levels),
        last(first + want.ranks),
        gain(want.last_ranks ? last + want.ranks : last) {}
};

// The columns of relevant item j; of those beyond the depth, or beyond the last one, infinity.
DRCL_HD inline void write_rank(const Row& row, const Request& want, int64_t j, double first, double last,
                               int32_t gain) {
  row.first[j] = first;
  if (want.last_ranks) row.last[j] = last;
  if (want.gains) row.gain[j] = static_cast<double>(gain);
}

DRCL_HD inline double divisor_of(Divisor divisor, double hits, int64_t relevant, int64_t k) {
  switch (divisor) {
    case Divisor::kHits: return hits;
    case Divisor::kMin: return static_cast<double>(relevant < k ? relevant : k);
    default: return static_cast<double>(relevant);
  }
}

DRCL_HD inline void write_cutoff(const Row& row, const Request& want, int64_t c, int64_t relevant,
                                 int64_t k, double hits, double ap, double dcg, double ideal) {
  row.ap[c] = ap;
  row.recall[c] = relevant > 0 ? hits / static_cast<double>(relevant) : 0.0;
  row.precision[c] = k > 0 ? hits / static_cast<double>(k) : 0.0;
  row.ndcg[c] = want.discounts != nullptr && ideal > 0 ? dcg / ideal : 0.0;
}

// How many of `count` rising ranks are at most k.
DRCL_HD inline int64_t ranks_within(const int32_t* ranks, int64_t count, int64_t k) {
  int64_t begin = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    const bool within = ranks[begin + half] <= k;
    begin = within ? begin + half + 1 : begin;
    count = within ? count - half - 1 : half;
  }
  return begin;
}

// The precision at relevant item j of a ranking without ties: quotients may be made at once, by many
// threads, as long as they are added up in order.
DRCL_HD inline double precision_at(const int32_t* ranks, int64_t j) {
  return static_cast<double>(j + 1) / static_cast<double>(ranks[j]);
}

// What relevant item j adds to the DCG.
DRCL_HD inline double discounted(const int32_t* ranks, const int32_t* gains, const double* discounts,
                                 int64_t j) {
  return gains[j] * discounts[ranks[j] - 1];
}

// A ranking without ties, or with ties already put in order.
//   ranks[hits]    ascending, from 1, all of them when depth is the whole ranking
//   precision(j), gained(j)    precision_at and discounted, computed or looked up
//   relevant       how many items are relevant, at any rank
//   ranked         how many items the ranking holds
//   ideal[K]       the best DCG at each cut-off
template <class Precision, class Gained>
DRCL_HD inline void measure(const int32_t* ranks, const Precision& precision, const Gained& gained,
                            int64_t hits, int64_t relevant, int64_t ranked, const double* ideal,
                            const Request& want, double* out) {
  const Row row(out, want);
  row.head[0] = static_cast<double>(relevant);
  row.head[1] = hits > 0 ? static_cast<double>(ranks[0]) : 0.0;
  row.head[2] = hits > 0 ? 1.0 / static_cast<double>(ranks[0]) : 0.0;
  double sum = 0.0, dcg = 0.0;
  int64_t j = 0;
  for (int64_t c = 0; c < want.num_cutoffs; ++c) {
    const int64_t k = want.cutoffs[c] < ranked ? want.cutoffs[c] : ranked;
    // The end first, so that the loops need not wait for each rank to know whether they go on.
    const int64_t begin = j;
    j += ranks_within(ranks + j, hits - j, k);
    DRCL_UNROLL(8)  // eight are read while the first is added
    for (int64_t i = begin; i < j; ++i) sum += precision(i);
    if (want.discounts != nullptr) {
      for (int64_t i = begin; i < j; ++i) dcg += gained(i);
    }
    const double ap = j > 0 ? sum / divisor_of(want.divisor, static_cast<double>(j), relevant, k) : 0.0;
    write_cutoff(row, want, c, relevant, k, static_cast<double>(j), ap, dcg, ideal[c]);
  }
  // Recall level l is reached by relevant item ceil(l * relevant); the highest precision from there
  // on is the interpolated one, so the levels are walked from the last to the first.
  double best = 0.0;
  int64_t seen = hits;
  for (int64_t l = want.recall_levels - 1; l >= 0; --l) {
    if (hits == 0) {
      row.interpolated[l] = row.raw[l] = 0.0;
      continue;
    }
    const int64_t steps = want.recall_levels - 1;
    int64_t needed = (l * relevant + steps - 1) / steps;
    needed = needed < 1 ? 1 : needed;
    for (; seen >= needed; --seen) {
      const double p = precision(seen - 1);
      best = p > best ? p : best;
    }
    row.interpolated[l] = best;
    row.raw[l] = precision(needed - 1);
  }
}

// Items that share a score: `size` of them after the first `above` ranks, `relevant` of them relevant.
struct TieGroup {
  int64_t above, size, relevant, gain;

  DRCL_HD double first() const { return static_cast<double>(above + 1); }
  DRCL_HD double last() const { return static_cast<double>(above + size); }
};

// Sums over the first m ranks of a group, of 1 / rank and of (place in the group) / rank.
struct HarmonicSums {
  double a = 0.0, b = 0.0;

  DRCL_HD HarmonicSums(int64_t above, int64_t m) {
    for (int64_t i = 1; i <= m; ++i) {
      const double inverse = 1.0 / static_cast<double>(above + i);
      a += inverse;
      b += static_cast<double>(i - 1) * inverse;
    }
  }

  // Expected sum of precisions at the hits of m places of which x, at random, hold relevant items,
  // after h hits above: a place holds one with probability x / m, and then (x − 1) / (m − 1) of the
  // places before it do.
  DRCL_HD double expected(int64_t m, double x, double h) const {
    const double others = m > 1 ? (x - 1.0) / static_cast<double>(m - 1) : 0.0;
    return x / static_cast<double>(m) * ((h + 1.0) * a + others * b);
  }
};

// E[(before + sum of precisions) / (h + x)] when the cut-off leaves m of a group's places, and x of
// its relevant items are among them: hypergeometric, weighed up and down from the mode, where the
// ratios of neighbouring weights are exact and nothing overflows.
DRCL_HD inline double expected_ratio(const TieGroup& group, int64_t m, int64_t h, double before) {
  const HarmonicSums sums(group.above, m);
  const int64_t n = group.size, r = group.relevant;
  const int64_t low = r + m - n > 0 ? r + m - n : 0, high = r < m ? r : m;
  int64_t mode = static_cast<int64_t>((static_cast<double>(m) + 1.0) * (static_cast<double>(r) + 1.0) /
                                      (static_cast<double>(n) + 2.0));
  mode = mode < low ? low : mode > high ? high : mode;
  double total = 0.0, value = 0.0;
  const auto add = [&](int64_t x, double weight) {
    total += weight;
    const double hits = static_cast<double>(h + x);
    if (hits > 0) {
      value += weight * (before + (x > 0 ? sums.expected(m, static_cast<double>(x), static_cast<double>(h)) : 0.0)) / hits;
    }
  };
  add(mode, 1.0);
  double weight = 1.0;
  for (int64_t x = mode; x < high; ++x) {
    weight *= static_cast<double>(r - x) * static_cast<double>(m - x) /
              (static_cast<double>(x + 1) * static_cast<double>(n - r - m + x + 1));
    add(x + 1, weight);
  }
  weight = 1.0;
  for (int64_t x = mode; x > low; --x) {
    weight *= static_cast<double>(x) * static_cast<double>(n - r - m + x) /
              (static_cast<double>(r - x + 1) * static_cast<double>(m - x + 1));
    add(x - 1, weight);
  }
  return value / total;
}

// The exact expectation of every number over all orders of tied items. `groups` are those that hold
// relevant items, best first. Source of the tie-aware sums: McSherry and Najork, Computing
// information retrieval performance measures efficiently in the presence of tied scores, 2008.
DRCL_HD inline void measure_expected(const TieGroup* groups, int64_t num_groups, int64_t relevant,
                                     int64_t ranked, const double* ideal, const Request& want,
                                     double* out) {
  const Row row(out, want);
  row.head[0] = static_cast<double>(relevant);
  row.head[1] = row.head[2] = 0.0;
  if (num_groups > 0) {
    const TieGroup& g = groups[0];
    row.head[1] = static_cast<double>(g.above) +
                  static_cast<double>(g.size + 1) / static_cast<double>(g.relevant + 1);
    double p = static_cast<double>(g.relevant) / static_cast<double>(g.size);  // first hit at place i
    for (int64_t i = 1; i <= g.size - g.relevant + 1; ++i) {
      row.head[2] += p / static_cast<double>(g.above + i);
      p *= static_cast<double>(g.size - g.relevant - i + 1) / static_cast<double>(g.size - i);
    }
  }
  double sum = 0.0, dcg = 0.0;
  int64_t j = 0, found = 0;  // groups wholly inside the cut-off, and the relevant items in them
  const auto gain = [&](const TieGroup& g, int64_t m) {
    double discounts = 0.0;
    for (int64_t i = 0; i < m; ++i) discounts += want.discounts[g.above + i];
    return discounts * static_cast<double>(g.gain) / static_cast<double>(g.size);
  };
  for (int64_t c = 0; c < want.num_cutoffs; ++c) {
    const int64_t k = want.cutoffs[c] < ranked ? want.cutoffs[c] : ranked;
    for (; j < num_groups && groups[j].above + groups[j].size <= k; ++j) {
      const TieGroup& g = groups[j];
      sum += HarmonicSums(g.above, g.size)
                 .expected(g.size, static_cast<double>(g.relevant), static_cast<double>(found));
      if (want.discounts != nullptr) dcg += gain(g, g.size);
      found += g.relevant;
    }
    double hits = static_cast<double>(found), cut_dcg = dcg, ap;
    if (j < num_groups && groups[j].above < k) {  // the cut-off goes through this group
      const TieGroup& g = groups[j];
      const int64_t m = k - g.above;
      const double share = static_cast<double>(g.relevant) / static_cast<double>(g.size);
      if (want.divisor == Divisor::kHits) {
        ap = expected_ratio(g, m, found, sum);
      } else {
        // Linear in what the group brings: each place holds a relevant item with probability r / n,
        // and (r − 1) / (n − 1) of the places before it then do.
        const HarmonicSums sums(g.above, m);
        const double others = g.size > 1 ? static_cast<double>(g.relevant - 1) / static_cast<double>(g.size - 1) : 0.0;
        const double part = share * ((static_cast<double>(found) + 1.0) * sums.a + others * sums.b);
        ap = (sum + part) / divisor_of(want.divisor, 0.0, relevant, k);
      }
      hits += share * static_cast<double>(m);
      if (want.discounts != nullptr) cut_dcg += gain(g, m);
    } else {
      ap = found > 0 ? sum / divisor_of(want.divisor, hits, relevant, k) : 0.0;
    }
    write_cutoff(row, want, c, relevant, k, hits, ap, cut_dcg, ideal[c]);
  }
}

}  // namespace drcl
