// The generalised cross-entropy of rows of logits on a CPU, for drcl/native/cross_entropy.py: a row goes through all
// steps while it is in the nearest cache. Rows are divided into blocks of one size, and what is summed over rows is
// summed by blocks and then over blocks in their order, so that the bits are the same for any number of threads. Of
// small batches logits and gradients are found here too: a call of PyTorch's product takes longer than the whole.

#include "cross_entropy.h"
#include "prior_similarity.h"
#include "tensors.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace drcl {
namespace {

constexpr int64_t kGrain = 4096;  // exponentials that are worth a thread

// Sums over the labelled rows of losses and of the probabilities of their own classes; with `mean` divided by the
// number of labelled rows, and so is the gradient of the first by the logits, at `gradient`.
template <class T>
std::tuple<Tensor, Tensor> over_rows(const Tensor& logits, const Tensor& targets, const Tensor& q, bool mean,
                                     bool slopes, T* gradient, T* probabilities) {
  const ScalarType type = logits.scalar_type();
  const int64_t batch = logits.size(0), classes = logits.size(1);
  check("logits", logits, type, {batch, classes});
  STD_TORCH_CHECK(classes >= 1, "logits: expected columns");
  const bool ids = targets.dim() == 1;
  if (ids) {
    check("targets", targets, ScalarType::Long, {batch});
  } else {
    check("targets", targets, type, {batch, classes});
  }
  const int64_t blocks = (batch + kEntropyBlock - 1) / kEntropyBlock;
  std::vector<double> partial(2 * blocks);
  EntropyCall<T> call{};
  call.logits = data<T>(logits);
  call.ids = ids ? data<int64_t>(targets) : nullptr;
  call.targets = ids ? nullptr : data<T>(targets);
  call.q = static_cast<double>(static_cast<T>(number(q)));
  call.batch = batch;
  call.classes = classes;
  call.slopes = slopes;
  call.gradient = gradient;
  call.probabilities = probabilities;
  call.partial = partial.data();
  int64_t count = mean ? 0 : 1;
  for (int64_t row = 0; mean && row < batch; ++row) count += call.labelled(row);
  const double divisor = static_cast<double>(std::max<int64_t>(count, 1));
  call.share = 1.0 / divisor;
  static const auto loop = entropy::loop_here<T>();
  const int64_t grain = std::max<int64_t>(kGrain / (kEntropyBlock * classes), 1);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loop(call, block);
  });
  double losses = 0.0, scores = 0.0;
  for (int64_t block = 0; block < blocks; ++block) {
    losses += partial[2 * block];
    scores += partial[2 * block + 1];
  }
  Tensor loss = empty({}, type), score = empty({}, type);
  *target<T>(loss) = static_cast<T>(losses / divisor);
  *target<T>(score) = static_cast<T>(scores / divisor);
  return {loss, score};
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
FourTensors cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& q) {
  const ScalarType type = logits.scalar_type();
  Tensor gradient = empty({logits.size(0), logits.size(1)}, type);
  Tensor probabilities = empty({logits.size(0), logits.size(1)}, type);
  const auto [loss, score] =
      over_rows<T>(logits, targets, q, true, true, target<T>(gradient), target<T>(probabilities));
  return {loss, score, gradient, probabilities};
}

template <class T>
std::tuple<Tensor, Tensor> cross_entropy_in_place(Tensor& logits, const Tensor& targets, const Tensor& q, bool mean,
                                                  bool slopes) {
  return over_rows<T>(logits, targets, q, mean, slopes, target<T>(logits), nullptr);
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
  const bool by_x = needs.at(0), by_w = needs.at(1);
  Tensor logits = empty({batch, classes}, type);
  Tensor by_features = empty({by_x ? batch : 0, width}, type), by_weight = empty({by_w ? width : 0, classes}, type);
  static const auto products = similarity::products_here<T>();
  const T scale = T(1) / static_cast<T>(temperature), *x = data<T>(features), *w = data<T>(weight);
  const bool narrow = classes < Vector<T>::lanes;  // rows of classes are shorter than a vector
  std::vector<T> columns(narrow || by_x ? width * classes : 0);
  if (!columns.empty()) transpose(w, width, classes, columns.data());
  T* slopes = target<T>(logits);
  if (narrow) {
    products.logits(x, columns.data(), batch, width, classes, scale, slopes);
  } else {
    products.product(x, w, batch, width, classes, scale, slopes);
  }
  const auto [loss, score] = over_rows<T>(logits, targets, q, true, true, slopes, nullptr);
  if (by_x) products.product(slopes, columns.data(), batch, classes, width, scale, target<T>(by_features));
  if (by_w && narrow) {
    std::vector<T> turned(batch * classes);
    transpose(slopes, batch, classes, turned.data());
    products.product(turned.data(), x, classes, batch, width, scale, columns.data());
    transpose(columns.data(), classes, width, target<T>(by_weight));
  } else if (by_w) {
    std::vector<T> turned(batch * width);
    transpose(x, batch, width, turned.data());
    products.product(turned.data(), slopes, width, batch, classes, scale, target<T>(by_weight));
  }
  return {loss, score, logits, by_features, by_weight};
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
