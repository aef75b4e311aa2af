"""Ensembles of small networks, trained as one batched network; :func:`drcl.auto` chooses them."""

from drcl.ensemble.network import Ensemble, Members
from drcl.ensemble.scaling import Scaling

__all__ = ["Ensemble", "Members", "Scaling"]
__dir__ = __all__.copy
