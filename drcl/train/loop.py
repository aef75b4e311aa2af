"""The epoch loop both phases share: batches, optimiser, best state, checkpoint, progress."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from drcl.train.checkpoint import pack, read_tensors, write_bytes
from drcl.train.samples import Samples

CHECKPOINT_SECONDS = 10.0


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite; the message says in which phase, epoch and batch."""


@dataclass(frozen=True)
class Phase:
    """One training: what is trained on what, and how an epoch is judged.

    ``loss(features, targets, q, generator)`` is a scalar to minimise; ``judge(q)`` returns the
    values to record, of which ``criterion`` (highest or, without ``maximize``, lowest; where it is
    missing, never) picks the epoch whose parameters are kept. Without a criterion, or with
    ``keep_last``, the last epoch is kept.
    """

    name: str
    modality: str
    module: nn.Module
    samples: Samples
    loss: Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
    judge: Callable[[float], dict[str, float]]
    criterion: str | None
    maximize: bool
    epochs: int
    batch_size: int
    lr: float
    seed: int
    drop_last: bool
    settings: dict[str, Any]
    inputs: tuple[Tensor, ...] = ()  # what the outcome depends on beside samples and settings
    keep_last: bool = False


@dataclass
class Outcome:
    """The kept parameters, the best criterion value (None without one) and a record per epoch."""

    state: dict[str, Tensor]
    best: float | None
    history: list[dict[str, Any]]


def schedule_q(epoch: int) -> float:
    """``q = min(1, epoch/100)``, epochs counted from 0 (paper, J_L)."""
    return min(1.0, 0.01 * epoch)


def stream_seed(seed: int, *names: str) -> int:
    """A seed of its own for every modality and phase, whatever order they run in."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def batches(count: int, size: int, generator: torch.Generator, drop_last: bool) -> Iterator[Tensor]:
    """A random order of ``count`` rows, cut into batches; at least one batch."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    for start in range(0, count, size):
        batch = order[start : start + size]
        if not (drop_last and start > 0 and len(batch) < size):
            yield batch


def run(phase: Phase, checkpoint: Path | None = None, progress: bool = True) -> Outcome:
    """Train a phase to its end, from its checkpoint if there is one.

    The checkpoint file holds everything that the rest of the phase depends on, so that a resumed
    phase ends with bit-identical parameters.
    """
    module, samples = phase.module, phase.samples
    device = samples.features.device
    optimizer = torch.optim.Adam(module.parameters(), lr=phase.lr, betas=(0.5, 0.999), fused=True)
    generator = torch.Generator(device).manual_seed(phase.seed)
    outcome, start = Outcome(_copy_state(module), None, []), 0
    fingerprint = "" if checkpoint is None else _fingerprint(phase)
    if checkpoint is not None and checkpoint.exists():
        outcome, start = _restore(phase, checkpoint, fingerprint, optimizer, generator)
    saved = time.monotonic()
    bar = tqdm(
        range(start, phase.epochs),
        desc=f"{phase.name} {phase.modality}",
        initial=start,
        total=phase.epochs,
        unit="epoch",
        disable=None if progress else True,
    )
    for epoch in bar:
        began = time.perf_counter()
        q = schedule_q(epoch)
        loss = _epoch(phase, optimizer, generator, epoch, q)
        values = phase.judge(q)
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(diverged(phase, f"{name} is {value} after epoch {epoch}"))
        kept = _keep_if_better(phase, outcome, values)
        outcome.history.append(
            {
                "phase": phase.name,
                "modality": phase.modality,
                "epoch": epoch,
                "loss": loss,
                **values,
                "kept": kept,
                "seconds": time.perf_counter() - began,
            }
        )
        bar.set_postfix({"loss": f"{loss:.4f}", **{k: f"{v:.4f}" for k, v in values.items()}})
        last = epoch + 1 == phase.epochs
        if checkpoint is not None and (last or time.monotonic() - saved > CHECKPOINT_SECONDS):
            _save(phase, checkpoint, fingerprint, optimizer, generator, outcome, epoch + 1)
            saved = time.monotonic()
    return outcome


def _epoch(
    phase: Phase,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    epoch: int,
    q: float,
) -> float:
    """One pass over the samples; the mean loss, read from the device once at its end."""
    phase.module.train()
    losses = []
    features, targets = phase.samples
    # A user's network may draw from torch's own generator (dropout): its stream too depends on the
    # phase and the epoch alone, and the caller's is left as it was.
    with torch.random.fork_rng([features.device] if features.is_cuda else []):
        torch.manual_seed(stream_seed(phase.seed, str(epoch)))
        for rows in batches(len(features), phase.batch_size, generator, phase.drop_last):
            loss = phase.loss(features[rows], targets[rows], q, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    values = torch.stack(losses)
    finite = values.isfinite()
    if not bool(finite.all()):
        batch = int((~finite).nonzero()[0])
        where = f"loss is {float(values[batch])} in epoch {epoch}, batch {batch} of {len(values)}"
        raise NonFiniteLoss(diverged(phase, where))
    return float(values.mean())


def diverged(phase: Phase, what: str) -> str:
    """The message of a :class:`NonFiniteLoss`: where it happened and what to do about it."""
    return (
        f"{phase.name} {phase.modality}: {what} (lr {phase.lr}): try a smaller learning rate or "
        "standardize"
    )


def _keep_if_better(phase: Phase, outcome: Outcome, values: dict[str, float]) -> bool:
    value = None if phase.criterion is None else values.get(phase.criterion)
    best = outcome.best
    better = value is not None and (
        best is None or (value > best if phase.maximize else value < best)
    )
    if better:
        outcome.best = value
    kept = better or phase.keep_last or phase.criterion is None
    if kept:
        outcome.state = _copy_state(phase.module)
    return kept


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _save(
    phase: Phase,
    path: Path,
    fingerprint: str,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    outcome: Outcome,
    epoch: int,
) -> None:
    tensors = {f"module.{k}": v for k, v in phase.module.state_dict().items()}
    tensors |= {f"kept.{k}": v for k, v in outcome.state.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
    tensors["generator"] = generator.get_state()
    metadata = {
        "inputs": fingerprint,
        "epoch": epoch,
        "best": outcome.best,
        "history": outcome.history,
    }
    write_bytes(path, pack(tensors, metadata))


def _restore(
    phase: Phase,
    path: Path,
    fingerprint: str,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[Outcome, int]:
    tensors, metadata = read_tensors(path)
    if metadata.get("inputs") != fingerprint:
        raise ValueError(
            f"{path}: this checkpoint was written with other settings, data, prior or network; "
            "continue with the same, or remove it to start anew"
        )
    device = phase.samples.features.device

    def part(prefix: str) -> dict[str, Tensor]:
        found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        return {k: v.to(device) for k, v in found.items()}

    phase.module.load_state_dict(part("module."))
    state = optimizer.state_dict()
    state["state"] = {index: part(f"adam.{index}.") for index in state["param_groups"][0]["params"]}
    optimizer.load_state_dict(state)
    generator.set_state(tensors["generator"])
    return Outcome(part("kept."), metadata["best"], metadata["history"]), metadata["epoch"]


def _fingerprint(phase: Phase) -> str:
    """All that a phase depends on: settings, samples, further inputs, the untrained parameters."""
    about = [phase.name, phase.modality, phase.settings]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in (*phase.samples, *phase.inputs, *phase.module.state_dict().values()):
        digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
        digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
