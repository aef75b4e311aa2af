"""The checkpoint of a training: when it is saved, how it is restored, and what it belongs to."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drcl.storage.files import write_bytes
from drcl.storage.sealed import is_number, pack, read_tensors
from drcl.train.history import check_history
from drcl.train.phase import Outcome, Phase

# The share of a training's time that its checkpoints may take, and the speed of saving as long as
# none has been measured.
CHECKPOINT_SHARE = 0.01
BYTES_PER_SECOND = 2e8


class Checkpoint:
    """The file of one phase: everything that the rest of the phase depends on.

    A phase that is restored from it ends with bit-identical parameters.
    """

    def __init__(
        self,
        path: Path,
        phase: Phase,
        about: str,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        self.path, self.phase = path, phase
        self.optimizer, self.generator = optimizer, generator
        self._fingerprint = about
        self._rate = BYTES_PER_SECOND
        self._saving = 0.0  # seconds, of those since the start
        self._started = time.monotonic()

    def is_due(self, size: int) -> bool:
        """Whether all saving so far, with ``size`` bytes more, stays within its share of the time.

        So a run that is killed has lost at most the time that pays for the next checkpoint.
        """
        elapsed = time.monotonic() - self._started
        return self._saving + size / self._rate <= CHECKPOINT_SHARE * elapsed

    def save(self, outcome: Outcome) -> None:
        """Write the file, which is the old or the new one at any moment."""
        began = time.monotonic()
        done = len(outcome.history) >= self.phase.schedule.epochs
        tensors: dict[str, Tensor] = {}
        if done or not outcome.history[-1]["kept"]:
            tensors |= {f"kept.{k}": v for k, v in outcome.state.items()}
        if not done:
            tensors |= {f"module.{k}": v for k, v in self.phase.module.state_dict().items()}
            for index, moments in self.optimizer.state_dict()["state"].items():
                tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
            tensors["generator"] = self.generator.get_state()
        metadata = {
            "inputs": self._fingerprint,
            "epoch": len(outcome.history),
            "best": outcome.best,
            "history": outcome.history,
        }
        write_bytes(self.path, pack(tensors, metadata))
        seconds = time.monotonic() - began
        self._saving += seconds
        self._rate = sum(value.nbytes for value in tensors.values()) / seconds
        outcome.history[-1]["time"]["checkpoint"] += round(seconds, 6)

    def restore(self) -> Outcome | None:
        """Put module, optimizer and generator back; None where nothing was saved.

        Raises ValueError, with the file's name, for a damaged one or one of another training.
        """
        if not self.path.is_file():
            return None
        tensors, metadata = read_tensors(self.path)
        if metadata.get("inputs") != self._fingerprint:
            raise ValueError(
                f"{self.path}: written with other settings, data, prior or network; continue with "
                "the same, or delete it to start over"
            )
        try:
            return self._restore(tensors, metadata)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.path}: incomplete or damaged ({error!r})") from error

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Outcome:
        def part(prefix: str) -> dict[str, Tensor]:
            found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            return {k: v.to(self.phase.source.device) for k, v in found.items()}

        module = self.phase.module
        kept, history = part("kept.") or part("module."), check_history(metadata["history"])
        module.load_state_dict(kept)
        if not ((best := metadata["best"]) is None or is_number(best)):
            raise ValueError(f"best: expected a number or None, got {best!r}")
        outcome = Outcome(kept, best, history)
        if len(history) >= self.phase.schedule.epochs:
            return outcome
        module.load_state_dict(part("module."))
        state = self.optimizer.state_dict()
        for index, parameter in enumerate(module.parameters()):
            # A parameter that never had a gradient has no moments.
            if moments := part(f"adam.{index}."):
                shapes = {name: moment.shape for name, moment in moments.items()}
                expected = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
                # The optimizer's own kernel does not look, and would reach into other memory.
                if shapes != expected:
                    raise ValueError(f"moments: expected shapes {expected}, got {shapes}")
                state["state"][index] = moments
        self.optimizer.load_state_dict(state)
        self.generator.set_state(tensors["generator"])
        return outcome


def fingerprint(phase: Phase) -> str:
    """A digest of all that a phase depends on: settings, samples, inputs, untrained parameters."""
    about: list[Any] = [phase.name, phase.modality, phase.config.to_dict()]
    if phase.schedule.first_epoch > 0:  # paper_compat has had 0 in both trainings
        about.append(phase.schedule.first_epoch)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in (phase.source, *phase.inputs, *phase.module.state_dict().values()):
        for tensor in [part] if isinstance(part, Tensor) else part.content():
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(np.asarray(plain).data)
    return digest.hexdigest()
