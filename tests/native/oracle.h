// What drcl::average_precision must return, from the definitions: every rank by comparing with every
// item, expectations over tied items by going through the places of a group one at a time.

#pragma once

#include "cases.h"

#include <map>

struct Ranked {  // of one query
  std::vector<int64_t> ranks, gains;  // of the relevant items, best first
  int64_t ranked = 0;
};

template <class T>
Ranked rank_naively(const Case<T>& c, int64_t query) {
  Ranked result;
  const auto gain = c.gains_of(query);
  const auto kept = c.kept(query);
  struct Item {
    T score;
    int64_t index;
  };
  std::vector<Item> all;
  for (int64_t i = 0; i < c.n; ++i) {
    if (kept[i]) all.push_back({c.value(query, i), i});
  }
  result.ranked = static_cast<int64_t>(all.size());
  std::map<int64_t, int64_t> gain_at;
  for (const Item& mine : all) {
    if (gain[mine.index] == 0) continue;
    int64_t rank = 1;
    for (const Item* other = all.data(); other < all.data() + all.size(); ++other) {
      rank += other->score > mine.score || (other->score == mine.score && other->index < mine.index);
    }
    gain_at[rank] = gain[mine.index];
  }
  for (const auto& [rank, g] : gain_at) {
    result.ranks.push_back(rank);
    result.gains.push_back(g);
  }
  return result;
}

template <class T>
double best_dcg(const Case<T>& c, std::vector<int64_t> gains, int64_t k) {
  std::sort(gains.rbegin(), gains.rend());
  double sum = 0;
  for (int64_t j = 0; j < std::min<int64_t>(k, gains.size()); ++j) sum += gains[j] * (*c.discounts)[j];
  return sum;
}

template <class T>
double divisor(const Case<T>& c, double hits, int64_t relevant, int64_t k) {
  if (c.divisor == drcl::Divisor::kHits) return hits;
  return static_cast<double>(c.divisor == drcl::Divisor::kMin ? std::min(relevant, k) : relevant);
}

// The row's columns in their order, from the numbers at each cut-off.
struct Cutoff {
  double ap = 0, recall = 0, precision = 0, ndcg = 0;
};

inline std::vector<double> row_of(std::vector<double> head, const std::vector<Cutoff>& cutoffs,
                                  const std::vector<double>& curves) {
  for (const auto part : {&Cutoff::ap, &Cutoff::recall, &Cutoff::precision, &Cutoff::ndcg}) {
    for (const Cutoff& at : cutoffs) head.push_back(at.*part);
  }
  head.insert(head.end(), curves.begin(), curves.end());
  return head;
}

// The columns of the relevant items' ranks, from their first and last ones and their gains, best first.
template <class T>
void add_ranks(const Case<T>& c, std::vector<double>& row, const std::vector<int64_t>& first,
               const std::vector<int64_t>& last, const std::vector<int64_t>& gains) {
  const auto add = [&](const std::vector<int64_t>& values, double rest) {
    for (int64_t j = 0; j < c.ranks; ++j) {
      const bool known = j < static_cast<int64_t>(first.size()) && first[j] <= c.depth;
      row.push_back(known ? static_cast<double>(values[j]) : rest);
    }
  };
  add(first, INFINITY);
  if (c.average_ties) add(last, INFINITY);
  if (c.rank_gains) add(gains, 0);
}

template <class T>
std::vector<double> by_index(const Case<T>& c, int64_t query) {
  const Ranked found = rank_naively(c, query);
  const int64_t relevant = static_cast<int64_t>(found.ranks.size());
  const double first = relevant > 0 && found.ranks[0] <= c.depth ? static_cast<double>(found.ranks[0]) : 0;
  std::vector<Cutoff> cutoffs;
  for (const int64_t cutoff : c.cutoffs) {
    const int64_t k = std::min(cutoff, found.ranked);
    Cutoff at;
    double sum = 0, dcg = 0;
    int64_t hits = 0;
    for (; hits < relevant && found.ranks[hits] <= k; ++hits) {
      sum += static_cast<double>(hits + 1) / static_cast<double>(found.ranks[hits]);
      if (c.discounts) dcg += found.gains[hits] * (*c.discounts)[found.ranks[hits] - 1];
    }
    if (hits > 0) at.ap = sum / divisor(c, static_cast<double>(hits), relevant, k);
    if (relevant > 0) at.recall = static_cast<double>(hits) / static_cast<double>(relevant);
    if (k > 0) at.precision = static_cast<double>(hits) / static_cast<double>(k);
    const double ideal = c.discounts ? best_dcg(c, found.gains, k) : 0;
    if (ideal > 0) at.ndcg = dcg / ideal;
    cutoffs.push_back(at);
  }
  std::vector<double> interpolated(c.recall_levels), raw(c.recall_levels);
  for (int64_t l = 0; l < c.recall_levels && relevant > 0; ++l) {
    int64_t needed = 1;
    while (needed * (c.recall_levels - 1) < l * relevant) ++needed;
    raw[l] = static_cast<double>(needed) / static_cast<double>(found.ranks[needed - 1]);
    for (int64_t j = needed; j <= relevant; ++j) {
      interpolated[l] = std::max(interpolated[l], static_cast<double>(j) / static_cast<double>(found.ranks[j - 1]));
    }
  }
  interpolated.insert(interpolated.end(), raw.begin(), raw.end());
  std::vector<double> row =
      row_of({static_cast<double>(relevant), first, first > 0 ? 1 / first : 0}, cutoffs, interpolated);
  add_ranks(c, row, found.ranks, found.ranks, found.gains);
  return row;
}

