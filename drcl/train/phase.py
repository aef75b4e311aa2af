"""One phase of training for one modality: what is trained, on what, and how an epoch is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from drcl.train.config import Config, setting, stream_seed
from drcl.train.ranks import Ranks
from drcl.train.source import SampleSource

Record: TypeAlias = dict[str, Any]
Embed: TypeAlias = Callable[[SampleSource], Iterator[tuple[Tensor, Tensor]]]
# (q, embed) -> the values to record
Validate: TypeAlias = Callable[[float, Embed], dict[str, float]]


class Loss(NamedTuple):
    """What is minimised, and the parts it is made of: scalars."""

    total: Tensor
    parts: dict[str, Tensor]


# (embeddings, targets, q, permutation for the mixing or None)
LossFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Loss]


class Schedule(NamedTuple):
    """How long a phase trains one modality, in which steps, and from which seed it draws.

    ``first_epoch`` is the number that the schedule of q gives to the first epoch.
    """

    epochs: int
    batch_size: int
    lr: float
    seed: int
    first_epoch: int

    @classmethod
    def of(cls, phase: str, modality: str, config: Config) -> Schedule:
        """That of ``"prior"`` or ``"encoder"`` learning."""
        prior = phase == "prior"
        return cls(
            setting(config.prior_epochs if prior else config.epochs, modality),
            setting(config.batch_size, modality),
            setting(config.prior_lr if prior else config.lr, modality),
            stream_seed(config.seed, phase, modality),
            # The released code calls the loss of consistency training with epoch + 1, and that of
            # prior learning with epoch.
            1 if config.paper_compat and not prior else 0,
        )


@dataclass(frozen=True)
class Phase:
    """One training of one modality.

    ``network`` makes embeddings of features, and is ``module`` or a part of it, or wraps one (in
    DistributedDataParallel); ``loss`` is to be minimised. ``validate(q, embed)`` returns the values
    to record, of which ``criterion`` (highest or, without ``maximize``, lowest; where it is
    missing, never) picks the epoch whose parameters are kept. ``embed(source)`` yields embeddings
    and targets, good until the next ones. Without a criterion, or with ``keep_last``, the last
    epoch is kept. With ``mixes``, the loss gets a random permutation of the batch. ``inputs`` are
    what the outcome depends on beside the samples; ``average`` is called with tensors to average
    over processes, ``ranks`` are the processes that have a slice of every batch each, and ``least``
    is how few rows a batch may have.
    """

    name: str
    modality: str
    config: Config
    network: nn.Module
    module: nn.Module
    source: SampleSource
    loss: LossFunction
    validate: Validate
    criterion: str | None
    maximize: bool
    mixes: bool = False
    inputs: tuple[Tensor | SampleSource, ...] = ()
    keep_last: bool = False
    average: Callable[[list[Tensor]], None] | None = None
    ranks: Ranks | None = None
    least: int = 1

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule.of(self.name, self.modality, self.config)

    @property
    def group(self) -> ProcessGroup | None:
        """The processes of :attr:`ranks`."""
        return None if self.ranks is None else self.ranks.group

    @property
    def title(self) -> str:
        """The phase and the modality, as messages and bars call them."""
        return f"{self.name} {self.modality}"

    @property
    def file(self) -> str:
        """The checkpoint's name in its folder."""
        return f"{self.name}-{self.modality}.safetensors"

    def diverged(self, what: str) -> str:
        """The message of a NonFiniteLoss: where it happened and what to do about it."""
        return (
            f"{self.title}: {what} (lr {self.schedule.lr}): try a smaller learning rate or "
            "standardize"
        )


@dataclass
class Outcome:
    """The kept parameters, the best criterion value (None without one) and a record per epoch."""

    state: dict[str, Tensor]
    best: float | None
    history: list[Record]


def schedule_q(epoch: int) -> float:
    """``q = min(1, epoch/100)`` (paper, J_L).

    Epochs count from 0, but in the released code's consistency training from 1.
    """
    return min(1.0, 0.01 * epoch)
