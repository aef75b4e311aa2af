"""``drcl::reversible_consistency``: the stages of :mod:`drcl.eager.reversible_consistency` as
kernels.

    stage        file                      launches (K, C up to 128)
    rows         consistency_rows.py       2 (3 for target rows)
    class_sums   class_sums.py             4
    gram         symmetric.py              2
    differences  symmetric.py              2 (in place of class_sums and gram, for B < D)
    combine      combine.py                2
    gradient     consistency_gradient.py   3 (4 after class_sums)

Each has the eager stage's signature and returns the same tensors. Nothing waits for the GPU, no
shape depends on data, nothing is added up atomically: a captured graph replays, and replays the
same bits.
"""

from .class_sums import class_sums
from .combine import combine
from .consistency_gradient import gradient
from .consistency_rows import rows
from .symmetric import differences, gram

__all__ = ["rows", "class_sums", "gram", "differences", "combine", "gradient"]
