"""The ops, registered as ``torch.ops.drcl.*``: schema, fake implementation, autograd.

Importing this package registers them. Each op takes the backend's name as its last argument, so
that a traced graph keeps the choice that was made when it was traced.
"""

from drcl.ops import average_precision, mixup, prior_similarity, reversible_consistency

__all__ = ["average_precision", "mixup", "prior_similarity", "reversible_consistency"]
