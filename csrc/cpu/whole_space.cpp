// The loss's stages by rows in the whole space on a CPU, for drcl/native/whole_space.py: each goes over a row once,
// between products that are PyTorch's. What is summed over rows is summed by blocks and then over blocks in their
// order, so that the bits are the same for any number of threads.

#include "loss_arguments.h"
#include "whole_space.h"

#include <tuple>

namespace drcl::loss {
namespace {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

constexpr int64_t kPerEntry = 32;  // what a row's entry takes, in multiplications

// Of ids, with P (C, D), or of R (B, D) and whether rows are labelled: mixed rows over the temperature (B, D), H
// (B, 3D), lengths (2, B), and the sums over rows, but for that of GCE.
template <class T>
FourTensors whole_rows(const Tensor& features, const Maybe& ids, const Tensor& recast, const Maybe& labelled,
                       const Maybe& permutation, double temperature, double lam) {
  const ScalarType type = recast.scalar_type();
  const int64_t batch = features.size(0), width = recast.size(1);
  check("features", features, type, {batch, width});
  check("recast", recast, type, {ids.has_value() ? recast.size(0) : batch, width});
  Tensor scaled = empty({batch, width}, type), coordinates = empty({batch, 3 * width}, type);
  Tensor norms = empty({2, batch}, type), sums = empty({kSums}, type);
  std::vector<double> partial(2 * blocks_of(batch));
  WholeRowsCall<T> call{};
  call.features = data<T>(features);
  call.recast = data<T>(recast);
  if (ids.has_value()) {
    check("ids", *ids, ScalarType::Long, {batch});
    call.ids = data<int64_t>(*ids);
  } else {
    check("labelled", labelled.value(), ScalarType::Bool, {batch});
    call.labelled = data<bool>(*labelled);
  }
  call.permutation = permutation_of(permutation, batch);
  call.temperature = static_cast<T>(temperature);
  call.lam = static_cast<T>(lam);
  call.batch = batch;
  call.width = width;
  call.classes = recast.size(0);
  call.scaled = target<T>(scaled);
  call.coordinates = target<T>(coordinates);
  call.lengths = target<T>(norms);
  call.recast_lengths = call.lengths + batch;
  call.partial = partial.data();
  static const WholeLoops<T> loops = whole_loops_here<T>();
  over_blocks(batch, kPerEntry * width, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loops.rows(call, block);
  });
  double errors = 0.0, count = 0.0;
  for (size_t block = 0; block < partial.size(); block += 2) {
    errors += partial[block];
    count += partial[block + 1];
  }
  T* to = target<T>(sums);
  to[0] = T(0);
  to[1] = static_cast<T>(errors);
  to[2] = static_cast<T>(count);
  return {scaled, coordinates, norms, sums};
}

// M and Z (2, B, B) from (U + V)Δᵀ.
template <class T>
Tensor whole_differences(const Tensor& product, const Tensor& norms) {
  const ScalarType type = product.scalar_type();
  const int64_t batch = product.size(0);
  check("product", product, type, {batch, batch});
  check("norms", norms, type, {2, batch});
  Tensor both = empty({2, batch, batch}, type);
  WholeDifferencesCall<T> call{};
  call.product = data<T>(product);
  call.lengths = data<T>(norms);
  call.recast_lengths = call.lengths + batch;
  call.batch = batch;
  call.m = target<T>(both);
  call.z = call.m + batch * batch;
  static const WholeLoops<T> loops = whole_loops_here<T>();
  over_blocks(batch, 4 * batch, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loops.differences(call, block);
  });
  return both;
}

// The gradient (B, D): of M and Z, or in the place of what they come to.
template <class T>
void whole_gradient(Tensor& out, const Maybe& matrices, const std::vector<Maybe>& grads, const Tensor& coordinates,
                    const Tensor& label_gradient, const Tensor& norms, const Tensor& sums,
                    const std::vector<double>& weights) {
  const ScalarType type = out.scalar_type();
  const int64_t batch = out.size(0), width = out.size(1);
  check("out", out, type, {batch, width});
  check("coordinates", coordinates, type, {batch, 3 * width});
  check("label_gradient", label_gradient, type, {batch, width});
  check("norms", norms, type, {2, batch});
  check("sums", sums, type, {kSums});
  WholeGradientCall<T> call{};
  if (matrices.has_value()) {
    check("matrices", *matrices, type, {2, batch, batch});
    call.m = data<T>(*matrices);
    call.z = call.m + batch * batch;
  }
  call.coordinates = data<T>(coordinates);
  call.label_gradient = data<T>(label_gradient);
  call.lengths = data<T>(norms);
  call.recast_lengths = call.lengths + batch;
  call.by = factors_of<T>(grads, weights, sums, width);
  call.batch = batch;
  call.width = width;
  call.gradient = target<T>(out);
  static const WholeLoops<T> loops = whole_loops_here<T>();
  over_blocks(batch, kPerEntry * width, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loops.gradient(call, block);
  });
}

// The product of rows of labels (B, C) and a matrix (C, D) goes to `out`, unless more than one in kSparse is not zero:
// then it returns false.
constexpr int64_t kSparse = 8;

template <class T>
bool label_product(const Tensor& rows, const Tensor& matrix, Tensor& out) {
  const ScalarType type = matrix.scalar_type();
  const int64_t batch = rows.size(0), classes = matrix.size(0), width = matrix.size(1);
  check("rows", rows, type, {batch, classes});
  check("matrix", matrix, type, {classes, width});
  check("out", out, type, {batch, width});
  const T *y = data<T>(rows), *values = data<T>(matrix);
  const int64_t some = batch * classes - std::count(y, y + batch * classes, T(0));
  if (some * kSparse > batch * classes) return false;
  T* to = target<T>(out);
  static const WholeLoops<T> loops = whole_loops_here<T>();
  over_blocks(batch, classes + some / std::max<int64_t>(batch, 1) * width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kBlock; row < std::min(batch, end * kBlock); ++row) {
      loops.label_product(y + row * classes, classes, values, width, to + row * width);
    }
  });
  return true;
}

FourTensors whole_rows_of(const Tensor& features, const Maybe& ids, const Tensor& recast, const Maybe& labelled,
                          const Maybe& permutation, double temperature, double lam) {
  DRCL_BY_DTYPE(recast, whole_rows, features, ids, recast, labelled, permutation, temperature, lam);
}

Tensor whole_differences_of(const Tensor& product, const Tensor& norms) {
  DRCL_BY_DTYPE(product, whole_differences, product, norms);
}

void whole_gradient_of(Tensor out, const Maybe& matrices, const std::vector<Maybe>& grads, const Tensor& coordinates,
                       const Tensor& label_gradient, const Tensor& norms, const Tensor& sums,
                       const std::vector<double>& weights) {
  DRCL_BY_DTYPE(out, whole_gradient, out, matrices, grads, coordinates, label_gradient, norms, sums, weights);
}

bool label_product_of(const Tensor& rows, const Tensor& matrix, Tensor out) {
  DRCL_BY_DTYPE(matrix, label_product, rows, matrix, out);
}

}  // namespace
}  // namespace drcl::loss

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("whole_rows", TORCH_BOX(&drcl::loss::whole_rows_of));
  m.impl("whole_differences", TORCH_BOX(&drcl::loss::whole_differences_of));
  m.impl("whole_gradient", TORCH_BOX(&drcl::loss::whole_gradient_of));
  m.impl("label_product", TORCH_BOX(&drcl::loss::label_product_of));
}
