// The loss's stages in the whole space, for the ops of its own and for those that take either space: whole_space.cpp.

#pragma once

#include "loss_arguments.h"
#include "whole_space.h"

#include <tuple>

namespace drcl::loss {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// H (B, 3D), the label gradient (B, D), or (0, D) without `slopes`, lengths (2, B), and the sums over rows.
template <class T>
FourTensors whole_rows(const Tensor& features, const Tensor& targets, const Maybe& permutation, const Tensor& q,
                       const Tensor& recast, const Tensor& weight, double temperature, double lam, bool slopes);

// M and Z (2, B, B).
template <class T>
Tensor whole_differences(const Tensor& coordinates, const Tensor& norms);

// The gradient (B, D): of M and Z, or in the place of what they come to.
template <class T>
void whole_gradient(Tensor& out, const Maybe& matrices, const std::vector<Maybe>& grads, const Tensor& coordinates,
                    const Tensor& label_gradient, const Tensor& norms, const Tensor& sums,
                    const std::vector<double>& weights);

}  // namespace drcl::loss
