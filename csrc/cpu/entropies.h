// The generalised cross-entropy of a batch, block by block, for the ops that find it from logits.

#pragma once

#include "cross_entropy.h"
#include "tensors.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace drcl {

constexpr int64_t kExponentials = 4096;  // exponentials that are worth a thread

// The losses of a batch, block by block. With `mean` they are divided by the number of labelled rows.
template <class T>
class Entropies {
 public:
  // The gradient of the losses by the logits, times `scale`, goes to `gradient`, which may be the logits' place.
  Entropies(const Tensor& logits, const Tensor& targets, const Tensor& q, bool mean, bool slopes, T* gradient,
            T* probabilities, double scale = 1.0)
      : loop_(entropy::loop_here<T>()) {
    const int64_t batch = logits.size(0), classes = logits.size(1);
    check("logits", logits, type_of<T>, {batch, classes});
    STD_TORCH_CHECK(classes >= 1, "logits: expected columns");
    const bool ids = check_targets(targets, type_of<T>, batch, classes);
    partial_.resize(2 * blocks(batch));
    call_.logits = data<T>(logits);
    call_.ids = ids ? data<int64_t>(targets) : nullptr;
    call_.targets = ids ? nullptr : data<T>(targets);
    call_.q = static_cast<double>(static_cast<T>(number(q)));
    call_.batch = batch;
    call_.classes = classes;
    call_.slopes = slopes;
    call_.gradient = gradient;
    call_.probabilities = probabilities;
    call_.partial = partial_.data();
    int64_t count = mean ? 0 : 1;
    for (int64_t row = 0; mean && row < batch; ++row) count += call_.labelled(row);
    divisor_ = static_cast<double>(std::max<int64_t>(count, 1));
    call_.share = scale / divisor_;
  }

  Entropies(const Entropies&) = delete;

  static int64_t blocks(int64_t rows) { return (rows + kEntropyBlock - 1) / kEntropyBlock; }

  void run(int64_t begin, int64_t end) const {
    for (int64_t block = begin; block < end; ++block) loop_(call_, block);
  }

  void run_all() const {
    const int64_t grain = std::max<int64_t>(kExponentials / (kEntropyBlock * call_.classes), 1);
    torch::stable::parallel_for(0, blocks(call_.batch), grain, [&](int64_t begin, int64_t end) { run(begin, end); });
  }

  // Over the labelled rows, of losses and of the probabilities of their own classes.
  std::pair<T, T> sums() const {
    double losses = 0.0, scores = 0.0;
    for (int64_t block = 0; block < blocks(call_.batch); ++block) {
      losses += partial_[2 * block];
      scores += partial_[2 * block + 1];
    }
    return {static_cast<T>(losses / divisor_), static_cast<T>(scores / divisor_)};
  }

 private:
  void (*loop_)(const EntropyCall<T>&, int64_t block);
  EntropyCall<T> call_{};
  std::vector<double> partial_;
  double divisor_ = 1.0;
};

}  // namespace drcl
