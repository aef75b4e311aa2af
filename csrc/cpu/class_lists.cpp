// What a small evaluation by classes is ranked with, for drcl/metrics/plain.py: in one call, which costs less than the
// first of as many of PyTorch's.

#include "tensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

namespace drcl {
namespace {

constexpr float kShortest = 1e-15f, kLongest = 1e15f;  // rows whose squares float32 holds
constexpr int64_t kMostClasses = int64_t{1} << 16;

bool regular(const Tensor& lengths) {
  const float* values = data<float>(lengths);
  return std::all_of(values, values + lengths.size(0), [](float one) { return one > kShortest && one < kLongest; });
}

// The largest id, −1 where one is none of a few from 0 on.
int64_t largest_of(const Tensor& ids) {
  const int64_t *values = data<int64_t>(ids), n = ids.size(0);
  int64_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (values[i] < 0 || values[i] >= kMostClasses) return -1;
    most = std::max(most, values[i]);
  }
  return most;
}

// Whether rows share their first two entries.
bool may_repeat(const Tensor& rows) {
  const int64_t n = rows.size(0), down = rows.stride(0), right = rows.stride(1);
  const float* values = data<float>(rows);
  int bits = 1;
  while ((int64_t{1} << bits) < 2 * n) ++bits;
  const uint64_t last = (uint64_t{1} << bits) - 1;
  std::vector<int64_t> table(last + 1, -1);  // rows, by their entries
  std::vector<uint64_t> keys(n);
  for (int64_t i = 0; i < n; ++i) {
    const float pair[2] = {values[i * down] + 0.0f, values[i * down + right] + 0.0f};  // −0 is 0
    std::memcpy(&keys[i], pair, sizeof(pair));
    uint64_t at = (keys[i] * 0x9E3779B97F4A7C15u) >> (64 - bits);
    for (; table[at] >= 0; at = (at + 1) & last) {
      if (keys[table[at]] == keys[i]) return true;
    }
    table[at] = i;
  }
  return false;
}

using Lists = std::tuple<Tensor, Tensor, Tensor, Tensor, int64_t>;

// The inverse lengths, the items of each class (offsets and positions), where each query's list of classes begins, and
// how many items the largest class has: −1 where lengths, ids or rows ask for more than is done here. Rows are given
// where equal ones ask for more.
Lists class_lists(const Tensor& lengths, const Tensor& query_lengths, const std::optional<Tensor>& gallery,
                  const Tensor& query_ids, const Tensor& ids) {
  const int64_t n = ids.size(0), q = query_ids.size(0);
  check("lengths", lengths, ScalarType::Float, {n});
  check("query_lengths", query_lengths, ScalarType::Float, {q});
  check("query_ids", query_ids, ScalarType::Long, {q});
  check("ids", ids, ScalarType::Long, {n});
  if (gallery.has_value()) {
    STD_TORCH_CHECK(gallery->dim() == 2 && gallery->scalar_type() == ScalarType::Float && gallery->size(0) == n &&
                    gallery->size(1) >= 2, "gallery: expected float32 (N, D) with D > 1");
  }
  const int64_t wanted = largest_of(query_ids), most = largest_of(ids);
  if (wanted < 0 || most < 0 || !regular(lengths) || !regular(query_lengths) ||
      (gallery.has_value() && may_repeat(*gallery))) {
    const Tensor none = empty({0}, ScalarType::Long);
    return {none, none, none, none, -1};
  }
  const int64_t classes = std::max(wanted, most) + 1;
  Tensor scale = empty({n}, ScalarType::Float), offsets = empty({classes + 1}, ScalarType::Long);
  Tensor items = empty({n}, ScalarType::Int), begins = empty({q + 1}, ScalarType::Long);
  int64_t *ends = target<int64_t>(offsets), *starts = target<int64_t>(begins), largest = 0;
  const int64_t* of = data<int64_t>(ids);
  std::fill_n(ends, classes + 1, 0);
  for (int64_t i = 0; i < n; ++i) ++ends[of[i] + 1];
  for (int64_t c = 0; c < classes; ++c) {
    largest = std::max(largest, ends[c + 1]);
    ends[c + 1] += ends[c];
  }
  std::vector<int64_t> next(ends, ends + classes);
  int32_t* places = target<int32_t>(items);
  float* inverse = target<float>(scale);
  const float* length = data<float>(lengths);
  for (int64_t i = 0; i < n; ++i) {
    places[next[of[i]]++] = static_cast<int32_t>(i);
    inverse[i] = static_cast<float>(1.0 / static_cast<double>(length[i]));
  }
  for (int64_t i = 0; i <= q; ++i) starts[i] = i;
  return {scale, offsets, items, begins, largest};
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) { m.impl("class_lists", TORCH_BOX(&drcl::class_lists)); }
