// drcl::top_k on a CPU: the k highest scores of every query, over tiles of a gallery. An item counts only if its
// score is above the last that is kept. A block of scores is compared with that at once: after the first tiles
// almost every block ends there, and a tile is read once, out of the cache that its product has left it in.
//
// drcl::top_k_screened takes scores that bfloat16 products give, and how far from them the true ones may be: only
// of items that may be above the last that is kept is the score computed, in float32. drcl::rounded_rows makes the
// rows for such products, and says how much of them it has rounded off.

#include "top_k.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace drcl {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 64;                // scores that are compared at once
constexpr int64_t kGrain = int64_t{1} << 16;  // scores that are worth a thread
constexpr int64_t kNear = int64_t{1} << 17;   // numbers that a core's own cache has room for
constexpr int64_t kGroups = 4;                // for each score wanted, so that most are in a group of their own
constexpr float kHalfPlace = 0x1p-8f;         // of bfloat16's last place, at most, as a share of a number
constexpr float kShort = 1e-9f;               // a row of less than that loses too little to be squared

// `values` fall; equal ones keep the order of their items, of which this one comes last.
template <class T>
void keep(T score, int64_t item, T* values, int64_t* indices, int64_t k) {
  if (!(score > values[k - 1])) return;
  const int64_t place = std::upper_bound(values, values + k, score, std::greater<T>()) - values;
  std::copy_backward(values + place, values + k - 1, values + k);
  std::copy_backward(indices + place, indices + k - 1, indices + k);
  values[place] = score;
  indices[place] = item;
}

template <class T>
void keep_highest(const T* scores, int64_t count, int64_t begin, T* values, int64_t* indices, int64_t k) {
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t stop = std::min(count, start + kBlock);
    if (stop - start == kBlock) {
      const T last = values[k - 1];
      int higher = 0;
      for (int64_t i = 0; i < kBlock; ++i) higher |= scores[start + i] > last;
      if (!higher) continue;
    }
    for (int64_t i = start; i < stop; ++i) keep(scores[i], begin + i, values, indices, k);
  }
}

template <class T>
void keep_highest_of_all(const Tensor& scores, int64_t begin, const Tensor& values, const Tensor& indices) {
  const int64_t count = scores.size(1), k = values.size(1);
  const auto* from = static_cast<const T*>(scores.const_data_ptr());
  auto* kept = static_cast<T*>(values.mutable_data_ptr());
  auto* items = static_cast<int64_t*>(indices.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(count, 1), 1);
  torch::stable::parallel_for(0, scores.size(0), grain, [&](int64_t first, int64_t last) {
    for (int64_t q = first; q < last; ++q) {
      keep_highest(from + q * count, count, begin, kept + q * k, items + q * k, k);
    }
  });
}

DRCL_INLINE float widened(uint16_t bfloat16) { return std::bit_cast<float>(uint32_t{bfloat16} << 16); }

// To the nearest bfloat16, ties to even; of finite numbers.
DRCL_INLINE uint16_t rounded(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The items whose score of bfloat16 is not below a number.
DRCL_INLINE void not_below(float least, const uint16_t* scores, int64_t count, std::vector<int64_t>& found) {
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t stop = std::min(count, start + kBlock);
    if (stop - start == kBlock) {
      int reached = 0;
      for (int64_t i = 0; i < kBlock; ++i) reached |= widened(scores[start + i]) >= least;
      if (!reached) continue;
    }
    for (int64_t i = start; i < stop; ++i) {
      if (widened(scores[i]) >= least) found.push_back(i);
    }
  }
}

// A number that k scores of bfloat16 reach, and few more; -inf where there are not k. The scores are dealt out into
// groups, and k of these have one that high. `room` is for as many numbers as there are groups.
DRCL_INLINE float reached_by(int64_t k, const uint16_t* scores, int64_t count, int64_t groups, float* room) {
  if (groups < k) return -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < groups; ++i) room[i] = widened(scores[i]);
  for (int64_t start = groups; start < count; start += groups) {
    const int64_t some = std::min(groups, count - start);
    for (int64_t i = 0; i < some; ++i) room[i] = std::max(room[i], widened(scores[start + i]));
  }
  std::nth_element(room, room + k - 1, room + groups, std::greater<float>());
  return room[k - 1];
}

