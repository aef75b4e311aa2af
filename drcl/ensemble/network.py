"""An ensemble as one module: K networks of a shape are one batched product each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from drcl.checks import check_count
from drcl.encoder import normalize
from drcl.ensemble.kernel import KernelClassifier
from drcl.ensemble.scaling import Scaling

__all__ = ["Ensemble", "Members"]
__dir__ = __all__.copy


class Members(nn.Module):
    """K networks of one shape: ``z = dropout(max(0, xA + a))B + b``, or ``z = xB + b``.

    Without a prior ``z`` are the logits. With a prior ``W`` (D, C) ``z`` (D) is brought to unit
    length, as in DRCL, and the logits are ``zW``.

    Args:
        in_features: width d of the input rows.
        classes: C.
        count: K.
        hidden: width of the hidden layer; 0 for none.
        dim: width D of the embeddings, for members with a prior; 0 for none.
        dropout, input_dropout: shares of hidden units and of inputs left out in training.
        generator: what the weights are drawn with.

    Input (B, d), the same for all, or (K, B, d); output logits (K, B, C).

    >>> Members(8, 3, count=4, hidden=16)(torch.randn(5, 8)).shape
    torch.Size([4, 5, 3])
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        count: int,
        hidden: int = 0,
        dim: int = 0,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_count("in_features", in_features)
        self.classes, self.count = check_count("classes", classes), check_count("count", count)
        self.hidden, self.dim = check_count("hidden", hidden, 0), check_count("dim", dim, 0)
        self.dropout, self.input_dropout = dropout, input_dropout
        widths = [self.in_features, *([self.hidden] if self.hidden else []), self.dim or classes]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for below, width in pairwise(widths):
            for shape, group in (((below,), self.weights), ((1,), self.biases)):
                values = torch.empty(count, *shape, width, dtype=torch.float32)
                bound = 1 / math.sqrt(below)
                group.append(nn.Parameter(values.uniform_(-bound, bound, generator=generator)))
        self.register_buffer("prior", torch.zeros(self.dim, classes) if self.dim else None)
        self.prior: Tensor | None

    def embed(self, features: Tensor) -> Tensor:
        """``z`` (K, B, D or C), of unit length where there is a prior."""
        x = features
        if self.training and self.input_dropout:
            x = _dropout(x.expand(self.count, *x.shape[-2:]), self.input_dropout)
        layers = list(zip(self.weights, self.biases, strict=True))
        for weight, bias in layers[:-1]:
            x = _product(x, weight, bias).relu()
            if self.training and self.dropout:
                x = _dropout(x, self.dropout)
        z = _product(x, *layers[-1])
        return z if self.prior is None else normalize(z)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(K, B, C) of what :meth:`embed` returns."""
        return embeddings if self.prior is None else embeddings @ self.prior

    def forward(self, features: Tensor) -> Tensor:
        return self.logits(self.embed(features))

    def shape(self) -> dict[str, int]:
        """The arguments that make it again, but those that all parts of an ensemble share."""
        return {"count": self.count, "hidden": self.hidden, "dim": self.dim}


class Ensemble(nn.Module):
    """The mean of the posteriors of many networks, as centred logits.

    ``p = Σ_j w_j · mean_k softmax(logits_jk / τ_j)`` over parts j and their members k; the output
    is ``log p − mean_c log p``, so that ``softmax`` of it is p again, and its cosine does not
    depend on a constant. Averaging probabilities: Lakshminarayanan et al., *Simple and Scalable
    Predictive Uncertainty Estimation using Deep Ensembles* (NeurIPS 2017).

    Args:
        parts: :class:`Members` or kernels, of one ``in_features`` and ``classes``.
        scaling: what happens to the features first.

    Input (B, d), output (B, C). Buffers ``temperatures`` τ and ``shares`` w hold one number a part.

    >>> parts = [Members(8, 3, count=2), Members(8, 3, count=2, hidden=4)]
    >>> network = Ensemble(parts, Scaling(8))
    >>> network(torch.randn(5, 8)).sum(dim=1).abs().max() < 1e-4
    tensor(True)
    """

    def __init__(self, parts: Sequence[Members | KernelClassifier], scaling: Scaling) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts: expected one or more, got none")
        self.scaling = scaling
        self.in_features, self.classes = parts[0].in_features, parts[0].classes
        self.parts = nn.ModuleList(parts)
        self.register_buffer("temperatures", torch.ones(len(parts), dtype=torch.float32))
        shares = torch.full((len(parts),), 1 / len(parts), dtype=torch.float32)
        self.register_buffer("shares", shares)
        self.temperatures: Tensor
        self.shares: Tensor

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[1:] != (self.in_features,):
            raise ValueError(
                f"features: expected rows of width {self.in_features}, got shape "
                f"{tuple(features.shape)}"
            )
        rows = self.scaling(features)
        posterior = torch.stack(
            [
                share * (part(rows) / temperature).softmax(dim=-1).mean(dim=0)
                for part, temperature, share in zip(
                    self.parts, self.temperatures, self.shares, strict=True
                )
            ]
        ).sum(dim=0)
        logs = posterior.clamp(min=torch.finfo(posterior.dtype).tiny).log()
        return logs - logs.mean(dim=1, keepdim=True)

    def describe(self) -> dict[str, Any]:
        """Plain JSON values from which :meth:`build` makes one of the same shape."""
        parts = [
            part.shape() for part in self.parts if isinstance(part, (Members, KernelClassifier))
        ]
        return {
            "in_features": self.in_features,
            "classes": self.classes,
            "root": self.scaling.root,
            "parts": parts,
        }

    @classmethod
    def build(cls, about: dict[str, Any]) -> Ensemble:
        """The inverse of :meth:`describe`, with weights of its own.

        Descriptions of before there were roots have none.
        """
        sizes = int(about["in_features"]), int(about["classes"])
        parts = [
            (KernelClassifier if "landmarks" in part else Members)(*sizes, **part)
            for part in about["parts"]
        ]
        return cls(parts, Scaling(sizes[0], root=about.get("root", False)))


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``xA + a`` (K, B, h); rows (B, d) that all members share are one product for all."""
    if x.ndim == 3:
        return torch.baddbmm(bias, x, weight)
    members, below, width = weight.shape
    flat = x @ weight.transpose(0, 1).reshape(below, members * width)
    return flat.view(len(x), members, width).transpose(0, 1) + bias


def _dropout(x: Tensor, share: float) -> Tensor:
    """``x`` with a share of its numbers, rounded to 1/256, set to 0 and the others scaled up.

    Eight decisions from each 64-bit draw: on a CPU ``nn.functional.dropout`` takes as long as the
    products beside it.
    """
    kept = min(255, max(1, round(256 * (1 - share))))
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
    draws = words.random_(torch.iinfo(torch.int64).min, None).view(torch.uint8)
    mask = (draws[: x.numel()] < kept).view(x.shape)
    return x * mask * (256 / kept)
