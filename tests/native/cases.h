// Calls of drcl::average_precision, drawn from bytes: a fuzzer's, or those of a seed.
//
// Every array is a heap block of exactly the size that the op's contract gives it, so that
// AddressSanitizer sees the first element read beyond.

#pragma once

#include "average_precision.h"
#include "stand_in.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <vector>

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Decisions from a fuzzer's bytes, zeros after the last; without bytes, from a generator.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  explicit Source(uint64_t seed) : state_(seed) {}

  // 0..n - 1
  int64_t below(int64_t n) {
    if (n <= 1) return 0;
    return static_cast<int64_t>(bits(n <= 256 ? 1 : n <= 65536 ? 2 : 8) % static_cast<uint64_t>(n));
  }
  bool one_in(int64_t n) { return below(n) == n - 1; }  // a fuzzer's zeros are the plain case
  uint64_t bits(int bytes) {
    if (data_ == nullptr) return next() >> (64 - 8 * bytes);
    uint64_t value = 0;
    for (int b = 0; b < bytes && at_ < size_; ++b) value = value << 8 | data_[at_++];
    return value;
  }
  // Long rows from few bytes: a generator that the bytes seed.
  Source stream() { return Source(bits(8) ^ 0x5bd1e995); }

 private:
  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

  const uint8_t* data_ = nullptr;
  size_t size_ = 0, at_ = 0;
  uint64_t state_ = 0;
};

template <class T>
constexpr ScalarType type_of() {
  if constexpr (std::is_same_v<T, float>) return ScalarType::Float;
  if constexpr (std::is_same_v<T, double>) return ScalarType::Double;
  if constexpr (std::is_same_v<T, int32_t>) return ScalarType::Int;
  return ScalarType::Long;
}

template <class T>
struct Case {
  int64_t queries, n, stride, words = 0, max_relevant, depth, recall_levels = 0, ranks = 0;
  drcl::Divisor divisor;
  bool average_ties, rank_gains = false;
  std::vector<int64_t> cutoffs;
  std::vector<T> scores;  // stride apart, the last row without its padding
  std::optional<std::vector<T>> scale, bias;
  std::optional<std::vector<int64_t>> excluded_offsets, excluded;
  std::vector<int64_t> member_offsets, members;
  std::optional<std::vector<int64_t>> offsets;
  std::optional<std::vector<int32_t>> items, gains;
  std::optional<std::vector<uint64_t>> bits;  // rows of `words`
  std::optional<std::vector<double>> discounts;

  // What the op's code makes of it.
  drcl::Queries<T> inputs() const {
    const auto data = [](const auto& values) { return values ? values->data() : nullptr; };
    return {{n, stride, scores.data(), data(scale), data(bias), data(excluded_offsets), data(excluded),
             member_offsets.data(), members.data(), data(offsets), data(items), data(gains), data(bits),
             words, average_ties},
            queries, max_relevant};
  }
  drcl::Request request() const {
    return {cutoffs.data(), static_cast<int64_t>(cutoffs.size()), depth, divisor, recall_levels,
            discounts ? discounts->data() : nullptr, ranks, average_ties, rank_gains};
  }
  int64_t width() const { return request().width(); }
  T value(int64_t query, int64_t item) const {
    T s = scores[query * stride + item];
    if (scale) s *= (*scale)[item];
    if (bias) s += (*bias)[item];
    return s;
  }
  int64_t first_nan() const {
    for (int64_t q = 0; q < queries; ++q) {
      for (int64_t i = 0; i < n; ++i) {
        if (std::isnan(value(q, i))) return q;
      }
    }
    return -1;
  }
  // How often the query's lists hold every item, weighed by its gains.
  std::vector<int64_t> gains_of(int64_t query) const {
    std::vector<int64_t> gain(n);
    for (int64_t m = member_offsets[query]; m < member_offsets[query + 1]; ++m) {
      const int64_t list = members[m];
      if (bits) {
        for (int64_t i = 0; i < n; ++i) gain[i] += (*bits)[list * words + i / 64] >> (i % 64) & 1;
      } else {
        for (int64_t e = (*offsets)[list]; e < (*offsets)[list + 1]; ++e) {
          gain[(*items)[e]] += gains ? (*gains)[e] : 1;
        }
      }
    }
    return gain;
  }
  std::vector<bool> kept(int64_t query) const {
    std::vector<bool> all(n, true);
    if (excluded) {
      for (int64_t e = (*excluded_offsets)[query]; e < (*excluded_offsets)[query + 1]; ++e) {
        all[(*excluded)[e]] = false;
      }
    }
    return all;
  }
};

template <class T>
T draw_score(Source& from, int64_t kind) {
  const double unit = static_cast<double>(from.bits(4)) / 4294967296.0 - 0.5;
  switch (kind) {
    case 0: return static_cast<T>(unit);                                    // hardly any ties
    case 1: return static_cast<T>(from.below(3) - 1);                       // hardly anything else
    case 2: return static_cast<T>(from.below(40));
    case 3: return static_cast<T>(unit * 1e30);                             // squares overflow
    case 4: return static_cast<T>(unit * 1e-42);                            // subnormal in float32
    case 5: return static_cast<T>(1 + (from.one_in(60) ? unit : unit * 1e-6));  // a narrow crowd
    case 6: {
      const int64_t which = from.below(8);
      const T inf = std::numeric_limits<T>::infinity();
      return which == 0 ? inf : which == 1 ? -inf : which == 2 ? T(-0.0) : static_cast<T>(unit);
    }
    default: {  // any bits but NaN
      std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> any = from.bits(sizeof(T));
      T value;
      std::memcpy(&value, &any, sizeof value);
      return std::isnan(value) ? T(0) : value;
    }
  }
}

