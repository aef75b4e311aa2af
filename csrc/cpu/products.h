// PyTorch's products of matrices, called without its dispatcher, which takes as long as a small product; and those by
// panels where they are the faster ones: inner_products.cpp.

#pragma once

#include "tensors.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

namespace drcl {

// What lies in a matrix, seen as another.
inline Tensor view(const Tensor& of, std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides,
                   int64_t offset) {
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(of.get(), static_cast<int64_t>(sizes.size()),
                                                               sizes.begin(), strides.begin(), offset, &made));
  return Tensor(made);
}

// out = left·right
inline void multiply(const Tensor& left, const Tensor& right, Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), left.get(), right.get()));
}

// out −= left·right
inline void subtract_product(const Tensor& left, const Tensor& right, Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), left.get(), right.get(), 1.0, -1.0));
}

// out = rows·matrixᵀ of rows (B, C) and (D, C), each of which is contiguous
void multiply_by_rows(const Tensor& rows, const Tensor& matrix, Tensor& out);

}  // namespace drcl