// The items of one query that may be among its k highest, of which the last that is kept is `last`.
DRCL_INLINE void collect(const uint16_t* scores, int64_t count, float last, float away, int64_t k,
                         std::vector<float>& room, std::vector<int64_t>& found) {
  if (last == -std::numeric_limits<float>::infinity()) {  // k are not yet kept, but this tile has k so high
    const float own = reached_by(k, scores, count, static_cast<int64_t>(room.size()), room.data());
    last = own - kHalfPlace * std::abs(own) - away;
  }
  // What is above `last` is not below that in bfloat16, into which the products were rounded in the end; -inf is
  // the score of what is left out.
  const float least = last - away;
  const float reached = std::max(least - kHalfPlace * std::abs(least), std::numeric_limits<float>::lowest());
  not_below(reached, scores, count, found);
}

DRCL_INLINE float product(const float* x, const float* y, int64_t width) {
  constexpr int64_t kMany = 64;  // so many that none has to wait for the one before
  float sums[kMany] = {}, rest = 0;
  int64_t i = 0;
  for (; i + kMany <= width; i += kMany) {
    for (int64_t j = 0; j < kMany; ++j) sums[j] += x[i + j] * y[i + j];
  }
  for (; i < width; ++i) rest += x[i] * y[i];
  return total(sums) + rest;
}

// The row times `scale` in bfloat16, its length, and that of what was rounded off.
DRCL_INLINE void round_row(const float* row, int64_t width, float scale, uint16_t* to, float& length, float& off) {
  float squares[kSums] = {}, lost[kSums] = {};
  each(width, [&](int64_t i, int64_t j) {
    const float value = row[i] * scale;
    to[i] = rounded(value);
    const float difference = value - widened(to[i]);
    squares[j] += value * value;
    lost[j] += difference * difference;
  });
  length = std::sqrt(total(squares));
  // Squares of what short rows lose are below the least number of float32: the most that can be lost, then.
  off = length < kShort ? length * kHalfPlace : std::sqrt(total(lost));
}

struct Forms {
  void (*collect)(const uint16_t*, int64_t, float, float, int64_t, std::vector<float>&,
                  std::vector<int64_t>&);
  float (*product)(const float*, const float*, int64_t);
  void (*round_row)(const float*, int64_t, float, uint16_t*, float&, float&);
};

#define DRCL_FORMS(name, instructions)                                                                              \
  instructions void name##_collect(const uint16_t* scores, int64_t count, float last, float away, int64_t k,        \
                                   std::vector<float>& room, std::vector<int64_t>& found) {                         \
    collect(scores, count, last, away, k, room, found);                                                             \
  }                                                                                                                 \
  instructions float name##_product(const float* x, const float* y, int64_t width) { return product(x, y, width); } \
  instructions void name##_round_row(const float* row, int64_t width, float scale, uint16_t* to, float& length,     \
                                     float& off) {                                                                  \
    round_row(row, width, scale, to, length, off);                                                                  \
  }                                                                                                                 \
  constexpr Forms name{name##_collect, name##_product, name##_round_row};

DRCL_FORMS(plain, )
#if defined(DRCL_X86)
DRCL_FORMS(avx2, __attribute__((target("avx2"))))
DRCL_FORMS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif
#undef DRCL_FORMS

// The same bits, whichever.
Forms forms_here() {
#if defined(DRCL_X86)
  if (runs_avx512()) return avx512;
  if (runs_avx2()) return avx2;
#endif
  return plain;
}

// Shapes: drcl/ops/top_k.py.
void top_k(const Tensor& scores, int64_t begin, Tensor values, Tensor indices) {
  const ScalarType type = scores.scalar_type();
  STD_TORCH_CHECK(scores.dim() == 2 && scores.is_contiguous() && (type == ScalarType::Float || type == ScalarType::Double),
                  "scores: expected a contiguous matrix of float32 or float64");
  check_matrix("values", values, scores.size(0), type);
  check_matrix("indices", indices, scores.size(0), ScalarType::Long);
  STD_TORCH_CHECK(values.size(1) == indices.size(1), "indices: expected ", values.size(1), " a query, as values");
  if (values.size(1) == 0) return;
  if (type == ScalarType::Float) {
    keep_highest_of_all<float>(scores, begin, values, indices);
  } else {
    keep_highest_of_all<double>(scores, begin, values, indices);
  }
}

// Shapes: drcl/ops/top_k.py. Returns how many scores were computed; -1, and nothing is kept, for more than `limit`.
int64_t top_k_screened(const Tensor& screen, const Tensor& slack, const Tensor& queries, const Tensor& rows,
                       const std::optional<Tensor>& scale, int64_t begin, int64_t limit, Tensor values,
                       Tensor indices) {
  STD_TORCH_CHECK(screen.dim() == 2 && screen.size(1) == rows.size(0), "screen: expected a score for each row");
  check_matrix("screen", screen, queries.size(0), ScalarType::BFloat16);
  const Highest highest = Highest::of(queries, rows, scale, begin, values, indices);
  const int64_t count = highest.count, items = highest.items, k = highest.k;
  const float* away = vector_of("slack", slack, count);
  const auto* screens = static_cast<const uint16_t*>(screen.const_data_ptr());
  std::vector<std::vector<int64_t>> found(count);
  std::atomic<int64_t> total{0};
  const Forms forms = forms_here();
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(items, 1), 1);
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    std::vector<float> room(std::min(items, std::max<int64_t>(kBlock, kGroups * k)));
    for (int64_t q = first; q < last && total <= limit; ++q) {
      forms.collect(screens + q * items, items, highest.last(q), away[q], k, room, found[q]);
      total += static_cast<int64_t>(found[q].size());
    }
  });
  if (total > limit) return -1;
  highest.take(found);
  return total;
}

