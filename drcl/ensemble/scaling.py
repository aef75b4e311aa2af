"""What happens to features before the parts of an ensemble see them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Scaling"]
__dir__ = __all__.copy


class Scaling(nn.Module):
    """Features, or their roots ``sign(x)·√|x|``, at mean 0 and variance 1.

    The variance is that of every column, or with ``common`` the mean over all columns, which then
    keep their share: columns that vary little may hold little but noise. Roots even out columns
    with a few large values, as histograms and the outputs of rectifiers have. Source: Perronnin et
    al., *Improving the Fisher Kernel for Large-Scale Image Classification* (ECCV 2010), power
    normalization.

    Args:
        width: d; without statistics the columns are left as they are.
        root: take roots first.

    Input and output (…, d).

    >>> Scaling.of(torch.tensor([[4.0], [0.0]]), root=True)(torch.tensor([[4.0], [9.0]]))
    tensor([[1.],
            [2.]])
    """

    def __init__(self, width: int, root: bool = False) -> None:
        super().__init__()
        self.root = root
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("std", torch.ones(width, dtype=torch.float32))
        self.mean: Tensor
        self.std: Tensor

    @classmethod
    def of(cls, features: Tensor, root: bool, common: bool = False) -> Scaling:
        """With the statistics of the rows (N, d)."""
        found = cls(features.shape[1], root)
        exact = (_roots(features) if root else features).double()
        variance = exact.var(dim=0, correction=0)
        std = (variance.mean().expand_as(variance) if common else variance).sqrt().float()
        found.mean = exact.mean(dim=0).float()
        found.std = torch.where(std > 0, std, torch.ones_like(std))
        return found

    def forward(self, features: Tensor) -> Tensor:
        rows = _roots(features) if self.root else features
        return (rows - self.mean) / self.std


def _roots(features: Tensor) -> Tensor:
    return features.sign() * features.abs().sqrt()
