// drcl::top_k_by_integers on a CPU: the k highest scores of every query in a tile, by products of int16 first. One
// instruction multiplies twice as many of those as of float32, and their sums are exact. drcl::integer_rows makes the
// rows for them: whole numbers of a step of each row's own, with how much of the row they lose.

#include "panels.h"
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
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace drcl {
namespace {

using panels::kQueries;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = int64_t{1} << 16;  // entries that are worth a thread
// No sum of products reaches 2^31, which is the product of two lengths of 46,341 (Cauchy and Schwarz): rounding adds
// half the root of the width at most to a row's length, which float32 has to one in a thousand up to kWidest.
constexpr float kLength = 46000.0f, kLargest = 32767.0f;
constexpr int64_t kWidest = int64_t{1} << 16;
constexpr float kRound = 0x1.8p23f;  // beside that, float32 has no fractions
constexpr int64_t kCrowd = 16;       // of so many items, one may be near
constexpr int kHalvings = 10;
constexpr int64_t kMore = 32;        // items, beyond twice those that are kept, that are worth a selection

struct Plain {
  using Value = int16_t;
  using Sum = int32_t;
  typedef int32_t Lanes __attribute__((vector_size(32), may_alias));
  static constexpr int64_t kGroup = 2, kDepth = 512;  // 24 KiB of a panel, as 256 of float32
  static void spread(const int16_t* entries, Lanes& y) {
    int32_t both;
    std::memcpy(&both, entries, sizeof(both));
    y = both - Lanes{};
  }
  static void add(const Lanes& x, const Lanes& y, Lanes& sums) {
    int16_t a[2 * panels::kLanes], b[2 * panels::kLanes];
    std::memcpy(a, &x, sizeof(a));
    std::memcpy(b, &y, sizeof(b));
    for (int64_t l = 0; l < panels::kLanes; ++l) sums[l] += a[2 * l] * b[2 * l] + a[2 * l + 1] * b[2 * l + 1];
  }

  // For each of n rows a bit for every query whose score, in its own steps, is above its least.
  static void reach(const panels::Sums<int32_t>& sums, int64_t n, int64_t queries, const float* steps,
                    const float* least, uint32_t* reached) {
    for (int64_t i = 0; i < n; ++i) {
      reached[i] = 0;
      for (int64_t q = 0; q < queries; ++q) {
        reached[i] |= uint32_t{static_cast<float>(sums.of[i][q]) * steps[i] > least[q]} << q;
      }
    }
  }
};

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
struct Avx2 : Plain {
  static DRCL_INLINE void spread(const int16_t* entries, Lanes& y) { Plain::spread(entries, y); }
  static DRCL_INLINE void add(const Lanes& x, const Lanes& y, Lanes& sums) {
    sums += reinterpret_cast<Lanes>(_mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(y)));
  }
  static void reach(const panels::Sums<int32_t>& sums, int64_t n, int64_t queries, const float* steps,
                    const float* least, uint32_t* reached) {
    const uint32_t all = (uint32_t{1} << queries) - 1;
    for (int64_t i = 0; i < n; ++i) {
      const __m256 step = _mm256_set1_ps(steps[i]);
      reached[i] = 0;
      for (int64_t q = 0; q < queries; q += panels::kLanes) {
        const __m256i whole = _mm256_load_si256(reinterpret_cast<const __m256i*>(sums.of[i] + q));
        const __m256 scores = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), step);
        const __m256 above = _mm256_cmp_ps(scores, _mm256_load_ps(least + q), _CMP_GT_OQ);
        reached[i] |= static_cast<uint32_t>(_mm256_movemask_ps(above)) << q;
      }
      reached[i] &= all;
    }
  }
};
DRCL_END_TARGET
#endif

// The row times `scale` in whole steps, a 0 after an odd number of them; its length, and that of what was rounded off.
DRCL_INLINE void round_row(const float* row, int64_t width, float scale, int16_t* to, float& step, float& length,
                           float& off) {
  float squares[kSums] = {}, largest[kSums] = {}, lost[kSums] = {};
  each(width, [&](int64_t i, int64_t j) {
    const float value = row[i] * scale;
    squares[j] += value * value;
    largest[j] = std::max(largest[j], std::abs(value));
  });
  length = std::sqrt(total(squares));
  step = std::max(length / kLength, *std::max_element(largest, largest + kSums) / kLargest);
  if (step == 0) step = 1;
  const float inverse = 1 / step;
  each(width, [&](int64_t i, int64_t j) {
    const float exact = row[i] * scale * inverse, whole = (exact + kRound) - kRound;
    to[i] = static_cast<int16_t>(static_cast<int32_t>(whole));
    lost[j] += (exact - whole) * (exact - whole);
  });
  if (width % 2) to[width] = 0;
  off = step * std::sqrt(total(lost));  // in steps, whose squares are never too small for float32
}

