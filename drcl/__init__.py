"""Deep Reversible Consistency Learning for cross-modal retrieval."""

from drcl import functional, losses, metrics
from drcl.dispatch import use_backend
from drcl.encoder import Encoder
from drcl.estimator import DRCL
from drcl.prior import Prior
from drcl.train.config import Config
from drcl.train.prior_learning import select_prior

__all__ = [
    "DRCL",
    "Config",
    "Encoder",
    "Prior",
    "functional",
    "losses",
    "metrics",
    "select_prior",
    "use_backend",
]
