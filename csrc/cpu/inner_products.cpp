// drcl::inner_products on a CPU: a few queries against many rows, as fast as the rows can be read. One reader of
// consecutive rows leaves the memory half idle; four that are far apart, each followed by the processor's own
// prefetcher, do not. Every product is added up in the same order, whichever thread, reader or processor it falls
// to: sixteen partial sums, then those, then what is left of the width.

#include "instruction_sets.h"
#include "panels.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace drcl {
namespace {

using torch::stable::Tensor;

constexpr int64_t kReaders = 4, kLanes = 8, kStep = 2 * kLanes;
constexpr int64_t kGrain = int64_t{1} << 18;  // entries of rows that are worth a thread

typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// Products of `queries` (count, width) with n rows; those of query q go to out + q * stride.
using Products = void (*)(const float* queries, int64_t count, const float* rows, int64_t n, int64_t width,
                          float* out, int64_t stride);

// Of one query with S rows that are `apart` rows from each other, the first of them row i.
#define DRCL_DOTS(S, i, apart)                                                                             \
  for (int64_t q = 0; q < count; ++q) {                                                                    \
    const float *query = queries + q * width, *first = rows + (i) * width;                                 \
    Lanes sums[S][2] = {};                                                                                 \
    for (int64_t k = 0; k < whole; k += kStep) {                                                           \
      const Lanes low = *reinterpret_cast<const Lanes*>(query + k);                                        \
      const Lanes high = *reinterpret_cast<const Lanes*>(query + k + kLanes);                              \
      for (int64_t s = 0; s < S; ++s) {                                                                    \
        const float* row = first + s * (apart) * width + k;                                                \
        sums[s][0] += low * *reinterpret_cast<const Lanes*>(row);                                          \
        sums[s][1] += high * *reinterpret_cast<const Lanes*>(row + kLanes);                                \
      }                                                                                                    \
    }                                                                                                      \
    for (int64_t s = 0; s < S; ++s) {                                                                      \
      const float* row = first + s * (apart) * width;                                                      \
      const Lanes t = sums[s][0] + sums[s][1];                                                             \
      float total = ((t[0] + t[4]) + (t[1] + t[5])) + ((t[2] + t[6]) + (t[3] + t[7]));                     \
      for (int64_t k = whole; k < width; ++k) total += query[k] * row[k];                                  \
      out[q * stride + (i) + s * (apart)] = total;                                                         \
    }                                                                                                      \
  }

#define DRCL_PRODUCTS(name)                                                                                \
  void name(const float* queries, int64_t count, const float* rows, int64_t n, int64_t width,              \
            float* out, int64_t stride) {                                                                  \
    const int64_t part = n / kReaders, whole = width / kStep * kStep;                                      \
    for (int64_t i = 0; i < part; ++i) DRCL_DOTS(kReaders, i, part)                                        \
    for (int64_t i = kReaders * part; i < n; ++i) DRCL_DOTS(1, i, 0)                                       \
  }

DRCL_PRODUCTS(plain)
DRCL_TARGET("avx2")
DRCL_PRODUCTS(avx2)
DRCL_END_TARGET
#undef DRCL_PRODUCTS
#undef DRCL_DOTS

// Many queries: float32 as a Form of panels.h. A product and a sum are rounded once, also where that is slow.
struct Floats {
  using Value = float;
  using Sum = float;
  typedef float Lanes __attribute__((vector_size(32), may_alias));
  static constexpr int64_t kGroup = 1;
  static DRCL_INLINE void spread(const float* entry, Lanes& y) {
    y = Lanes{*entry, *entry, *entry, *entry, *entry, *entry, *entry, *entry};
  }
  static DRCL_INLINE void add(const Lanes& x, const Lanes& y, Lanes& sums) {
    for (int64_t l = 0; l < panels::kLanes; ++l) sums[l] = std::fma(x[l], y[l], sums[l]);
  }
};

#if defined(DRCL_X86)
DRCL_TARGET("avx2,fma")
struct FusedFloats : Floats {
  static DRCL_INLINE void spread(const float* entry, Lanes& y) { y = _mm256_broadcast_ss(entry); }
  static DRCL_INLINE void add(const Lanes& x, const Lanes& y, Lanes& sums) { sums = _mm256_fmadd_ps(x, y, sums); }
};
DRCL_END_TARGET
#endif

// out[q * stride + i] of a block of sums, from the i-th row on.
void put_rows(const panels::Sums<float>& sums, int64_t queries, int64_t i, int64_t rows, float* out, int64_t stride) {
  for (int64_t q = 0; q < queries; ++q) {
    for (int64_t j = i; j < rows; ++j) out[q * stride + j] = sums.of[j][q];
  }
}

void put_plain(const panels::Sums<float>& sums, int64_t queries, int64_t rows, float* out, int64_t stride) {
  put_rows(sums, queries, 0, rows, out, stride);
}

#if defined(DRCL_X86)
// Eight rows at a time, transposed in registers.
DRCL_TARGET("avx2,fma")
void put_avx2(const panels::Sums<float>& sums, int64_t queries, int64_t rows, float* out, int64_t stride) {
  int64_t i = 0;
  for (; i + 8 <= rows; i += 8) {
    for (int64_t first = 0; first < queries; first += 8) {
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
      float* to = out + first * stride + i;
      for (int64_t q = 0; q < 8 && first + q < queries; ++q) _mm256_storeu_ps(to + q * stride, b[q]);
    }
  }
  put_rows(sums, queries, i, rows, out, stride);
}
DRCL_END_TARGET
#endif

// Whose entries lie side by side; rows may lie apart.
void check_rows(const char* name, const Tensor& rows) {
  const bool right = rows.is_cpu() && rows.dim() == 2 && rows.scalar_type() == torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(right, name, ": expected a matrix of float32 on the CPU");
  STD_TORCH_CHECK(rows.stride(1) == 1 || rows.size(1) <= 1, name, ": expected contiguous rows");
}

// Shapes: drcl/ops/inner_products.py.
Tensor inner_products(const Tensor& query, const Tensor& gallery) {
  check_rows("query", query);
  check_rows("gallery", gallery);
  const int64_t count = query.size(0), n = gallery.size(0), width = query.size(1);
  STD_TORCH_CHECK(gallery.size(1) == width, "gallery: expected rows of width ", width);
  Tensor out = torch::stable::empty({count, n}, torch::headeronly::ScalarType::Float);
  const auto* queries = static_cast<const float*>(query.const_data_ptr());
  const auto* rows = static_cast<const float*>(gallery.const_data_ptr());
  float* found = static_cast<float*>(out.mutable_data_ptr());
  static const Products products = runs_avx2() ? avx2 : plain;
  torch::stable::parallel_for(0, n, std::max<int64_t>(kGrain / std::max<int64_t>(width, 1), 1),
                              [&](int64_t begin, int64_t end) {
    products(queries, count, rows + begin * width, end - begin, width, found + begin, n);
  });
  return out;
}

struct Many {
  panels::Multiply<Floats> multiply;
  void (*put)(const panels::Sums<float>& sums, int64_t queries, int64_t rows, float* out, int64_t stride);
};

Many many_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return {panels::avx2::multiply<FusedFloats>, put_avx2};
#endif
  return {panels::plain::multiply<Floats>, put_plain};
}

// Shapes: drcl/ops/inner_products.py.
void inner_products_out(const Tensor& query, const Tensor& gallery, Tensor out) {
  check_rows("query", query);
  check_rows("gallery", gallery);
  check_rows("out", out);
  const int64_t count = query.size(0), n = gallery.size(0), width = query.size(1);
  STD_TORCH_CHECK(gallery.size(1) == width, "gallery: expected rows of width ", width);
  STD_TORCH_CHECK(out.size(0) == count && out.size(1) == n, "out: expected ", count, " rows of width ", n);
  static const Many form = many_here();
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  const int64_t stride = out.stride(0);
  panels::products<Floats>(form.multiply, static_cast<const float*>(query.const_data_ptr()), query.stride(0), count,
                           static_cast<const float*>(gallery.const_data_ptr()), gallery.stride(0), n, width,
                           [&](int64_t q, int64_t queries, int64_t i, int64_t rows, const panels::Sums<float>& sums) {
    form.put(sums, queries, rows, to + q * stride + i, stride);
  });
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("inner_products", TORCH_BOX(&drcl::inner_products));
  m.impl("inner_products_out", TORCH_BOX(&drcl::inner_products_out));
}