// Shapes: drcl/ops/top_k.py.
std::tuple<Tensor, Tensor, Tensor> rounded_rows(const Tensor& rows, const std::optional<Tensor>& scale) {
  STD_TORCH_CHECK(rows.dim() == 2, "rows: expected a matrix");
  const int64_t count = rows.size(0), width = rows.size(1);
  check_matrix("rows", rows, count, ScalarType::Float);
  const float* scales = scale.has_value() ? vector_of("scale", *scale, count) : nullptr;
  Tensor made = torch::stable::new_empty(rows, {count, width}, ScalarType::BFloat16);
  Tensor lengths = torch::stable::new_empty(rows, {count}), off = torch::stable::new_empty(rows, {count});
  const auto* from = static_cast<const float*>(rows.const_data_ptr());
  auto* to = static_cast<uint16_t*>(made.mutable_data_ptr());
  auto* length = static_cast<float*>(lengths.mutable_data_ptr());
  auto* lost = static_cast<float*>(off.mutable_data_ptr());
  const Forms forms = forms_here();
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(width, 1), 1);
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      forms.round_row(from + i * width, width, scales ? scales[i] : 1.0f, to + i * width, length[i], lost[i]);
    }
  });
  return {made, lengths, off};
}

// Whether products of bfloat16 are made by instructions of their own.
bool multiplies_bfloat16() {
#if defined(DRCL_X86)
  return runs_avx512() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

Highest Highest::of(const Tensor& queries, const Tensor& rows, const std::optional<Tensor>& scale, int64_t begin,
                    Tensor& values, Tensor& indices) {
  check_matrix("queries", queries, queries.size(0), ScalarType::Float);
  check_matrix("rows", rows, rows.size(0), ScalarType::Float);
  check_matrix("values", values, queries.size(0), ScalarType::Float);
  check_matrix("indices", indices, queries.size(0), ScalarType::Long);
  const int64_t items = rows.size(0), width = queries.size(1), k = values.size(1);
  STD_TORCH_CHECK(rows.size(1) == width, "rows: expected a width of ", width);
  STD_TORCH_CHECK(indices.size(1) == k && k > 0, "indices: expected ", k, " a query, as values, and one at least");
  return {queries.size(0),
          items,
          width,
          k,
          begin,
          static_cast<const float*>(queries.const_data_ptr()),
          static_cast<const float*>(rows.const_data_ptr()),
          scale.has_value() ? vector_of("scale", *scale, items) : nullptr,
          static_cast<float*>(values.mutable_data_ptr()),
          static_cast<int64_t*>(indices.mutable_data_ptr())};
}

void Highest::take(const std::vector<std::vector<int64_t>>& found) const {
  const Forms forms = forms_here();
  // A few items at a time, for all queries of a thread: those stay in its cache.
  const int64_t together = std::max<int64_t>(1, kNear / std::max<int64_t>(width, 1));
  torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    std::vector<size_t> done(last - first);
    for (int64_t end = std::min(together, items);; end = std::min(end + together, items)) {
      for (int64_t q = first; q < last; ++q) {
        for (size_t& next = done[q - first]; next < found[q].size() && found[q][next] < end; ++next) {
          const int64_t i = found[q][next];
          const float product = forms.product(queries + q * width, rows + i * width, width);
          keep(scales ? product * scales[i] : product, begin + i, values + q * k, indices + q * k, k);
        }
      }
      if (end == items) break;
    }
  });
}

}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("top_k", TORCH_BOX(&drcl::top_k));
  m.impl("top_k_screened", TORCH_BOX(&drcl::top_k_screened));
  m.impl("rounded_rows", TORCH_BOX(&drcl::rounded_rows));
}

STABLE_TORCH_LIBRARY_IMPL(drcl, CompositeExplicitAutograd, m) {
  m.impl("multiplies_bfloat16", TORCH_BOX(&drcl::multiplies_bfloat16));
}
