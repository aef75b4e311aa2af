"""The paper's encoder: a three-layer perceptron onto the unit sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

from drcl.checks import check_count, check_counts, check_device, check_tensor

__all__ = ["Encoder", "normalize"]
__dir__ = __all__.copy


def normalize(features: Tensor) -> Tensor:
    """Rows scaled to unit Euclidean length; a zero row stays zero (no division by zero, no NaN).

    >>> normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return unit_rows(features)[0]


def unit_rows(features: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`normalize`, and the lengths (…, 1) that were divided by: 1 for a zero row."""
    # Brought to the order of 1 first: squares of very small or large entries leave the dtype's
    # range.
    largest = features.detach().abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    rows = features / scale
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    norm = torch.where(largest > 0, norm, torch.ones_like(norm))
    return rows / norm, scale * norm


class Encoder(nn.Module):
    """``Linear → ReLU → Linear → ReLU → Linear (no bias) → rows to unit length``.

    Args:
        in_features: width of the input rows.
        dim: width D of the common space (the paper's 2048).
        hidden: widths of the hidden layers (the paper's 4096, 4096).
        generator: what the weights are drawn with, on their device; None for torch's own.

    The last weight is drawn from U(−1/√in_features, 1/√in_features); the others as ``nn.Linear``
    does. Input (B, in_features), output (B, dim) in the input's dtype. Source: paper,
    implementation details.

    >>> Encoder(300, dim=64, hidden=(128, 128))(torch.randn(5, 300)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        in_features: int,
        *,
        dim: int = 2048,
        hidden: Sequence[int] = (4096, 4096),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = width = check_count("in_features", in_features)
        self.dim, self.hidden = check_count("dim", dim), check_counts("hidden", hidden)
        layers: list[nn.Module] = []
        for size in self.hidden:
            layers += [_linear(width, size, generator), nn.ReLU()]
            width = size
        last = _linear(width, self.dim, generator, bias=False)
        bound = 1.0 / math.sqrt(self.in_features)
        nn.init.uniform_(last.weight, -bound, bound, generator=generator)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, features: Tensor) -> Tensor:
        self._check(features)
        embeddings: Tensor = self.layers(features)
        # Under autocast the products are narrower than the features; a length of 1 is not.
        return normalize(embeddings.to(features.dtype))

    def _check(self, features: Tensor) -> None:
        check_tensor("features", features)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        weight = last.weight
        if features.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"features: expected rows of width {self.in_features}, got shape "
                f"{tuple(features.shape)}"
            )
        check_device("features", features, "the encoder's weights", weight)
        casting = features.is_floating_point() and torch.is_autocast_enabled(features.device.type)
        if features.dtype != weight.dtype and not casting:
            raise ValueError(
                f"features: expected {weight.dtype} as the encoder's weights, got {features.dtype}"
            )


def is_as_built(network: nn.Module) -> TypeGuard[Encoder]:
    """Whether a network is an :class:`Encoder`, no subclass of it, with layers as it makes them.

    >>> is_as_built(Encoder(3, dim=2, hidden=(4,))), is_as_built(nn.Linear(3, 2))
    (True, False)
    """
    if type(network) is not Encoder:
        return False
    kinds = [type(layer) for layer in network.layers]
    if kinds != [nn.Linear, nn.ReLU] * len(network.hidden) + [nn.Linear]:
        return False
    widths = (network.in_features, *network.hidden)
    shapes: list[tuple[int, ...]] = []
    for below, width in pairwise(widths):
        shapes += [(width, below), (width,)]
    shapes.append((network.dim, widths[-1]))
    # Parameters that two layers share are listed once.
    return [tuple(parameter.shape) for parameter in network.parameters()] == shapes


def _linear(
    width: int, size: int, generator: torch.Generator | None, bias: bool = True
) -> nn.Linear:
    """``nn.Linear`` with the weights that it gives itself, but drawn by this generator alone.

    Its own way is torch's global generator, which other threads may be drawing from or seeding.
    """
    layer = nn.Linear(width, size, bias=bias, device="meta")
    layer.to_empty(device=torch.get_default_device())
    bound = 1.0 / math.sqrt(width)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
