"""What a training is given beside data and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from torch import nn

from drcl.train.parallel import ALONE, Parallel
from drcl.train.phase import Record

Log: TypeAlias = Callable[[Record], None]


@dataclass(frozen=True)
class Context:
    """The surroundings of a training, handed down as one.

    Attributes:
        networks: modality -> the user's own ``nn.Module``, a template of what is trained.
        checkpoints: the folder that phases are saved to and continued from; None saves nothing.
        progress: whether to show a bar for each phase and modality.
        log: called with the record of every epoch.
        parallel: the processes that share the work.
    """

    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    checkpoints: Path | None = None
    progress: bool = True
    log: Log | None = None
    parallel: Parallel = ALONE
