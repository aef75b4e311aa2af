"""Deep Reversible Consistency Learning for cross-modal retrieval."""

from typing import TYPE_CHECKING

from drcl import _interrupt

_interrupt.guard()  # before anything that takes time

from drcl import _checkout_shim, _later, _moved, portable  # noqa: E402 (after the guard)

portable.check_byte_order()

_checkout_shim.install()
_moved.install()

from drcl import functional, losses  # noqa: E402 (they register the ops, which need the kernels)
from drcl._version import __version__  # noqa: E402
from drcl.dispatch import use_backend  # noqa: E402
from drcl.prior import Prior  # noqa: E402

if TYPE_CHECKING:
    from drcl import metrics
    from drcl.automatic import auto
    from drcl.encoder import Encoder
    from drcl.estimator import DRCL
    from drcl.index import Index
    from drcl.train.config import Config
    from drcl.train.prior_learning import select_prior

_MODULES = (
    *("ablate", "automatic", "baselines", "cli", "compare", "data", "deploy", "distributed"),
    *("encoder", "ensemble", "errors", "estimator", "hub", "index", "labels", "metrics"),
    *("model_card", "model_files", "native", "out_of_memory", "progress", "report", "run"),
    *("serve", "storage", "train"),
)

# Who wants a loss or an op does not wait for training, search and reports.
__getattr__ = _later.names(
    __name__, *_MODULES, DRCL="estimator", Config="train.config", Encoder="encoder", Index="index",
    auto="automatic", select_prior="train.prior_learning",
)  # fmt: skip

__all__ = [
    "DRCL",
    "Config",
    "Encoder",
    "Index",
    "Prior",
    "__version__",
    "auto",
    "functional",
    "losses",
    "metrics",
    "select_prior",
    "use_backend",
]


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