// The first `places` of a group of tied items, place by place: by the number of relevant items so far,
// its probability, and the expected sum of precisions on that condition times that probability.
struct Walk {
  std::vector<double> probability, sum;

  Walk(int64_t above, int64_t size, int64_t relevant, int64_t places, int64_t hits)
      : probability(relevant + 1), sum(relevant + 1) {
    probability[0] = 1;
    for (int64_t i = 0; i < places; ++i) {
      for (int64_t x = std::min(i, relevant); x >= 0; --x) {
        const double p = static_cast<double>(relevant - x) / static_cast<double>(size - i);
        if (p > 0) {
          const double precision = static_cast<double>(hits + x + 1) / static_cast<double>(above + i + 1);
          sum[x + 1] += p * (sum[x] + probability[x] * precision);
          probability[x + 1] += p * probability[x];
        }
        sum[x] *= std::max(0.0, 1 - p);
        probability[x] *= std::max(0.0, 1 - p);
      }
    }
  }
};

template <class T>
std::vector<double> over_tie_orders(const Case<T>& c, int64_t query) {
  struct Group {
    int64_t above, size, relevant, gain;
    std::vector<int64_t> gains;  // by index
  };
  const auto gain = c.gains_of(query);
  const auto kept = c.kept(query);
  std::map<T, Group, std::greater<T>> by_score;
  std::vector<int64_t> gains;
  int64_t ranked = 0;
  for (int64_t i = 0; i < c.n; ++i) {
    if (!kept[i]) continue;
    Group& group = by_score.try_emplace(c.value(query, i), Group{}).first->second;
    group.size += 1;
    group.relevant += gain[i] > 0;
    group.gain += gain[i];
    if (gain[i] > 0) gains.push_back(gain[i]);
    if (gain[i] > 0) group.gains.push_back(gain[i]);
    ranked += 1;
  }
  std::vector<Group> groups;
  int64_t above = 0;
  for (auto& [score, group] : by_score) {
    group.above = above;
    above += group.size;
    if (group.relevant > 0) groups.push_back(group);
  }
  const int64_t relevant = static_cast<int64_t>(gains.size());
  std::vector<double> head{static_cast<double>(relevant), 0, 0};
  if (!groups.empty() && groups[0].above < c.depth) {
    double none_yet = 1;
    for (int64_t i = 0; i < groups[0].size && none_yet > 0; ++i) {
      const double p = std::min(1.0, static_cast<double>(groups[0].relevant) / static_cast<double>(groups[0].size - i));
      const double rank = static_cast<double>(groups[0].above + i + 1);
      head[1] += none_yet * p * rank;
      head[2] += none_yet * p / rank;
      none_yet *= 1 - p;
    }
  }
  std::vector<Cutoff> cutoffs;
  for (const int64_t cutoff : c.cutoffs) {
    const int64_t k = std::min(cutoff, ranked);
    double before = 0, hits = 0, dcg = 0, ratio = 0;
    int64_t found = 0;
    for (const Group& g : groups) {
      if (g.above >= k) break;
      const int64_t places = std::min(g.size, k - g.above);
      const Walk walk(g.above, g.size, g.relevant, places, found);
      ratio = 0;  // that of the last group, which alone can hold a varying number of hits
      double sum = 0;
      for (int64_t x = 0; x <= g.relevant; ++x) {
        sum += walk.sum[x];
        if (found + x > 0) ratio += (before * walk.probability[x] + walk.sum[x]) / static_cast<double>(found + x);
      }
      before += sum;
      hits += static_cast<double>(g.relevant) * static_cast<double>(places) / static_cast<double>(g.size);
      found += g.relevant;
      for (int64_t i = 0; c.discounts && i < places; ++i) {
        dcg += (*c.discounts)[g.above + i] * static_cast<double>(g.gain) / static_cast<double>(g.size);
      }
    }
    Cutoff at;
    if (hits > 0) at.ap = c.divisor == drcl::Divisor::kHits ? ratio : before / divisor(c, hits, relevant, k);
    if (relevant > 0) at.recall = hits / static_cast<double>(relevant);
    if (k > 0) at.precision = hits / static_cast<double>(k);
    const double ideal = c.discounts ? best_dcg(c, gains, k) : 0;
    if (ideal > 0) at.ndcg = dcg / ideal;
    cutoffs.push_back(at);
  }
  std::vector<double> row = row_of(head, cutoffs, {});
  std::vector<int64_t> first, last, in_order;
  for (const Group& g : groups) {
    first.insert(first.end(), g.relevant, g.above + 1);
    last.insert(last.end(), g.relevant, g.above + g.size);
    in_order.insert(in_order.end(), g.gains.begin(), g.gains.end());
  }
  add_ranks(c, row, first, last, in_order);
  return row;
}

template <class T>
std::vector<double> expected_row(const Case<T>& c, int64_t query) {
  return c.average_ties ? over_tie_orders(c, query) : by_index(c, query);
}
