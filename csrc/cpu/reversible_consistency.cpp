// The loss's stages by rows on a CPU, for drcl/native/reversible_consistency.py: a few rows go through all steps of
// a stage while they are in the nearest cache, and what each stage leaves is written once. Large products are left
// to PyTorch. Rows are divided into blocks of one size; what is summed over rows is summed by blocks and then over
// blocks in their order, so that the bits are the same for any number of threads.

#include "whole_stages.h"

namespace drcl::loss {
namespace {

// The transpose of a matrix (n, m) of rows: (m, n).
template <class T>
std::vector<T> transposed(const T* rows, int64_t n, int64_t m) {
  std::vector<T> columns(n * m);
  for (int64_t from = 0; from < n; from += kBlock) {  // a line of a column is written at once
    const int64_t to = std::min(n, from + kBlock);
    for (int64_t j = 0; j < m; ++j) {
      for (int64_t i = from; i < to; ++i) columns[j * n + i] = rows[i * m + j];
    }
  }
  return columns;
}

// Q (D, K) by columns: as it lies where it lies so, else copied to `copy`.
template <class T>
const T* columns_of(const Tensor& basis, std::vector<T>& copy) {
  const int64_t d = basis.size(0), k = basis.size(1), down = basis.stride(0), right = basis.stride(1);
  if ((down == 1 || d == 1) && (right == d || k == 1)) return data<T>(basis);
  copy.resize(d * k);
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < k; ++j) copy[j * d + i] = data<T>(basis)[i * down + j * right];
  }
  return copy.data();
}

template <class T>
FourTensors rows(const Tensor& features, const Tensor& targets, const std::optional<Tensor>& permutation,
                 const Tensor& q, const Tensor& basis, const Tensor& recast, const Tensor& weight, double temperature,
                 double lam, bool slopes, Tensor& outside) {
  if (basis.size(1) == 0) {
    check("basis", basis, type_of<T>, {weight.size(0), 0});
    return whole_rows<T>(features, targets, permutation, q, recast, weight, temperature, lam, slopes);
  }
  const ScalarType type = basis.scalar_type();
  const int64_t batch = features.size(0), width = basis.size(0), k = basis.size(1), classes = recast.size(0);
  STD_TORCH_CHECK(k >= 1 && k <= kMaxK && classes >= 1, "basis: expected 1 to ", kMaxK, " columns, got ", k);
  check("features", features, type, {batch, width});
  check("recast", recast, type, {classes, k});
  check("weight", weight, type, {k, classes});
  check("outside", outside, type, {batch, width});
  Tensor coordinates = empty({batch, 3 * k}, type), label_gradient = empty({slopes ? batch : 0, k}, type);
  Tensor norms = empty({2, batch}, type), sums = empty({kSums}, type);
  std::vector<T> copy;
  std::vector<double> partial(kSums * blocks_of(batch));
  RowsCall<T> call{};
  static_cast<Labels<T>&>(call) = labels_of<T>(targets, permutation, batch, classes, lam);
  call.features = data<T>(features);
  call.basis = columns_of(basis, copy);
  call.recast = data<T>(recast);
  call.weight = data<T>(weight);
  call.q = static_cast<double>(static_cast<T>(number(q)));
  call.temperature = temperature;
  call.batch = batch;
  call.width = width;
  call.k = k;
  call.slopes = slopes;
  call.outside = target<T>(outside);
  call.coordinates = target<T>(coordinates);
  call.label_gradient = target<T>(label_gradient);
  call.lengths = target<T>(norms);
  call.recast_lengths = call.lengths + batch;
  call.partial = partial.data();
  static const Loops<T> loops = loops_here<T>();
  over_blocks(batch, 4 * width * k + 2 * classes * k, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(call);
    for (int64_t block = begin; block < end; ++block) loops.rows(call, block, scratch);
  });
  for (int64_t i = 0; i < kSums; ++i) {
    double sum = 0.0;
    for (int64_t block = 0; block < blocks_of(batch); ++block) sum += partial[kSums * block + i];
    target<T>(sums)[i] = static_cast<T>(sum);
  }
  return {coordinates, label_gradient, norms, sums};
}

