// drcl::hamming_counts on a CPU: how many codes lie at each Hamming distance from a query. Distances are found
// a chunk at a time, by instructions that count the bits of a word or of eight; then they are counted, in four
// tables, so that two equal distances in a row need not wait for each other. Codes of one word are counted as
// their distances are found: that takes no longer than the bits alone.

#include "instruction_sets.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace drcl {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kChunk = 1024, kTables = 4;

// Distances of a query from n codes of some words: all of them from `codes` on, or those of `items`.
using Distances = void (*)(const uint64_t* query, const uint64_t* codes, const int32_t* items, int64_t n,
                           int64_t words, int32_t* out);

// Codes of one word counted by their distance at once: a multiple of kTables of them, each in a table of its own.
using WordCounts = void (*)(uint64_t query, const uint64_t* codes, int64_t n, int32_t* counts, int64_t width);

#define DRCL_DISTANCES(name, instructions)                                                               \
  instructions void name(const uint64_t* query, const uint64_t* codes, const int32_t* items, int64_t n,  \
                         int64_t words, int32_t* out) {                                                  \
    for (int64_t i = 0; i < n; ++i) {                                                                    \
      const uint64_t* code = codes + (items == nullptr ? i : items[i]) * words;                          \
      int32_t sum = 0;                                                                                   \
      for (int64_t w = 0; w < words; ++w) sum += __builtin_popcountll(query[w] ^ code[w]);               \
      out[i] = sum;                                                                                      \
    }                                                                                                    \
  }                                                                                                      \
  instructions void name##_word(uint64_t query, const uint64_t* codes, int64_t n, int32_t* counts,       \
                                int64_t width) {                                                         \
    static_assert(kTables == 4);                                                                         \
    int32_t *a = counts, *b = a + width, *c = b + width, *d = c + width;                                 \
    for (int64_t i = 0; i < n; i += kTables) {                                                           \
      a[__builtin_popcountll(query ^ codes[i])] += 1;                                                    \
      b[__builtin_popcountll(query ^ codes[i + 1])] += 1;                                                \
      c[__builtin_popcountll(query ^ codes[i + 2])] += 1;                                                \
      d[__builtin_popcountll(query ^ codes[i + 3])] += 1;                                                \
    }                                                                                                    \
  }

DRCL_DISTANCES(plain, )
#if defined(DRCL_X86)
DRCL_DISTANCES(popcnt, __attribute__((target("popcnt"))))
DRCL_DISTANCES(vpopcnt, __attribute__((target("popcnt,avx512f,avx512vl,avx512vpopcntdq"))))
#endif
#undef DRCL_DISTANCES

struct Forms {
  Distances distances;
  WordCounts word;
};

Forms forms_here() {
#if defined(DRCL_X86)
  __builtin_cpu_init();
  if (allows("avx512") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq")) {
    return {vpopcnt, vpopcnt_word};
  }
  if (allows("avx2") && __builtin_cpu_supports("popcnt")) return {popcnt, popcnt_word};
#endif
  return {plain, plain_word};
}

template <class T>
const T* pointer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// Shapes: drcl/ops/hamming_counts.py.
Tensor hamming_counts(const Tensor& query, const Tensor& gallery, const std::optional<Tensor>& begins,
                      const std::optional<Tensor>& ends, const std::optional<Tensor>& items, int64_t bits) {
  const int64_t queries = query.size(0), n = gallery.size(0), words = query.size(1), width = bits + 1;
  STD_TORCH_CHECK(gallery.size(1) == words && bits <= 64 * words, "gallery: expected codes of ", words, " words");
  Tensor out = torch::stable::empty({queries, width}, ScalarType::Double);
  double* rows = static_cast<double*>(out.mutable_data_ptr());
  const auto* asked = static_cast<const uint64_t*>(query.const_data_ptr());
  const auto* codes = static_cast<const uint64_t*>(gallery.const_data_ptr());
  const int64_t *first = pointer<int64_t>(begins), *last = pointer<int64_t>(ends);
  const int32_t* listed = pointer<int32_t>(items);
  const bool ranges = begins.has_value(), gathers = items.has_value();  // of empty items the pointer may be null
  static const Forms forms = forms_here();
  const int64_t grain = std::max<int64_t>((int64_t{1} << 16) / std::max<int64_t>(n, 1), 1);
  torch::stable::parallel_for(0, queries, grain, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> found(kChunk), counts(kTables * width);
    for (int64_t q = begin; q < end; ++q) {
      std::fill(counts.begin(), counts.end(), 0);
      int64_t start = ranges ? first[q] : 0;
      const int64_t to = ranges ? last[q] : n;
      if (words == 1 && !gathers) {
        const int64_t at_once = (to - start) / kTables * kTables;
        forms.word(asked[q], codes + start, at_once, counts.data(), width);
        start += at_once;
      }
      for (; start < to; start += kChunk) {
        const int64_t size = std::min(kChunk, to - start);
        forms.distances(asked + q * words, gathers ? codes : codes + start * words,
                        gathers ? listed + start : nullptr, size, words, found.data());
        for (int64_t i = 0; i < size; ++i) counts[(i % kTables) * width + found[i]] += 1;
      }
      for (int64_t d = 0; d < width; ++d) {
        int64_t sum = 0;
        for (int64_t t = 0; t < kTables; ++t) sum += counts[t * width + d];
        rows[q * width + d] = static_cast<double>(sum);
      }
    }
  });
  return out;
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("hamming_counts", TORCH_BOX(&drcl::hamming_counts));
}
