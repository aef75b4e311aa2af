// Tensors of the stable ABI as the loops take them.

#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

namespace drcl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
constexpr ScalarType type_of = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* target(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// torch::stable::empty looks its op up by name, which takes longer than a small loop.
inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType type) {
  const auto dims = static_cast<int64_t>(sizes.size());
  std::vector<int64_t> strides(sizes.size(), 1);
  for (int64_t i = dims - 1; i > 0; --i) strides[i - 1] = strides[i] * std::max<int64_t>(sizes.begin()[i], 1);
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes.begin(), strides.data(), dtype,
                                                         aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

// A 0-d tensor.
template <class T>
Tensor scalar(T value) {
  Tensor made = empty({}, type_of<T>);
  *target<T>(made) = value;
  return made;
}

inline void check(const char* name, const Tensor& tensor, ScalarType type, std::initializer_list<int64_t> sizes) {
  bool right = tensor.scalar_type() == type && tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t at = 0;
  for (const int64_t size : sizes) right = right && tensor.size(at++) == size;
  STD_TORCH_CHECK(right && tensor.is_contiguous(), name, ": expected another dtype, shape or layout");
}

// Ids (B,), or else rows (B, C) of labels: whether they are ids.
inline bool check_targets(const Tensor& targets, ScalarType type, int64_t batch, int64_t classes) {
  const bool ids = targets.dim() == 1;
  if (ids) {
    check("targets", targets, ScalarType::Long, {batch});
  } else {
    check("targets", targets, type, {batch, classes});
  }
  return ids;
}

// q, 0-d.
inline double number(const Tensor& scalar) {
  STD_TORCH_CHECK(scalar.dim() == 0, "q: expected a number");
  if (scalar.scalar_type() == ScalarType::Double) return *data<double>(scalar);
  STD_TORCH_CHECK(scalar.scalar_type() == ScalarType::Float, "q: expected float32 or float64");
  return static_cast<double>(*data<float>(scalar));
}

}  // namespace drcl

// The form for a dtype, by name.
#define DRCL_BY_DTYPE(tensor, form, ...)                                                                 \
  const bool wide = (tensor).scalar_type() == ScalarType::Double;                                        \
  STD_TORCH_CHECK(wide || (tensor).scalar_type() == ScalarType::Float, #tensor ": expected float32 or float64"); \
  return wide ? form<double>(__VA_ARGS__) : form<float>(__VA_ARGS__)
