"""Deep Reversible Consistency Learning for cross-modal retrieval."""

from drcl import _interrupt

_interrupt.guard()  # before anything that takes time

from drcl import _checkout_shim, _later, _moved, portable  # noqa: E402 (after the guard)

portable.check_byte_order()

_checkout_shim.install()
_moved.install()

from drcl import functional, losses, metrics  # noqa: E402 (the kernels must be findable first)
from drcl._version import __version__  # noqa: E402
from drcl.automatic import auto  # noqa: E402
from drcl.dispatch import use_backend  # noqa: E402
from drcl.encoder import Encoder  # noqa: E402
from drcl.estimator import DRCL  # noqa: E402
from drcl.index import Index  # noqa: E402
from drcl.prior import Prior  # noqa: E402
from drcl.train.config import Config  # noqa: E402
from drcl.train.prior_learning import select_prior  # noqa: E402

__getattr__ = _later.modules(
    __name__, "ablate", "baselines", "cli", "compare", "native", "report", "run", "serve"
)

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
