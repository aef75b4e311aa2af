// drcl::column_products on a CPU: products of the columns of a matrix with each other, FᵀF, of which one triangle is
// formed and mirrored, and of those of another with them. A part of the rows at a time is copied into panels
// (panels.h), which are then multiplied with each other: no matrix is turned, and the bits are the same on any number
// of threads.

#include "float_panels.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace drcl {
namespace {

using panels::kGrain;
using panels::kQueries;

constexpr int64_t kPart = 512;  // rows of a part: two panels of it are in a core's own cache

using MultiplyPanels = void (*)(const float* panel, int64_t queries, const float* columns, int64_t n, int64_t width,
                                FloatSums& sums);

MultiplyPanels multiply_here() {
#if defined(DRCL_X86)
  if (runs_avx2()) return panels::avx2::multiply_panels<FusedFloats>;
#endif
  return panels::plain::multiply_panels<Floats>;
}

// Some columns of a part of the rows, beside each other; what is left of their vectors is zero.
void pack_columns(const float* first, int64_t apart, int64_t columns, int64_t rows, float* panel) {
  const int64_t lanes = panels::up_to_whole(columns, panels::kLanes);
  for (int64_t i = 0; i < rows; ++i, first += apart, panel += lanes) {
    std::copy_n(first, columns, panel);
    std::fill(panel + columns, panel + lanes, 0.0F);
  }
}

// Shapes: drcl/native/products.py.
void column_products(const Tensor& rows, const std::optional<Tensor>& others, Tensor out, std::optional<Tensor> crossed) {
  const auto from = rows_of("rows", rows, static_cast<const float*>(rows.const_data_ptr()));
  const auto to = rows_of("out", out, static_cast<float*>(out.mutable_data_ptr()));
  STD_TORCH_CHECK(to.count == from.width && to.width == from.width, "out: expected a product of each column with each");
  Rows<const float> more{nullptr, from.count, 0, 0};
  Rows<float> across{nullptr, 0, from.width, 0};
  STD_TORCH_CHECK(others.has_value() == crossed.has_value(), "crossed: expected with others, and with these alone");
  if (others.has_value()) {
    more = rows_of("others", *others, static_cast<const float*>(others->const_data_ptr()));
    across = rows_of("crossed", *crossed, static_cast<float*>(crossed->mutable_data_ptr()));
    STD_TORCH_CHECK(more.count == from.count, "others: expected ", from.count, " rows");
    STD_TORCH_CHECK(across.count == more.width && across.width == from.width,
                    "crossed: expected a product of each other column with each");
  }
  static const MultiplyPanels multiply = multiply_here();
  const auto panels_of = [](int64_t width) { return (width + kQueries - 1) / kQueries; };
  const int64_t count = panels_of(from.width), all = count + panels_of(more.width);
  const int64_t part = std::clamp<int64_t>(from.count, 1, kPart), apart = kQueries * part, floats = all * apart;
  const auto first = [&](int64_t p) { return (p < count ? p : p - count) * kQueries; };
  const auto columns = [&](int64_t p) { return std::min(kQueries, (p < count ? from : more).width - first(p)); };
  auto memory = torch::stable::empty({floats * int64_t{sizeof(float)}}, torch::headeronly::ScalarType::Byte);
  auto* panels = static_cast<float*>(memory.mutable_data_ptr());
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t p = 0; p < all; ++p) {
    for (int64_t q = p < count ? p : 0; q < count; ++q) pairs.emplace_back(p, q);
  }
  for (int64_t begun = 0; begun == 0 || begun < from.count; begun += part) {
    const int64_t depth = std::min(part, from.count - begun);
    const bool last = begun + depth == from.count;
    torch::stable::parallel_for(0, all, std::max<int64_t>(kGrain / apart, 1), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const auto& source = p < count ? from : more;
        pack_columns(source[begun] + first(p), source.apart, columns(p), depth, panels + p * apart);
      }
    });
    // A thread takes the next pair when it is done: none waits for one that shares its core with another program.
    std::atomic<size_t> next{0};
    const int64_t grain = std::max<int64_t>(kGrain / (kQueries * apart), 1);
    torch::stable::parallel_for(0, static_cast<int64_t>(pairs.size()), grain, [&](int64_t, int64_t) {
      FloatSums sums;
      for (size_t i = next.fetch_add(1); i < pairs.size(); i = next.fetch_add(1)) {
        const auto [p, q] = pairs[i];
        const int64_t high = columns(p), wide = columns(q);
        multiply(panels + q * apart, wide, panels + p * apart, high, depth, sums);
        for (int64_t r = 0; r < high; ++r) {
          float* row = (p < count ? to : across)[first(p) + r] + first(q);
          for (int64_t j = 0; j < wide; ++j) row[j] = sums.of[r][j] = begun > 0 ? row[j] + sums.of[r][j] : sums.of[r][j];
        }
        if (!last || p == q || p >= count) continue;
        for (int64_t j = 0; j < wide; ++j) {
          float* row = to[first(q) + j] + first(p);
          for (int64_t r = 0; r < high; ++r) row[r] = sums.of[r][j];
        }
      }
    });
  }
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) { m.impl("column_products", TORCH_BOX(&drcl::column_products)); }