struct Forms {
  panels::Multiply<Plain> multiply;
  void (*reach)(const panels::Sums<int32_t>&, int64_t, int64_t, const float*, const float*, uint32_t*);
  void (*round_row)(const float*, int64_t, float, int16_t*, float&, float&, float&);
};

#define DRCL_FORMS(name, Form, instructions)                                                                        \
  instructions void name##_round_row(const float* row, int64_t width, float scale, int16_t* to, float& step,        \
                                     float& length, float& off) {                                                   \
    round_row(row, width, scale, to, step, length, off);                                                            \
  }                                                                                                                 \
  constexpr Forms name{panels::name::multiply<Form>, Form::reach, name##_round_row};

DRCL_FORMS(plain, Plain, )
#if defined(DRCL_X86)
DRCL_FORMS(avx2, Avx2, __attribute__((target("avx2,fma"))))
#endif
#undef DRCL_FORMS

// The same bits, whichever.
Forms forms_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return avx2;
#endif
  return plain;
}

// A score that k of n reach, and few others: the range is halved so often.
float reached_by(int64_t k, const float* scores, int64_t n) {
  auto [low, high] = std::minmax_element(scores, scores + n);
  float reached = *low, above = *high;
  for (int halving = 0; halving < kHalvings; ++halving) {
    const float middle = reached + (above - reached) / 2;
    int32_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += scores[i] >= middle;
    (count >= k ? reached : above) = middle;
  }
  return reached;
}

// The items that may be among a query's k nearest by those that were seen, with scores in the query's own steps.
struct Near {
  std::vector<float> scores;
  std::vector<int32_t> items;
  int64_t count = 0;
  bool crowded = false;  // so many are near that they are not noted

  // Leaves out what is too far below the k-th highest: `away` is how far a score may be off. What is not above the
  // number that it returns is near no more.
  float select(int64_t k, float away, float least, int64_t most) {
    if (count >= k) {
      least = std::max(least, reached_by(k, scores.data(), count) - 2 * away);
      int64_t left = 0;
      for (int64_t i = 0; i < count; ++i) {
        scores[left] = scores[i];
        items[left] = items[i];
        left += scores[i] >= least;
      }
      count = left;
    }
    if (count > most) {
      crowded = true;
      count = 0;
      least = std::numeric_limits<float>::infinity();
    }
    scores.resize(2 * std::max(count, k) + kMore);
    items.resize(scores.size());
    return least;
  }
};

// The queries of a panel, and what is not above their `least` is not near.
struct Panel {
  alignas(32) float least[kQueries];
  Near near[kQueries];
};

