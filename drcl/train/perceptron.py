"""The package's own encoder on a CPU, forward and backward, in memory that is used again and again.

Autograd takes fresh memory for every activation and every gradient of a step, for the paper's
encoder some 300 MB, which the system hands out page by page, zeroed: about a tenth of the step.
Here the products go straight into buffers and into the parameters' ``grad``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drcl.encoder import Encoder, is_as_built, unit_rows
from drcl.precision import network_precision


def suits(network: nn.Module) -> bool:
    """Whether :class:`Perceptron` computes what ``network`` does: the encoder as it was built."""
    return is_as_built(network) and all(
        parameter.requires_grad
        and parameter.dtype == torch.float32
        and parameter.device.type == "cpu"
        for parameter in network.parameters()
    )


class Perceptron:
    """Forward and backward of an :class:`drcl.Encoder` in float32 on a CPU.

    With ``h₀ = x``, ``h_l = max(0, h_{l−1} W_lᵀ + b_l)`` and ``z = h W_outᵀ``, :meth:`forward` is
    ``y = z/|z|``, and :meth:`backward` goes from ``∂y`` through ``∂z = (∂y − y ⟨y, ∂y⟩)/|z|`` down
    to the first layer, whose input needs no gradient.
    """

    def __init__(self, network: Encoder) -> None:
        self.layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
        self.embeddings = torch.empty(0)
        self._outputs: list[Tensor] = []
        self._gradients: list[Tensor] = []
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)

    # Ordinary tensors, even if evaluation is the first to make them: a step may start from them.
    @torch.inference_mode(False)
    @torch.no_grad()
    @network_precision("highest")
    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (B, D) of rows (B, d), for :meth:`backward` to start from."""
        rows = len(features)
        if not self._outputs or len(self._outputs[0]) < rows:
            outputs = [layer.weight.new_empty(rows, layer.out_features) for layer in self.layers]
            gradients = [torch.empty_like(output) for output in outputs[:-1]]
            self._outputs, self._gradients = (outputs, gradients)  # both or neither
        self._inputs = [features]
        *hidden, last = zip(self.layers, self._outputs, strict=True)
        for layer, output in hidden:
            torch.addmm(layer.bias, self._inputs[-1], layer.weight.T, out=output[:rows]).relu_()
            self._inputs.append(output[:rows])
        layer, output = last
        torch.mm(self._inputs[-1], layer.weight.T, out=output[:rows])
        self.embeddings, self._lengths = unit_rows(output[:rows])
        return self.embeddings

    @torch.no_grad()
    @network_precision("highest")
    def backward(self, gradient: Tensor) -> None:
        """Set every parameter's ``grad`` from the gradient (B, D) by the embeddings."""
        along = (gradient * self.embeddings).sum(dim=1, keepdim=True)
        upper = torch.addcmul(gradient, self.embeddings, along, value=-1).div_(self._lengths)
        for depth in reversed(range(len(self.layers))):
            layer, below = self.layers[depth], self._inputs[depth]
            torch.mm(upper.T, below, out=layer.weight.grad)
            if layer.bias is not None:
                torch.sum(upper, dim=0, out=layer.bias.grad)
            if depth > 0:
                lower = self._gradients[depth - 1][: len(below)]
                torch.mm(upper, layer.weight, out=lower)
                # The gradient stops where the unit is off.
                upper = torch.ops.aten.threshold_backward.grad_input(
                    lower, below, 0, grad_input=lower
                )