template <class T>
void differences(Tensor& both, const Tensor& outside, const Tensor& coordinates, const Tensor& norms, bool multiply) {
  const ScalarType type = coordinates.scalar_type();
  const int64_t batch = coordinates.size(0), k = coordinates.size(1) / 3, width = outside.size(1);
  STD_TORCH_CHECK(k <= kMaxK, "coordinates: expected at most ", 3 * kMaxK, " columns");
  check("both", both, type, {2, batch, batch});
  check("outside", outside, type, {batch, width});
  check("coordinates", coordinates, type, {batch, 3 * k});
  check("norms", norms, type, {2, batch});
  const T* h = data<T>(coordinates);
  static const Loops<T> loops = loops_here<T>();
  double squares_of_delta = 0.0, squares_of_v = 0.0;
  for (int64_t i = 0; i < batch; ++i) {
    squares_of_delta += loops.sum_of_squares(h + i * 3 * k + k, k);
    squares_of_v += loops.sum_of_squares(h + i * 3 * k + 2 * k, k);
  }
  const std::vector<T> by_column = transposed(h, batch, 3 * k);
  DifferencesCall<T> call{};
  call.outside = data<T>(outside);
  call.coordinates = h;
  call.by_column = by_column.data();
  call.lengths = data<T>(norms);
  call.recast_lengths = call.lengths + batch;
  call.converging = squares_of_delta < squares_of_v;
  call.multiply = multiply;
  call.batch = batch;
  call.width = width;
  call.k = k;
  call.m = target<T>(both);
  call.z = call.m + batch * batch;
  // Rows get shorter towards the last: one from each end makes parts of one size.
  const int64_t blocks = blocks_of(batch), per_row = batch * (4 * k + (multiply ? width : 0)) / 2;
  torch::stable::parallel_for(0, (blocks + 1) / 2, grain_of(2 * per_row), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      loops.differences(call, block);
      if (blocks - 1 - block != block) loops.differences(call, blocks - 1 - block);
    }
  });
  over_blocks(batch, batch, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loops.mirror(call, block);
  });
}

constexpr int64_t kInnerRows = 64, kInnerParts = 64;  // rows that are made wide at a time; parts of the batch, at most

// HᵀH (3K, 3K), summed by parts of the batch and then over parts in their order.
template <class T>
Tensor inner(const Tensor& coordinates) {
  const int64_t batch = coordinates.size(0), columns = coordinates.size(1), padded = padded_to_vectors(columns);
  check("coordinates", coordinates, type_of<T>, {batch, columns});
  const int64_t parts = std::clamp<int64_t>(batch / (8 * kInnerRows), 1, kInnerParts), each = (batch + parts - 1) / parts;
  std::vector<double> partial(parts * padded * padded);
  const T* h = data<T>(coordinates);
  static const Loops<T> loops = loops_here<T>();
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> wide(kInnerRows * padded);
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t row = part * each; row < std::min(batch, (part + 1) * each); row += kInnerRows) {
        const int64_t count = std::min(kInnerRows, std::min(batch, (part + 1) * each) - row);
        loops.inner(h + row * columns, count, columns, wide.data(), partial.data() + part * padded * padded);
      }
    }
  });
  Tensor sums = empty({columns, columns}, ScalarType::Double);
  double* to = target<double>(sums);
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = i; j < columns; ++j) {
      double sum = 0.0;
      for (int64_t part = 0; part < parts; ++part) sum += partial[(part * padded + i) * padded + j];
      to[i * columns + j] = to[j * columns + i] = sum;
    }
  }
  return sums;
}

// Of HᵀH (3K, 3K): UᵀU, ΔᵀU, ΔᵀΔ, VᵀU, VᵀΔ, VᵀV.
struct Inner {
  const double *uu, *du, *dd, *vu, *vd, *vv;
  int64_t k, apart;
  bool converging;

