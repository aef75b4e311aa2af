"""The method written literally, one formula per line: the oracle of every test.

Nothing here is fast or clever, nothing imports the rest of the project, and every function keeps
the dtype it is given, so that calling it in float64 gives the number all other implementations are
held to. Targets are always float rows ``(B, C)``; a row without positive mass is unlabelled.
"""

from drcl.reference.average_precision import average_precision
from drcl.reference.generalized_cross_entropy import generalized_cross_entropy
from drcl.reference.mixup import mixup
from drcl.reference.prior_similarity import prior_similarity
from drcl.reference.reversible_consistency import (
    cosine_similarity,
    recast,
    recasting_error,
    reversible_consistency,
    similarity_consistency,
)

__all__ = [
    "average_precision", "cosine_similarity", "generalized_cross_entropy", "mixup",
    "prior_similarity", "recast", "recasting_error", "reversible_consistency",
    "similarity_consistency",
]  # fmt: skip
__dir__ = __all__.copy
