"""``drcl::reversible_consistency``: the stages of :mod:`drcl.eager.reversible_consistency` as kernels.

    stage        file                      launches (K, C up to 128)
    rows         consistency_rows.py       2 (3 for target rows)
    class_sums   product.py                2
    gram         product.py                1, or 2 where the sum is sliced
    combine      combine.py                2
    gradient     consistency_gradient.py   3

Each has the eager stage's signature and returns the same tensors. Nothing waits for the GPU, no shape
depends on data, nothing is added up atomically: a captured graph replays, and replays the same bits.
"""

from .combine import combine
from .consistency_gradient import gradient
from .consistency_rows import rows
from .product import class_sums, gram

__all__ = ["rows", "class_sums", "gram", "combine", "gradient"]