  explicit Inner(const Tensor& inner)
      : uu(data<double>(inner)), k(inner.size(0) / 3), apart(3 * k), converging(false) {
    du = uu + k * apart;
    dd = du + k;
    vu = du + k * apart;
    vd = vu + k;
    vv = vd + k;
    double by_delta = 0.0, by_v = 0.0;
    for (int64_t i = 0; i < k; ++i) {
      by_delta += at(dd, i, i);
      by_v += at(vv, i, i);
    }
    converging = by_delta < by_v;
  }
  double at(const double* block, int64_t i, int64_t j) const { return block[i * apart + j]; }
};

template <class T>
double squares_of(const Tensor& matrices) {
  const int64_t rows = matrices.size(0) * matrices.size(1), width = matrices.size(2);
  const T* values = data<T>(matrices);
  std::vector<double> partial(blocks_of(rows));
  static const Loops<T> loops = loops_here<T>();
  over_blocks(rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      double sum = 0.0;
      for (int64_t i = block * kBlock; i < std::min(rows, (block + 1) * kBlock); ++i) {
        sum += loops.sum_of_squares(values + i * width, width);
      }
      partial[block] = sum;
    }
  });
  double sum = 0.0;
  for (const double one : partial) sum += one;
  return sum;
}

template <class T>
double similarity_terms(const Tensor& inner, const Tensor& cross, const Tensor& matrices) {
  const double squares = squares_of<T>(matrices);
  if (matrices.size(0) == 2) return squares;
  const Inner of(inner);
  double inside = 0.0, paired = 0.0, crossed = 0.0;
  for (int64_t i = 0; i < of.k; ++i) {
    for (int64_t j = 0; j < of.k; ++j) {
      const auto at = [&](const double* block) { return of.at(block, i, j); };
      const auto turned = [&](const double* block) { return of.at(block, j, i); };
      inside += at(of.du) * turned(of.du) + 2 * at(of.dd) * at(of.vu) + at(of.vd) * turned(of.vd);
      paired += at(of.converging ? of.dd : of.vv) * at(of.uu);
      const double* by_u = of.converging ? of.du : of.vu;  // its sign does not matter in the square
      paired -= at(by_u) * turned(by_u);
    }
  }
  const T *delta_f = data<T>(cross), *v_f = delta_f + of.k * cross.size(1);
  for (int64_t i = 0; i < of.k * cross.size(1); ++i) {
    const double delta = static_cast<double>(delta_f[i]);
    crossed += delta * (delta + 2 * static_cast<double>(v_f[i]));
  }
  return inside - 2 * crossed + squares + 2 * paired;
}

template <class T>
std::vector<Tensor> combine(const Tensor& sums, const Tensor& inner, const Tensor& cross, const Tensor& matrices,
                            const std::vector<double>& weights, int64_t width) {
  const std::vector<T> parts = parts_of(data<T>(sums), similarity_terms<T>(inner, cross, matrices), width);
  double total = 0.0;
  for (size_t i = 0; i < parts.size(); ++i) total += weights.at(i) * static_cast<double>(parts[i]);
  std::vector<Tensor> found;
  const auto put = [&](T value) { *target<T>(found.emplace_back(empty({}, sums.scalar_type()))) = value; };
  put(static_cast<T>(total));
  for (const T part : parts) put(part);
  return found;
}

