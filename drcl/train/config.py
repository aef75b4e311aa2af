"""The settings of a run, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from drcl import checks

__all__ = ["PRESETS", "Config"]
__dir__ = __all__.copy

T = TypeVar("T")
PerModality: TypeAlias = T | Mapping[str, T]
SPACES = ("cosine", "posterior")
PER_MODALITY = ("epochs", "prior_epochs", "batch_size", "lr", "prior_lr")


@dataclass(frozen=True)
class Config:
    """Settings of selective prior learning and reversible consistency training.

    ``epochs``, ``prior_epochs``, ``lr``, ``prior_lr`` and ``batch_size`` are one value for all
    modalities or a mapping modality -> value. The defaults are the paper's, except ``selection``,
    which is ``"loss"`` there. NumPy numbers are stored as Python numbers, a device as its name.

    Raises ValueError, naming the setting, if one has the wrong type or is out of range.

    >>> Config(dim=64, hidden=(128,), lr={"image": 1e-4, "text": 1e-3}).dim
    64

    Attributes:
        dim: width D of the common space.
        hidden: hidden widths of the default encoder.
        epochs, lr: of encoder training (Adam, betas 0.5 and 0.999).
        prior_epochs, prior_lr: of prior learning.
        batch_size: rows per step; a size larger than the data set means one batch of all rows.
        alpha: weight of J_D, the similarity consistency.
        beta: weight of J_MSE, the recasting error.
        eta: weight of J_L, the label loss.
        lam: λ of feature mixing; 1 switches it off.
        temperature: τ of ``softmax(XW/τ)`` in both phases, a normal number of float32; 1 as in the
            paper.
        prior: ``"learned"``, or ``"orthogonal"``: random orthogonal columns, no prior learning.
        prior_norm: if given, the mean column norm of the prior. A learned prior is rescaled to it
            once it is selected; a prior passed to ``fit`` is not changed.
        prior_selection: the score that selects the prior: on the ``"training"`` set, as in the
            paper, or on the ``"validation"`` set.
        selection: the epoch whose encoder is kept: the best ``"map"`` (validation mAP within the
            modality), the lowest validation ``"loss"`` at q = 1, or the ``"last"``.
        space: what pairs are ranked by: ``"cosine"`` of the embeddings, as in the paper;
            ``"posterior"``, the inner product of the class posteriors ``softmax(XW/τ)``, where τ is
            fitted to a modality's validation rows; or ``"auto"``, of the two the one with the
            higher validation mAP over all pairs of modalities.
        standardize: scale features to zero mean and unit variance per column; the statistics are
            stored with the model.
        paper_compat: follow the released code. The last W becomes the prior; the last partial
            batch is dropped; q is 0.01, 0.02, … over the epochs of encoder training, and 0, 0.01,
            … over those of prior learning, where q = 0 gives no gradient; the encoder kept is the
            one with the lowest validation loss at its epoch's own q.
        precision: of matrix products in the networks during training: ``"float32"``, ``"tf32"`` if
            the device has it, or ``"bf16"``. Weights, optimiser, losses and everything else stay in
            float32.
        seed: of weights, permutations and batches. Each modality and phase has its own stream of
            random numbers.
        device: ``"auto"`` (CUDA if available), or a torch device.
    """

    dim: int = 2048
    hidden: tuple[int, ...] = (4096, 4096)
    epochs: PerModality[int] = 100
    prior_epochs: PerModality[int] = 100
    batch_size: PerModality[int] = 1024
    lr: PerModality[float] = 5e-4
    prior_lr: PerModality[float] = 5e-4
    alpha: float = 0.1
    beta: float = 0.1
    eta: float = 1.0
    lam: float = 0.9
    temperature: float = 1.0
    prior: Literal["learned", "orthogonal"] = "learned"
    prior_norm: float | None = None
    prior_selection: Literal["training", "validation"] = "training"
    selection: Literal["map", "loss", "last"] = "map"
    space: Literal["cosine", "posterior", "auto"] = "cosine"
    standardize: bool = False
    paper_compat: bool = False
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            try:
                plain = (
                    # Not the caller's own mapping, which may change.
                    {modality: check(name, one) for modality, one in value.items()}
                    if isinstance(value, Mapping) and name in PER_MODALITY
                    else check(name, value)
                )
            except TypeError as error:
                raise ValueError(str(error)) from error
            object.__setattr__(self, name, plain)

    def check_modalities(self, modalities: Iterable[str]) -> None:
        """Refuse per-modality settings that miss a modality or name an unknown one.

        >>> Config(lr={"image": 1e-4}).check_modalities(["image", "text"])
        Traceback (most recent call last):
        ...
        ValueError: lr: given for ['image'], expected one value for each of ['image', 'text']
        """
        known = set(modalities)
        for name in PER_MODALITY:
            value = getattr(self, name)
            if isinstance(value, Mapping) and set(value) != known:
                raise ValueError(
                    f"{name}: given for {sorted(value)}, expected one value for each of "
                    f"{sorted(known)}"
                )

    def for_modality(self, modality: str) -> Config:
        """These settings for one modality, the default where a mapping does not name it.

        >>> Config(lr={"image": 1e-4, "text": 1e-3}).for_modality("text").lr
        0.001
        """
        own = {
            name: value.get(modality, getattr(Config(), name))
            for name in PER_MODALITY
            if isinstance(value := getattr(self, name), Mapping)
        }
        return dataclasses.replace(self, **own)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        >>> Config.from_dict(Config(dim=64).to_dict()) == Config(dim=64)
        True
        """
        plain = dataclasses.asdict(self)
        plain["hidden"] = list(self.hidden)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of :meth:`to_dict`; an unknown setting is an error."""
        if not isinstance(values, Mapping):
            raise ValueError(f"config: expected a mapping of settings, got {values!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"config: expected settings of {sorted(known)}, got {unknown}")
        return cls(**values)


def setting(value: PerModality[T], modality: str) -> T:
    """The value of a per-modality setting for one modality."""
    return value[modality] if isinstance(value, Mapping) else value


def stream_seed(seed: int, *names: str) -> int:
    """A seed of its own for every modality and phase, whatever order they run in."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