// Shapes: drcl/ops/top_k.py. Returns how many scores were computed; -1, and nothing is kept, for more than `limit`.
int64_t top_k_by_integers(const Tensor& whole_queries, const Tensor& query_steps, const Tensor& whole_rows,
                          const Tensor& row_steps, const Tensor& slack, const Tensor& queries, const Tensor& rows,
                          const std::optional<Tensor>& scale, int64_t begin, int64_t limit, Tensor values,
                          Tensor indices) {
  const Highest highest = Highest::of(queries, rows, scale, begin, values, indices);
  const int64_t count = highest.count, items = highest.items, k = highest.k;
  const int64_t width = panels::up_to_whole(highest.width, Plain::kGroup);
  check_matrix("whole_queries", whole_queries, count, ScalarType::Short);
  check_matrix("whole_rows", whole_rows, items, ScalarType::Short);
  STD_TORCH_CHECK(whole_queries.size(1) == width, "whole_queries: expected a width of ", width);
  STD_TORCH_CHECK(whole_rows.size(1) == width, "whole_rows: expected a width of ", width);
  const float *step = vector_of("query_steps", query_steps, count), *away = vector_of("slack", slack, count);
  const float* row_step = vector_of("row_steps", row_steps, items);
  const int64_t most = std::max<int64_t>(items / kCrowd, 2 * k);
  std::vector<Panel> all((count + kQueries - 1) / kQueries);
  const auto select = [&](int64_t q) {
    float& least = all[q / kQueries].least[q % kQueries];
    least = all[q / kQueries].near[q % kQueries].select(k, away[q] / step[q], least, most);
  };
  for (int64_t q = 0; q < count; ++q) {
    all[q / kQueries].least[q % kQueries] = (highest.last(q) - away[q]) / step[q];
    select(q);
  }
  const Forms forms = forms_here();
  const auto collect = [&](int64_t first, int64_t some, int64_t row, int64_t n, const panels::Sums<int32_t>& sums) {
    Panel& panel = all[first / kQueries];
    uint32_t reached[panels::kRows];
    forms.reach(sums, n, some, row_step + row, panel.least, reached);
    for (int64_t i = 0; i < n; ++i) {
      for (uint32_t left = reached[i]; left != 0; left &= left - 1) {
        const int64_t q = std::countr_zero(left);
        Near& near = panel.near[q];
        if (near.crowded) continue;
        near.scores[near.count] = static_cast<float>(sums.of[i][q]) * row_step[row + i];
        near.items[near.count] = static_cast<int32_t>(row + i);
        if (++near.count == static_cast<int64_t>(near.items.size())) select(first + q);
      }
    }
  };
  panels::products<Plain>(forms.multiply, static_cast<const int16_t*>(whole_queries.const_data_ptr()), width, count,
                          static_cast<const int16_t*>(whole_rows.const_data_ptr()), width, items, width, collect, true);
  std::vector<std::vector<int64_t>> found(count);
  std::atomic<int64_t> total{0};
  torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t q = first; q < last; ++q) {
      const Near& near = all[q / kQueries].near[q % kQueries];
      if (!near.crowded) select(q);
      found[q].assign(near.items.begin(), near.items.begin() + near.count);
      total += near.crowded ? items : near.count;
    }
  });
  if (total > limit) return -1;
  for (int64_t q = 0; q < count; ++q) {
    for (int64_t i = 0; all[q / kQueries].near[q % kQueries].crowded && i < items; ++i) {
      if (row_step[i] > 0) found[q].push_back(i);
    }
  }
  highest.take(found);
  return total;
}

// Shapes: drcl/ops/top_k.py.
std::tuple<Tensor, Tensor, Tensor, Tensor> integer_rows(const Tensor& rows, const std::optional<Tensor>& scale) {
  STD_TORCH_CHECK(rows.dim() == 2, "rows: expected a matrix");
  const int64_t count = rows.size(0), width = rows.size(1), even = panels::up_to_whole(width, Plain::kGroup);
  STD_TORCH_CHECK(width <= kWidest, "rows: expected a width of ", kWidest, " at most, got ", width);
  check_matrix("rows", rows, count, ScalarType::Float);
  const float* scales = scale.has_value() ? vector_of("scale", *scale, count) : nullptr;
  Tensor made = torch::stable::new_empty(rows, {count, even}, ScalarType::Short);
  Tensor lengths = torch::stable::new_empty(rows, {count}), off = torch::stable::new_empty(rows, {count});
  Tensor steps = torch::stable::new_empty(rows, {count});
  const auto* from = static_cast<const float*>(rows.const_data_ptr());
  auto* to = static_cast<int16_t*>(made.mutable_data_ptr());
  auto *step = static_cast<float*>(steps.mutable_data_ptr()), *length = static_cast<float*>(lengths.mutable_data_ptr());
  auto* lost = static_cast<float*>(off.mutable_data_ptr());
  const Forms forms = forms_here();
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(width, 1), 1);
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      forms.round_row(from + i * width, width, scales ? scales[i] : 1.0f, to + i * even, step[i], length[i], lost[i]);
    }
  });
  return {made, lengths, off, steps};
}

// Whether products of int16 are the fastest that this processor has instructions for.
bool multiplies_int16() { return ends_with_avx2(); }

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("top_k_by_integers", TORCH_BOX(&drcl::top_k_by_integers));
  m.impl("integer_rows", TORCH_BOX(&drcl::integer_rows));
}

STABLE_TORCH_LIBRARY_IMPL(drcl, CompositeExplicitAutograd, m) {
  m.impl("multiplies_int16", TORCH_BOX(&drcl::multiplies_int16));
}