template <class T>
void gradient(Tensor& out, const std::vector<Maybe>& grads, const Tensor& outside, const Tensor& coordinates,
              const Tensor& label_gradient, const Tensor& norms, const Tensor& sums, const Tensor& inner,
              const Tensor& cross, const Tensor& matrices, const Tensor& basis, const std::vector<double>& weights,
              bool multiply) {
  const ScalarType type = basis.scalar_type();
  const int64_t batch = outside.size(0), width = basis.size(0), k = basis.size(1);
  const bool by_rows = matrices.size(0) == 2;
  STD_TORCH_CHECK(k <= kMaxK, "basis: expected at most ", kMaxK, " columns");
  check("out", out, type, {batch, width});
  check("outside", outside, type, {batch, width});
  check("coordinates", coordinates, type, {batch, 3 * k});
  check("label_gradient", label_gradient, type, {batch, k});
  check("norms", norms, type, {2, batch});
  check("sums", sums, type, {kSums});
  if (by_rows) {
    check("matrices", matrices, type, {2, batch, batch});
  } else {
    check("matrices", matrices, type, {1, width, width});
    check("cross", cross, type, {2 * k, width});
    check("inner", inner, ScalarType::Double, {3 * k, 3 * k});
  }
  std::vector<T> copy, by_column, factors, by_u, vv, uu;
  const T* columns = columns_of(basis, copy);
  GradientCall<T> call{};
  call.outside = data<T>(outside);
  call.coordinates = data<T>(coordinates);
  call.label_gradient = data<T>(label_gradient);
  call.lengths = data<T>(norms);
  call.recast_lengths = call.lengths + batch;
  call.factors = columns;
  call.multiply = multiply;
  call.batch = batch;
  call.width = width;
  call.k = k;
  call.gradient = target<T>(out);
  call.by = factors_of<T>(grads, weights, sums, width);
  if (by_rows) {
    by_column = transposed(call.coordinates, batch, 3 * k);
    call.by_column = by_column.data();
    call.m = data<T>(matrices);
    call.z = call.m + batch * batch;
  } else {
    const Inner of(inner);
    call.converging = of.converging;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const double smaller = of.converging ? -of.at(of.du, i, j) : of.at(of.vu, i, j);
        by_u.push_back(static_cast<T>(smaller + of.at(of.vd, j, i)));
        vv.push_back(static_cast<T>(of.at(of.vv, i, j)));
        uu.push_back(static_cast<T>(of.at(of.uu, i, j)));
      }
    }
    call.by_u = by_u.data();
    call.vv = vv.data();
    call.uu = uu.data();
    call.cross = data<T>(cross);
    factors.assign(call.cross, call.cross + 2 * k * width);
    factors.insert(factors.end(), columns, columns + k * width);
    call.factors = factors.data();
  }
  static const Loops<T> loops = loops_here<T>();
  const int64_t per_row = by_rows ? batch * (2 * k + (multiply ? width : 0)) + k * width : 5 * k * width;
  over_blocks(batch, per_row, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) loops.gradient(call, block);
  });
}

// The transpose of mixing: λ·gradient + (1−λ)·gradient[π⁻¹].
template <class T>
void unmix(const Tensor& grad, const Tensor& permutation, double lam, Tensor& out) {
  const int64_t batch = grad.size(0), width = grad.size(1);
  check("gradient", grad, grad.scalar_type(), {batch, width});
  check("out", out, grad.scalar_type(), {batch, width});
  const int64_t* order = permutation_of(permutation, batch);
  std::vector<int64_t> origin(batch, -1);
  for (int64_t i = 0; i < batch; ++i) origin[order[i]] = i;
  for (const int64_t from : origin) STD_TORCH_CHECK(from >= 0, "permutation: expected every row once");
  const T *values = data<T>(grad), weight = static_cast<T>(lam);
  T* to = target<T>(out);
  over_blocks(batch, width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kBlock; i < std::min(batch, end * kBlock); ++i) {
      const T *own = values + i * width, *other = values + origin[i] * width;
      for (int64_t j = 0; j < width; ++j) to[i * width + j] = mixed(other[j], own[j], weight);
    }
  });
}