# In the settings' order; each returns a plain value.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "dim": checks.check_count,
    "hidden": checks.check_counts,
    "epochs": checks.check_count,
    "prior_epochs": checks.check_count,
    "batch_size": checks.check_count,
    "lr": checks.check_positive,
    "prior_lr": checks.check_positive,
    "alpha": checks.check_weight,
    "beta": checks.check_weight,
    "eta": checks.check_weight,
    "lam": lambda _, value: checks.check_lam(value),
    "temperature": lambda _, value: checks.check_temperature(value, torch.float32),
    "prior": partial(checks.check_option, allowed=("learned", "orthogonal")),
    "prior_norm": lambda name, value: None if value is None else checks.check_positive(name, value),
    "prior_selection": partial(checks.check_option, allowed=("training", "validation")),
    "selection": partial(checks.check_option, allowed=("map", "loss", "last")),
    "space": partial(checks.check_option, allowed=(*SPACES, "auto")),
    "standardize": checks.check_flag,
    "paper_compat": checks.check_flag,
    "precision": partial(checks.check_option, allowed=("float32", "tf32", "bf16")),
    "seed": checks.check_integer,  # streams are drawn from a digest of it
    "device": checks.check_device_name,
}

# For sets with narrow features, small enough for a CPU; chosen on the validation split.
_NARROW = Config(
    dim=256, hidden=(512, 512), epochs=60, prior_epochs=30, batch_size=128, lr=1e-3, prior_lr=1e-3
)

# The paper's settings, as known: learning rates per modality, epochs, batch 1024.
PRESETS: dict[str, Config] = {
    "wikipedia": Config(lr={"image": 6e-6, "text": 5e-3}, epochs=200, prior_epochs=200),
    "xmedia": Config(
        lr={"image": 8e-4, "text": 3e-4, "audio": 8e-4, "3d": 3e-3, "video": 4e-4},
        epochs=300,
        prior_epochs=300,
    ),
    "xmedianet": Config(epochs=100),
    "nus-wide": Config(epochs=100),
    "inria": Config(epochs=100),
    "digits": dataclasses.replace(_NARROW, standardize=True),
    "uci": _NARROW,
    # Chosen on the validation split too.
    "wikipedia-raw": Config(
        dim=256, hidden=(512, 512), epochs=200, lr={"image": 3e-3, "text": 5e-4}, prior_norm=3.0
    ),
}