template <class T>
Case<T> draw_case(Source& from) {
  Case<T> c;
  c.average_ties = from.one_in(3);
  // Around the chunk of 1024 scores, the vectors of 16 and the words of 64 something may go wrong.
  constexpr int64_t kEdges[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 1023, 1024, 1025, 2049};
  const int64_t size = from.below(12);
  c.n = size < 8 ? 1 + from.below(70) : size < 11 ? kEdges[from.below(17)] : 1 + from.below(400);
  if (c.average_ties) c.n = std::min<int64_t>(c.n, 260);  // the oracle takes the square of it
  c.queries = from.one_in(20) ? 0 : 1 + from.below(c.n > 1000 ? 2 : 5);
  c.stride = c.n + (from.one_in(3) ? from.below(20) : 0);

  Source rows = from.stream();
  const int64_t kind = from.below(8);
  c.scores = std::vector<T>(c.queries == 0 ? 0 : (c.queries - 1) * c.stride + c.n);
  for (T& score : c.scores) score = draw_score<T>(rows, kind);
  if (from.one_in(12) && !c.scores.empty()) {
    for (int64_t count = 1 + from.below(3); count > 0; --count) {
      c.scores[rows.below(static_cast<int64_t>(c.scores.size()))] = std::numeric_limits<T>::quiet_NaN();
    }
  }
  const auto factors = [&] {
    std::vector<T> all(c.n);
    for (T& x : all) x = draw_score<T>(rows, rows.below(3));
    return all;
  };
  if (from.one_in(4)) c.scale = factors();
  if (from.one_in(4)) c.bias = factors();

  // A block of queries sees a part of longer lists: offsets begin anywhere.
  if (from.one_in(3)) {
    c.excluded_offsets.emplace();
    c.excluded.emplace(from.below(3), 0);
    const int64_t most = from.one_in(4) ? c.n : std::min<int64_t>(c.n, 3);
    for (int64_t q = 0; q <= c.queries; ++q) {
      c.excluded_offsets->push_back(static_cast<int64_t>(c.excluded->size()));
      if (q == c.queries) break;
      for (int64_t count = rows.below(most + 1); count > 0; --count) c.excluded->push_back(rows.below(c.n));
    }
    c.excluded->shrink_to_fit();
    c.excluded_offsets->shrink_to_fit();
  }

  const bool union_of_lists = from.one_in(2);
  const int64_t lists = union_of_lists ? 1 + from.below(6) : std::max<int64_t>(c.queries, 1);
  constexpr int64_t kShares[] = {20, 2, 50, 90, 100, 0};
  const int64_t share = kShares[from.below(6)];
  if (from.one_in(3)) {
    c.words = (c.n + 63) / 64;
    c.bits = std::vector<uint64_t>(lists * c.words);
    for (int64_t l = 0; l < lists; ++l) {
      for (int64_t i = 0; i < c.n; ++i) {
        if (rows.below(100) < share) (*c.bits)[l * c.words + i / 64] |= uint64_t{1} << (i % 64);
      }
    }
  } else {
    c.items.emplace();
    c.offsets.emplace(1, 0);
    for (int64_t l = 0; l < lists; ++l) {
      for (int64_t i = 0; i < c.n; ++i) {
        if (rows.below(100) < share) c.items->push_back(static_cast<int32_t>(i));
      }
      c.offsets->push_back(static_cast<int64_t>(c.items->size()));
    }
    if (from.one_in(2)) {
      c.gains.emplace();
      for (size_t e = 0; e < c.items->size(); ++e) c.gains->push_back(static_cast<int32_t>(1 + rows.below(3)));
      c.gains->shrink_to_fit();
    }
    c.items->shrink_to_fit();
    c.offsets->shrink_to_fit();
  }
  c.members.assign(from.below(3), 0);
  for (int64_t q = 0; q <= c.queries; ++q) {
    c.member_offsets.push_back(static_cast<int64_t>(c.members.size()));
    if (q == c.queries) break;
    if (!union_of_lists) {
      c.members.push_back(q);
      continue;
    }
    std::set<int64_t> mine;
    for (int64_t count = rows.below(4); count > 0; --count) mine.insert(rows.below(lists));
    c.members.insert(c.members.end(), mine.begin(), mine.end());
  }
  c.members.shrink_to_fit();
  c.member_offsets.shrink_to_fit();
  c.max_relevant = 0;
  for (int64_t q = 0; q < c.queries; ++q) {
    const auto gain = c.gains_of(q);
    c.max_relevant = std::max<int64_t>(c.max_relevant, c.n - std::count(gain.begin(), gain.end(), 0));
  }
  c.max_relevant += from.one_in(3) ? from.below(2 * c.n) : 0;

  std::set<int64_t> cutoffs;
  for (int64_t count = from.below(5); count > 0; --count) {
    cutoffs.insert(1 + (from.one_in(2) ? from.below(c.n) : from.below(std::min<int64_t>(c.n, 8))));
  }
  c.cutoffs.assign(cutoffs.begin(), cutoffs.end());
  c.depth = from.one_in(2) ? c.n : cutoffs.empty() ? 1 + from.below(c.n) : *cutoffs.rbegin();
  if (c.depth == c.n && !c.average_ties && from.one_in(2)) c.recall_levels = 2 + from.below(11);
  c.divisor = static_cast<drcl::Divisor>(from.below(3));
  if (from.one_in(2)) {
    c.ranks = 1 + from.below(c.n + 3);
    c.rank_gains = from.one_in(2);
  }
  if (from.one_in(2)) {
    c.discounts = std::vector<double>(c.depth);
    for (int64_t i = 0; i < c.depth; ++i) (*c.discounts)[i] = 1 / std::log2(static_cast<double>(i) + 2);
  }
  return c;
}
