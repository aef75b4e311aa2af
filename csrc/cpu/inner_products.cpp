// drcl::inner_products on a CPU: queries against many rows that lie as they are. Whatever the form, every product is
// added up in the same order, whichever thread, place or processor it falls to: equal rows have equal products.
//
// A few queries take as long as the rows take to be read. One reader of consecutive rows leaves the memory half idle;
// four that are far apart, each followed by the processor's own prefetcher, do not. Here there are sixteen partial
// sums, then those, then what is left of the width. Many queries are multiplied in panels: panels.h.

#include "float_panels.h"
#include "products.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>

namespace drcl {
namespace {

constexpr int64_t kReaders = 4, kLanes = 8, kStep = 2 * kLanes;
constexpr int64_t kGrain = int64_t{1} << 18;  // entries of rows that are worth a thread

typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// Products of queries with the rows from `begin` to `end`.
using Few = void (*)(const Rows<const float>& queries, const Rows<const float>& rows, int64_t begin, int64_t end,
                     const Rows<float>& out);

// Of one query with S rows that are `step` rows from each other, the first of them row i.
#define DRCL_DOTS(S, i, step)                                                                              \
  for (int64_t q = 0; q < queries.count; ++q) {                                                            \
    const float* query = queries[q];                                                                       \
    Unaligned sums[S][2] = {};                                                                             \
    for (int64_t k = 0; k < whole; k += kStep) {                                                           \
      const Unaligned low = *reinterpret_cast<const Unaligned*>(query + k);                                \
      const Unaligned high = *reinterpret_cast<const Unaligned*>(query + k + kLanes);                      \
      for (int64_t s = 0; s < S; ++s) {                                                                    \
        const float* row = rows[(i) + s * (step)] + k;                                                     \
        sums[s][0] += low * *reinterpret_cast<const Unaligned*>(row);                                      \
        sums[s][1] += high * *reinterpret_cast<const Unaligned*>(row + kLanes);                            \
      }                                                                                                    \
    }                                                                                                      \
    for (int64_t s = 0; s < S; ++s) {                                                                      \
      const float* row = rows[(i) + s * (step)];                                                           \
      const Unaligned t = sums[s][0] + sums[s][1];                                                         \
      float total = ((t[0] + t[4]) + (t[1] + t[5])) + ((t[2] + t[6]) + (t[3] + t[7]));                     \
      for (int64_t k = whole; k < width; ++k) total += query[k] * row[k];                                  \
      out[q][(i) + s * (step)] = total;                                                                    \
    }                                                                                                      \
  }

#define DRCL_FEW(name)                                                                                     \
  void name(const Rows<const float>& queries, const Rows<const float>& rows, int64_t begin, int64_t end,   \
            const Rows<float>& out) {                                                                      \
    const int64_t part = (end - begin) / kReaders, width = rows.width, whole = width / kStep * kStep;      \
    for (int64_t i = begin; i < begin + part; ++i) DRCL_DOTS(kReaders, i, part)                            \
    for (int64_t i = begin + kReaders * part; i < end; ++i) DRCL_DOTS(1, i, 0)                             \
  }

DRCL_FEW(few_plain)
DRCL_TARGET("avx2")
DRCL_FEW(few_avx2)
DRCL_END_TARGET
#undef DRCL_FEW
#undef DRCL_DOTS

// A block's sums, from the i-th row on, as columns from `at` on of the queries' rows in `out`.
void put_from(int64_t i, const FloatSums& sums, int64_t rows, const Rows<float>& out, int64_t at) {
  for (int64_t q = 0; q < out.count; ++q) {
    for (int64_t j = i; j < rows; ++j) out[q][at + j] = sums.of[j][q];
  }
}

void put_plain(const FloatSums& sums, int64_t rows, const Rows<float>& out, int64_t at) {
  put_from(0, sums, rows, out, at);
}

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
// Eight by eight, transposed in registers.
void put_avx2(const FloatSums& sums, int64_t rows, const Rows<float>& out, int64_t at) {
  const int64_t whole = rows / 8 * 8;
  for (int64_t first = 0; first < out.count; first += 8) {
    for (int64_t i = 0; i < whole; i += 8) {
      __m256 a[8], b[8];
      for (int j = 0; j < 8; ++j) a[j] = _mm256_load_ps(sums.of[i + j] + first);
      for (int j = 0; j < 8; j += 2) {
        b[j] = _mm256_unpacklo_ps(a[j], a[j + 1]);
        b[j + 1] = _mm256_unpackhi_ps(a[j], a[j + 1]);
      }
      for (int j = 0; j < 8; j += 4) {
        a[j] = _mm256_shuffle_ps(b[j], b[j + 2], 0x44);
        a[j + 1] = _mm256_shuffle_ps(b[j], b[j + 2], 0xee);
        a[j + 2] = _mm256_shuffle_ps(b[j + 1], b[j + 3], 0x44);
        a[j + 3] = _mm256_shuffle_ps(b[j + 1], b[j + 3], 0xee);
      }
      for (int j = 0; j < 4; ++j) {
        b[j] = _mm256_permute2f128_ps(a[j], a[j + 4], 0x20);
        b[j + 4] = _mm256_permute2f128_ps(a[j], a[j + 4], 0x31);
      }
      for (int j = 0; j < 8 && first + j < out.count; ++j) _mm256_storeu_ps(out[first + j] + at + i, b[j]);
    }
  }
  put_from(whole, sums, rows, out, at);
}
DRCL_END_TARGET
#endif

struct Forms {
  Few few;
  panels::Multiply<Floats> multiply;
  void (*put)(const FloatSums& sums, int64_t rows, const Rows<float>& out, int64_t at);
};

// The same bits, whichever.
Forms forms_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return {few_avx2, panels::avx2::multiply<FusedFloats>, put_avx2};
#endif
  return {few_plain, panels::plain::multiply<Floats>, put_plain};
}

void by_panels(const Forms& forms, const Rows<const float>& queries, const Rows<const float>& rows,
               const Rows<float>& to, bool upper) {
  panels::products<Floats>(forms.multiply, queries.first, queries.apart, queries.count, rows.first, rows.apart,
                           rows.count, rows.width,
                           [&](int64_t q, int64_t some, int64_t at, int64_t size, const FloatSums& sums) {
    forms.put(sums, size, {to[q], some, to.width, to.apart}, at);
  }, false, upper);
}

// Shapes: drcl/ops/inner_products.py.
void inner_products(const Tensor& query, const Tensor& gallery, Tensor out, bool few) {
  const auto queries = rows_of("query", query, static_cast<const float*>(query.const_data_ptr()));
  const auto rows = rows_of("gallery", gallery, static_cast<const float*>(gallery.const_data_ptr()));
  const auto to = rows_of("out", out, static_cast<float*>(out.mutable_data_ptr()));
  STD_TORCH_CHECK(rows.width == queries.width, "gallery: expected rows of width ", queries.width);
  STD_TORCH_CHECK(to.count == queries.count && to.width == rows.count, "out: expected a product of each query and row");
  static const Forms forms = forms_here();
  if (few) {
    const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(rows.width, 1), 1);
    torch::stable::parallel_for(0, rows.count, grain, [&](int64_t begin, int64_t end) {
      forms.few(queries, rows, begin, end, to);
    });
    return;
  }
  by_panels(forms, queries, rows, to, false);
}

