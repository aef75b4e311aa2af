"""The bytes that a rank sends to others, by formulas written from the code, and what they predict.

Every exchange is a sum over the ranks, a gathering, or rows that change ranks. Gloo and NCCL pass
both round in a ring of n ranks: of a sum of b bytes a rank sends ``2 b (n − 1)/n``, in 2(n − 1)
messages of which each waits for the one before; of b bytes that are gathered ``b (n − 1)``. Of rows
that change ranks by a random permutation ``(n − 1)/n`` go elsewhere.

``tests/hosts/test_two_hosts.py`` counts what travels, sets it against these formulas, and keeps it
in ``docs/tools/traffic.json``.
"""

from __future__ import annotations

FLOAT, DOUBLE, INT = 4, 8, 8


def summed(size: float, ranks: int) -> float:
    """Bytes that a rank sends of a sum of ``size`` bytes.

    >>> summed(1000, ranks=4)
    1500.0
    """
    return 2 * size * (ranks - 1) / ranks


def gathered(size: float, ranks: int) -> float:
    """Bytes that a rank sends where each has ``size`` bytes for all.

    >>> gathered(1000, ranks=4)
    3000
    """
    return size * (ranks - 1)


def loss(dim: int, classes: int, ranks: int) -> float:
    """The reversible consistency loss, with its gradient: sums that do not depend on the batch.

    ``[U, Δ, V]ᵀ[U, Δ, V]`` (3K, 3K) in float64, ``[Δ, V]ᵀF`` (2K, D), ``FᵀF`` (D, D), three more;
    K = min(C, D), and F is empty for C ≥ D.

    >>> loss(dim=512, classes=10, ranks=2)
    1096732.0
    """
    k = min(classes, dim)
    outside = dim if k < dim else 0
    return summed(DOUBLE * (3 * k) ** 2 + FLOAT * (2 * k * outside + outside**2 + 3), ranks)


def step(batch: int, dim: int, classes: int, parameters: int, ranks: int) -> float:
    """A step of ``parallel="data"``: rows to mix with there and their gradients back, with an id
    each; the loss; the gradients of all parameters.

    >>> step(batch=1024, dim=512, classes=10, parameters=10**6, ranks=1)
    0.0
    """
    elsewhere = batch / ranks * (ranks - 1) / ranks
    mixing = elsewhere * (2 * FLOAT * dim + INT)
    return mixing + loss(dim, classes, ranks) + summed(FLOAT * parameters, ranks)


def ranking(queries: int, most: int, ranks: int) -> float:
    """A ranking of a gallery in pieces: keys and gains of the relevant items, and counts before
    each; ``most`` are the relevant items of a query in the piece that has most.

    >>> ranking(queries=100, most=50, ranks=2)
    121600.0
    """
    thresholds = queries * most
    counts = summed(INT * (thresholds * ranks + queries), ranks)
    return gathered(2 * FLOAT * thresholds, ranks) + counts
