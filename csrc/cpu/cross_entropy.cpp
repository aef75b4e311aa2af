// The generalised cross-entropy of rows of logits on a CPU, for drcl/native/cross_entropy.py: a row goes through all
// steps while it is in the nearest cache. Rows are divided into blocks of one size, and what is summed over rows is
// summed by blocks and then over blocks in their order, so that the bits are the same for any number of threads. For
// few classes logits and gradients are found here too, while the rows are in the caches: prior_similarity.h.

#include "entropies.h"
#include "prior_similarity.h"

#include <tuple>

namespace drcl {
namespace {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
FourTensors cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& q) {
  const ScalarType type = logits.scalar_type();
  Tensor gradient = empty({logits.size(0), logits.size(1)}, type);
  Tensor probabilities = empty({logits.size(0), logits.size(1)}, type);
  const Entropies<T> entropies(logits, targets, q, true, true, target<T>(gradient), target<T>(probabilities));
  entropies.run_all();
  const auto [loss, score] = entropies.sums();
  return {scalar(loss), scalar(score), gradient, probabilities};
}

template <class T>
std::tuple<Tensor, Tensor> cross_entropy_in_place(Tensor& logits, const Tensor& targets, const Tensor& q, bool mean,
                                                  bool slopes) {
  const Entropies<T> entropies(logits, targets, q, mean, slopes, target<T>(logits), nullptr);
  entropies.run_all();
  const auto [loss, score] = entropies.sums();
  return {scalar(loss), scalar(score)};
}

// Loss and score of the logits XW/τ, and the loss's gradients by logits, by X and by W; the last two are empty where
// they are not needed.
template <class T>
FiveTensors similarity(const Tensor& features, const Tensor& weight, const Tensor& targets, const Tensor& q,
                       double temperature, const std::vector<bool>& needs) {
  const ScalarType type = weight.scalar_type();
  const int64_t batch = features.size(0), width = weight.size(0), classes = weight.size(1);
  check("features", features, type, {batch, width});
  check("weight", weight, type, {width, classes});
  Tensor logits = empty({batch, classes}, type);
  similarity::Call<T> call{};
  call.features = data<T>(features);
  call.weight = data<T>(weight);
  call.batch = batch;
  call.width = width;
  call.classes = classes;
  call.scale = T(1) / static_cast<T>(temperature);
  call.by_x = needs.at(0);
  call.by_w = needs.at(1);
  Tensor by_features = empty({call.by_x ? batch : 0, width}, type);
  Tensor by_weight = empty({call.by_w ? width : 0, classes}, type);
  call.slopes = target<T>(logits);
  call.by_features = target<T>(by_features);
  call.by_weight = target<T>(by_weight);
  const Entropies<T> entropies(logits, targets, q, true, true, call.slopes, nullptr);  // which checks them first
  const int64_t parts = similarity::parts_of(batch, classes), padded = call.padded(), panels = call.panels();
  const int64_t rows = (batch + parts * similarity::kRows - 1) / (parts * similarity::kRows) * similarity::kRows;
  const auto room = [](int64_t size) { return std::make_unique_for_overwrite<T[]>(size); };
  const auto by_columns = room(width * padded), by_rows = room(call.by_x ? call.sums() : 0);
  const auto partial = room(call.by_w ? parts * call.sums() : 0);
  call.columns = by_columns.get();
  call.rows = by_rows.get();
  call.partial = partial.get();
  static const auto products = similarity::products_here<T>();
  products.pack_columns(call);
  const int64_t grain = std::max<int64_t>(kExponentials / (call.kPanel * classes), 1);
  if (call.by_x) {
    torch::stable::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) products.pack_rows(call, panel);
    });
  }
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const auto sums = room(similarity::kRows * padded);
    for (int64_t part = begin; part < end; ++part) {
      T* own = call.by_w ? call.partial + part * call.sums() : nullptr;
      if (call.by_w) std::fill_n(own, call.sums(), T(0));
      const int64_t last = std::min(batch, (part + 1) * rows);
      for (int64_t row = part * rows; row < last; row += similarity::kRows) {
        const int64_t count = std::min(similarity::kRows, last - row);
        products.logits(call, row, count, sums.get());
        entropies.run(row / kEntropyBlock, Entropies<T>::blocks(row + count));
        products.gradients(call, row, count, own);
      }
    }
  });
  if (call.by_w) {
    torch::stable::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) products.total(call, parts, panel);
    });
  }
  const auto [loss, score] = entropies.sums();
  return {scalar(loss), scalar(score), logits, by_features, by_weight};
}

FourTensors cross_entropy_of(const Tensor& logits, const Tensor& targets, const Tensor& q) {
  DRCL_BY_DTYPE(logits, cross_entropy, logits, targets, q);
}

std::tuple<Tensor, Tensor> cross_entropy_in_place_of(Tensor logits, const Tensor& targets, const Tensor& q, bool mean,
                                                     bool slopes) {
  DRCL_BY_DTYPE(logits, cross_entropy_in_place, logits, targets, q, mean, slopes);
}

FiveTensors similarity_of(const Tensor& features, const Tensor& weight, const Tensor& targets, const Tensor& q,
                          double temperature, const std::vector<bool>& needs) {
  DRCL_BY_DTYPE(weight, similarity, features, weight, targets, q, temperature, needs);
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("cross_entropy", TORCH_BOX(&drcl::cross_entropy_of));
  m.impl("cross_entropy_", TORCH_BOX(&drcl::cross_entropy_in_place_of));
  m.impl("similarity_at_once", TORCH_BOX(&drcl::similarity_of));
}