// Of rows with each other, at and above the diagonal; below it `out` may be written to as well.
void upper_products(const Tensor& rows, Tensor out) {
  const auto from = rows_of("rows", rows, static_cast<const float*>(rows.const_data_ptr()));
  const auto to = rows_of("out", out, static_cast<float*>(out.mutable_data_ptr()));
  STD_TORCH_CHECK(to.count == from.count && to.width == from.count, "out: expected a product of each row with each");
  static const Forms forms = forms_here();
  by_panels(forms, from, from, to, true);
}

// Whether panels are faster than the products of torch here.
bool multiplies_panels() { return ends_with_avx2(); }

// Rows that are multiplied by panels, and entries of the matrix that they meet, at least.
constexpr int64_t kFewest = 16, kMost = 128, kLeast = int64_t{1} << 17;

void transposed_product(const Tensor& rows, const Tensor& matrix, Tensor out) {
  check("rows", rows, matrix.scalar_type(), {rows.size(0), rows.size(1)});
  check("matrix", matrix, matrix.scalar_type(), {matrix.size(0), rows.size(1)});
  check("out", out, matrix.scalar_type(), {rows.size(0), matrix.size(0)});
  multiply_by_rows(rows, matrix, out);
}

}  // namespace

// On an AMD EPYC, C from 64 to 512 and D from 512 to 4,096, in turns with PyTorch's: by panels 1.3 to 2.2 times as fast
// on two threads for B = 16 and 24, 1.06 to 1.9 for 32 to 64, .99 to 1.7 for 96 and 128; on one 1.2 to 2.0, 1.0 to 1.7
// and .96 to 1.4.
void multiply_by_rows(const Tensor& rows, const Tensor& matrix, Tensor& out) {
  const bool suits = rows.size(0) >= kFewest && rows.size(0) <= kMost && matrix.size(0) * matrix.size(1) >= kLeast;
  if (suits && rows.scalar_type() == torch::headeronly::ScalarType::Float && multiplies_panels()) {
    inner_products(rows, matrix, out, false);
  } else {
    multiply(rows, view(matrix, {matrix.size(1), matrix.size(0)}, {1, matrix.stride(0)}, 0), out);
  }
}

}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("inner_products", TORCH_BOX(&drcl::inner_products));
  m.impl("upper_products", TORCH_BOX(&drcl::upper_products));
  m.impl("transposed_product", TORCH_BOX(&drcl::transposed_product));
}

STABLE_TORCH_LIBRARY_IMPL(drcl, CompositeExplicitAutograd, m) {
  m.impl("multiplies_panels", TORCH_BOX(&drcl::multiplies_panels));
}
