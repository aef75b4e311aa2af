// The loss's stages by rows in the whole space on a CPU, for drcl/native/reversible_consistency.py: each goes over a row
// once, between products that are PyTorch's. What is summed over rows is summed by blocks and then over blocks in their
// order, so that these sums have the same bits for any number of threads.

#include "entropies.h"
#include "products.h"
#include "whole_stages.h"

namespace drcl::loss {
namespace {

constexpr int64_t kPerEntry = 32;  // what a row's entry takes, in multiplications
constexpr int64_t kLoops = 64;     // rows up to which MV − ZU is loops too

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

// Mixed rows of labels (B, C), and whether there are any (B,).
template <class T>
std::pair<Tensor, Tensor> mixed_labels(const Labels<T>& labels, int64_t batch) {
  static const WholeLoops<T> loops = whole_loops_here<T>();
  Tensor rows = empty({batch, labels.classes}, type_of<T>), labelled = empty({batch}, ScalarType::Bool);
  const WholeLabelsCall<T> call{labels, batch, target<T>(rows), target<bool>(labelled)};
  over_blocks(batch, labels.classes, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loops.labels(call, block);
  });
  return {rows, labelled};
}

}  // namespace

template <class T>
FourTensors whole_rows(const Tensor& features, const Tensor& targets, const Maybe& permutation, const Tensor& q,
                       const Tensor& recast, const Tensor& weight, double temperature, double lam, bool slopes) {
  const ScalarType type = type_of<T>;
  const int64_t batch = features.size(0), width = weight.size(0), classes = weight.size(1);
  check("features", features, type, {batch, width});
  check("recast", recast, type, {classes, width});
  check("weight", weight, type, {width, classes});
  const Labels<T> labels = labels_of<T>(targets, permutation, batch, classes, lam);
  Tensor scaled = empty({batch, width}, type), coordinates = empty({batch, 3 * width}, type);
  Tensor norms = empty({2, batch}, type), sums = empty({kSums}, type);
  std::vector<double> partial(2 * blocks_of(batch));
  WholeRowsCall<T> call{};
  Tensor y = targets, labelled = targets, recast_rows = recast;
  if (labels.has_rows()) {
    std::tie(y, labelled) = mixed_labels(labels, batch);
    recast_rows = empty({batch, width}, type);
    if (!label_product<T>(y, recast, recast_rows)) multiply(y, recast, recast_rows);
    call.labelled = data<bool>(labelled);
  } else {
    call.ids = labels.ids;
  }
  call.features = data<T>(features);
  call.recast = data<T>(recast_rows);
  call.permutation = labels.permutation;
  call.temperature = static_cast<T>(temperature);
  call.lam = labels.lam;
  call.batch = batch;
  call.width = width;
  call.classes = classes;
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
  Tensor logits = empty({batch, classes}, type), by_features = empty({slopes ? batch : 0, width}, type);
  multiply(scaled, weight, logits);
  const Entropies<T> entropies(logits, y, q, false, slopes, target<T>(logits), nullptr, 1.0 / temperature);
  entropies.run_all();
  if (slopes) multiply_by_rows(logits, weight, by_features);
  T* to = target<T>(sums);
  to[0] = entropies.sums().first;
  to[1] = static_cast<T>(errors);
  to[2] = static_cast<T>(count);
  return {coordinates, by_features, norms, sums};
}

// M and Z are the halves of (U + V)Δᵀ.
template <class T>
Tensor whole_differences(const Tensor& coordinates, const Tensor& norms) {
  const ScalarType type = type_of<T>;
  const int64_t batch = coordinates.size(0), width = coordinates.size(1) / 3;
  check("coordinates", coordinates, type, {batch, 3 * width});
  check("norms", norms, type, {2, batch});
  Tensor sums = empty({batch, width}, type), product = empty({batch, batch}, type), both = empty({2, batch, batch}, type);
  const T* h = data<T>(coordinates);
  T* to = target<T>(sums);
  over_blocks(batch, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kBlock; row < std::min(batch, end * kBlock); ++row) {
      const T *u = h + row * 3 * width, *v = u + 2 * width;
      for (int64_t i = 0; i < width; ++i) to[row * width + i] = u[i] + v[i];
    }
  });
  multiply_by_rows(sums, view(coordinates, {batch, width}, {3 * width, 1}, width), product);
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

template <class T>
void whole_gradient(Tensor& out, const Maybe& matrices, const std::vector<Maybe>& grads, const Tensor& coordinates,
                    const Tensor& label_gradient, const Tensor& norms, const Tensor& sums,
                    const std::vector<double>& weights) {
  const ScalarType type = type_of<T>;
  const int64_t batch = out.size(0), width = out.size(1);
  check("out", out, type, {batch, width});
  check("coordinates", coordinates, type, {batch, 3 * width});
  check("label_gradient", label_gradient, type, {batch, width});
  check("norms", norms, type, {2, batch});
  check("sums", sums, type, {kSums});
  WholeGradientCall<T> call{};
  if (matrices.has_value()) {
    check("matrices", *matrices, type, {2, batch, batch});
    if (batch <= kLoops) {
      call.m = data<T>(*matrices);
      call.z = call.m + batch * batch;
    } else {
      const auto columns = [&](int64_t from) { return view(coordinates, {batch, width}, {3 * width, 1}, from); };
      const auto matrix = [&](int64_t i) { return view(*matrices, {batch, batch}, {batch, 1}, i * batch * batch); };
      multiply(matrix(0), columns(2 * width), out);
      subtract_product(matrix(1), columns(0), out);
    }
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

#define DRCL_WHOLE_STAGES(T)                                                                                         \
  template FourTensors whole_rows<T>(const Tensor&, const Tensor&, const Maybe&, const Tensor&, const Tensor&,       \
                                     const Tensor&, double, double, bool);                                           \
  template Tensor whole_differences<T>(const Tensor&, const Tensor&);                                                \
  template void whole_gradient<T>(Tensor&, const Maybe&, const std::vector<Maybe>&, const Tensor&, const Tensor&,    \
                                  const Tensor&, const Tensor&, const std::vector<double>&);

DRCL_WHOLE_STAGES(float)
DRCL_WHOLE_STAGES(double)

namespace {

Tensor whole_differences_of(const Tensor& coordinates, const Tensor& norms) {
  DRCL_BY_DTYPE(coordinates, whole_differences, coordinates, norms);
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
  m.impl("whole_differences", TORCH_BOX(&drcl::loss::whole_differences_of));
  m.impl("whole_gradient", TORCH_BOX(&drcl::loss::whole_gradient_of));
  m.impl("label_product", TORCH_BOX(&drcl::loss::label_product_of));
}
