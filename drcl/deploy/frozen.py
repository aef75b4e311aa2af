"""A trained encoder as one plain module, from raw features to embeddings.

What is here is written so that ``torch.jit.script``, ``torch.jit.trace``, ``torch.export`` and
PyTorch's ONNX exporter take it: without ``from __future__ import annotations``, which hides types
from TorchScript, and without a size becoming a Python number.
"""

import copy

import torch
from torch import Tensor, nn

from drcl.encoder import Encoder, is_as_built, normalize
from drcl.ensemble import Ensemble, Members

__all__ = ["FrozenEncoder", "freeze"]
__dir__ = __all__.copy


class FrozenEncoder(nn.Module):
    """What :meth:`drcl.DRCL.encoder` returns: scale, network and ranking in one module.

    ``softmax(f((x − μ)/σ)W/τ)``, or ``f((x − μ)/σ)`` with rows of unit length.

    Args:
        layers: what happens to the rows, in order.
        row_shape: of one sample; empty if it is not known.
        integers: whether int32 and int64 features are token ids, and stay as they are.

    Input (N, d), converted to float32; output (N, dim) or (N, C) float32. Raises TypeError for
    anything but a tensor, and ValueError for rows of another shape, except in a trace, which cannot
    hold the check. NaN in a row makes that row of the result NaN.

    >>> encoder = FrozenEncoder([nn.Flatten()], row_shape=[2, 2], integers=False)
    >>> encoder(torch.eye(2)[None])
    tensor([[1., 0., 0., 1.]])
    >>> encoder(torch.ones(1, 3))
    Traceback (most recent call last):
    ...
    ValueError: features: expected rows (N, 2, 2), got (1, 3)
    """

    row_shape: list[int]

    def __init__(self, layers: list[nn.Module], row_shape: list[int], integers: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.row_shape = row_shape
        self.integers = integers

    def forward(self, features: Tensor) -> Tensor:
        scripting = torch.jit.is_scripting()  # type: ignore[attr-defined]
        if not scripting and not isinstance(features, Tensor):
            raise TypeError(f"features: expected a tensor, got {type(features).__name__}")
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        if not tracing and len(self.row_shape) > 0:
            found = list(features.shape)
            if found[1:] != self.row_shape:  # a single column would be broadcast
                expected = ", ".join(["N"] + [str(size) for size in self.row_shape])
                got = ", ".join([str(size) for size in found]) + ("," if len(found) == 1 else "")
                raise ValueError(f"features: expected rows ({expected}), got ({got})")
        is_ids = features.dtype == torch.int32 or features.dtype == torch.int64
        rows = features if self.integers and is_ids else features.float()
        embeddings: Tensor = self.layers(rows)
        return embeddings


def freeze(
    network: nn.Module,
    scale: tuple[Tensor, Tensor] | None,
    calibration: tuple[Tensor, float] | None,
) -> FrozenEncoder:
    """A copy of a trained network, on the CPU, with what happens before and after it.

    Args:
        network: as trained: the package's own, or any other.
        scale: μ and σ of the features, if they were standardized.
        calibration: W (D, C) and τ for class posteriors; None for rows of unit length.

    >>> network = nn.Linear(2, 2, bias=False)
    >>> network.weight.data = torch.eye(2)
    >>> freeze(network, scale=None, calibration=None)(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    shape: list[int] = []
    if isinstance(network, (Encoder, Ensemble, nn.Linear)):
        shape = [network.in_features]
    layers: list[nn.Module] = [_plain(network)]
    if scale is not None:
        layers.insert(0, _Standardize(*scale))
        shape = list(scale[0].shape)
    # Rows that have unit length already are brought to it again, as encode does: the same bits.
    layers.append(_UnitRows() if calibration is None else _Posteriors(*calibration))
    integers = scale is None and not isinstance(network, Encoder)
    return FrozenEncoder(layers, shape, integers).cpu().eval().requires_grad_(False)


def _plain(network: nn.Module) -> nn.Module:
    """The same function, without the checks that TorchScript cannot compile."""
    if is_as_built(network):
        return nn.Sequential(copy.deepcopy(network.layers), _UnitRows())
    if type(network) is Ensemble:
        return _MeanPosterior(network)
    return copy.deepcopy(network)


def _keep(module: nn.Module, **arrays: Tensor) -> None:
    """Copies as buffers, which move with the module and are saved with it."""
    for name, array in arrays.items():
        module.register_buffer(name, array.detach().clone())


class _Standardize(nn.Module):
    """``(x − μ)/σ``."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        _keep(self, mean=mean.float(), std=std.float())
        self.mean: Tensor
        self.std: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std


class _Roots(nn.Module):
    """``sign(x)·√|x|``."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.sign() * rows.abs().sqrt()


class _UnitRows(nn.Module):
    """Rows of unit length."""

    def forward(self, rows: Tensor) -> Tensor:
        return normalize(rows.float())


class _Posteriors(nn.Module):
    """``softmax(xW/τ)``."""

    def __init__(self, weight: Tensor, temperature: float) -> None:
        super().__init__()
        _keep(self, weight=weight.float())
        self.weight: Tensor
        self.temperature = temperature

    def forward(self, rows: Tensor) -> Tensor:
        return (rows.float() @ self.weight / self.temperature).softmax(dim=1)


class _MeanPosterior(nn.Module):
    """An :class:`Ensemble`, operation for operation."""

    def __init__(self, network: Ensemble) -> None:
        super().__init__()
        scaling = network.scaling
        self.scaling = nn.Sequential(*([_Roots()] if scaling.root else []))
        self.scaling.append(_Standardize(scaling.mean, scaling.std))
        self.parts = nn.ModuleList(
            _logits(part) if isinstance(part, Members) else copy.deepcopy(part)
            for part in network.parts
        )
        _keep(self, temperatures=network.temperatures, shares=network.shares)
        self.temperatures: Tensor
        self.shares: Tensor
        self.smallest = torch.finfo(torch.float32).tiny

    def forward(self, features: Tensor) -> Tensor:
        rows = self.scaling(features)
        found: list[Tensor] = []
        for index, part in enumerate(self.parts):
            posteriors = (part(rows) / self.temperatures[index]).softmax(dim=-1)
            found.append(self.shares[index] * posteriors.mean(dim=0))
        logs = torch.stack(found).sum(dim=0).clamp(min=self.smallest).log()
        return logs - logs.mean(dim=1, keepdim=True)


def _logits(members: Members) -> nn.Module:
    """(K, N, C) of rows (N, d)."""
    prior = members.prior
    parts: list[nn.Module] = [_SharedProduct(members.weights[0], members.biases[0])]
    if members.hidden:
        parts.append(_OwnProduct(members.weights[1], members.biases[1]))
    return nn.Sequential(*parts, *([] if prior is None else [_AgainstPrior(prior)]))


class _SharedProduct(nn.Module):
    """``xA_k + a_k`` (K, N, h) of the same rows (N, d) for all k: one product."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.count, below, self.width = weight.shape
        flat = weight.detach().transpose(0, 1).reshape(below, self.count * self.width)
        _keep(self, weight=flat, bias=bias)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        products = (rows @ self.weight).unflatten(1, (self.count, self.width))
        return products.transpose(0, 1) + self.bias


class _OwnProduct(nn.Module):
    """``max(0, x_k)B_k + b_k`` (K, N, C)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        _keep(self, weight=weight, bias=bias)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, rows.relu(), self.weight)


class _AgainstPrior(nn.Module):
    """``xW`` of rows brought to unit length."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        _keep(self, weight=weight)
        self.weight: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        return normalize(rows) @ self.weight
