"""Ensembles of small networks, trained as one batched network; :func:`drcl.auto` chooses them."""

from drcl.ensemble.network import Ensemble, Members

__all__ = ["Ensemble", "Members"]
__dir__ = __all__.copy