// All stages by rows in turn: the loss, its parts, and where wanted the loss's gradient.
template <class T>
std::vector<Tensor> at_once(const Tensor& features, const Tensor& targets, const Maybe& permutation, const Tensor& q,
                            const Tensor& basis, const Tensor& recast, const Tensor& weight, double temperature,
                            double lam, const std::vector<double>& weights, bool slopes) {
  const ScalarType type = basis.scalar_type();
  const int64_t batch = features.size(0), width = basis.size(0);
  const bool whole = basis.size(1) == 0;
  Tensor outside = empty({batch, whole ? 0 : width}, type);
  const auto [coordinates, label_gradient, norms, sums] =
      rows<T>(features, targets, permutation, q, basis, recast, weight, temperature, lam, slopes, outside);
  Tensor matrices = whole ? whole_differences<T>(coordinates, norms) : empty({2, batch, batch}, type);
  const Tensor inner = empty({0, 0}, ScalarType::Double), cross = empty({0, 0}, type);
  if (!whole) differences<T>(matrices, outside, coordinates, norms, true);
  std::vector<Tensor> found = combine<T>(sums, inner, cross, matrices, weights, width);
  if (!slopes) return found;
  Tensor out = empty({batch, width}, type);
  std::vector<Maybe> grads(found.size());
  grads[0] = scalar(T(1));
  if (whole) {
    whole_gradient<T>(out, matrices, grads, coordinates, label_gradient, norms, sums, weights);
  } else {
    gradient<T>(out, grads, outside, coordinates, label_gradient, norms, sums, inner, cross, matrices, basis, weights,
                true);
  }
  found.push_back(permutation.has_value() ? empty({batch, width}, type) : out);
  if (permutation.has_value()) unmix<T>(out, *permutation, lam, found.back());
  return found;
}

FourTensors rows_of(const Tensor& features, const Tensor& targets, const Maybe& permutation, const Tensor& q,
                    const Tensor& basis, const Tensor& recast, const Tensor& weight, double temperature, double lam,
                    bool slopes, Tensor outside) {
  DRCL_BY_DTYPE(basis, rows, features, targets, permutation, q, basis, recast, weight, temperature, lam, slopes,
                outside);
}

void differences_of(Tensor both, const Tensor& outside, const Tensor& coordinates, const Tensor& norms,
                    bool multiply) {
  DRCL_BY_DTYPE(coordinates, differences, both, outside, coordinates, norms, multiply);
}

Tensor inner_of(const Tensor& coordinates) { DRCL_BY_DTYPE(coordinates, inner, coordinates); }

std::vector<Tensor> combine_of(const Tensor& sums, const Tensor& inner, const Tensor& cross, const Tensor& matrices,
                               const std::vector<double>& weights, int64_t width) {
  DRCL_BY_DTYPE(sums, combine, sums, inner, cross, matrices, weights, width);
}

void gradient_of(Tensor out, const std::vector<Maybe>& grads, const Tensor& outside, const Tensor& coordinates,
                 const Tensor& label_gradient, const Tensor& norms, const Tensor& sums, const Tensor& inner,
                 const Tensor& cross, const Tensor& matrices, const Tensor& basis, const std::vector<double>& weights,
                 bool multiply) {
  DRCL_BY_DTYPE(basis, gradient, out, grads, outside, coordinates, label_gradient, norms, sums, inner, cross, matrices,
                basis, weights, multiply);
}

void unmix_of(const Tensor& grad, const Tensor& permutation, double lam, Tensor out) {
  DRCL_BY_DTYPE(grad, unmix, grad, permutation, lam, out);
}

std::vector<Tensor> at_once_of(const Tensor& features, const Tensor& targets, const Maybe& permutation,
                               const Tensor& q, const Tensor& basis, const Tensor& recast, const Tensor& weight,
                               double temperature, double lam, const std::vector<double>& weights, bool slopes) {
  DRCL_BY_DTYPE(basis, at_once, features, targets, permutation, q, basis, recast, weight, temperature, lam, weights,
                slopes);
}

bool fuses_products() { return has_fma(); }

}  // namespace
}  // namespace drcl::loss

STABLE_TORCH_LIBRARY_IMPL(drcl, CompositeExplicitAutograd, m) {
  m.impl("fuses_products", TORCH_BOX(&drcl::loss::fuses_products));
}

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("reversible_rows", TORCH_BOX(&drcl::loss::rows_of));
  m.impl("reversible_differences", TORCH_BOX(&drcl::loss::differences_of));
  m.impl("reversible_inner", TORCH_BOX(&drcl::loss::inner_of));
  m.impl("reversible_combine", TORCH_BOX(&drcl::loss::combine_of));
  m.impl("reversible_gradient", TORCH_BOX(&drcl::loss::gradient_of));
  m.impl("reversible_unmix", TORCH_BOX(&drcl::loss::unmix_of));
  m.impl("reversible_at_once", TORCH_BOX(&drcl::loss::at_once_of));
}
