"""Products that are compiled, and whether they are the faster ones here."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from drcl.backends import load_ops

__all__ = [
    "column_products",
    "label_product",
    "multiplies_panels",
    "product",
    "upper_products",
]

load_ops()


@functools.cache
def multiplies_panels() -> bool:
    """Whether this processor is faster with panels: with AVX2, but not AVX-512.

    On one thread of an AMD EPYC (Zen 3), in turns with PyTorch's product: 3.4 times as fast for 4
    queries, 2.1 for 24, 1.5 for 64, 1.2 for 256 and 1.05 for 1,024 (D = 2,048, 20,000 rows); for
    1,000 rows 1.5, 1.7, 1.2, 1.1 and 0.96. In 32 dimensions it was 0.8 to 1.7 times as fast, but as
    equal rows need not be looked for, rankings 1.0 to 1.3 times.
    """
    return bool(torch.ops.drcl.multiplies_panels())


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix`` for rows (B, K) and (K, D): by panels where these are the faster."""
    if matrix.T.is_contiguous():
        out = rows.new_empty(len(rows), matrix.shape[1])
        torch.ops.drcl.transposed_product.default(rows.contiguous(), matrix.T, out)
        return out
    return rows @ matrix


def label_product(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix`` for rows of labels (B, C) and a matrix (C, K): zeros are passed over."""
    matrix = matrix.contiguous()
    out = matrix.new_empty(len(rows), matrix.shape[1])
    if not torch.ops.drcl.label_product.default(rows.contiguous(), matrix, out):
        torch.mm(rows, matrix, out=out)
    return out


def upper_products(rows: Tensor, out: Tensor) -> None:
    """Products of float32 rows (B, D) with each other, at and above the diagonal of ``out`` (B, B).

    By panels: of what is below the diagonal only a border is computed, and some of it written. On
    two threads of an AMD EPYC, in turns with PyTorch's products of whole panels: 1.2 times as fast
    for B = 256, 512 and 2,000, and 1.16 for 1,024 (D = 2,048).
    """
    torch.ops.drcl.upper_products.default(rows, out)


def column_products(
    rows: Tensor, out: Tensor, others: Tensor | None = None, crossed: Tensor | None = None
) -> None:
    """``rows.T @ rows`` for float32 rows (B, D) in ``out`` (D, D): one triangle, mirrored.

    With ``others`` (B, M), ``others.T @ rows`` in ``crossed`` (M, D), too. By panels of columns. On
    two threads of an AMD EPYC, in turns with PyTorch's products of panels of F turned: 1.2 to 1.4
    times as fast for D = 512 and 1,024, B from 1,024 to 65,536; 1.1 for D = 2,048 and 4,096; more
    than that for smaller ones.
    """
    torch.ops.drcl.column_products.default(rows, others, out, crossed)
