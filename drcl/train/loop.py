"""A training in flight: epochs, the best state, checkpoints, progress."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from drcl.errors import NonFiniteLoss
from drcl.out_of_memory import first_line, is_out_of_memory
from drcl.storage.files import write_bytes
from drcl.storage.sealed import is_number, pack, read_tensors
from drcl.train.clock import Clock
from drcl.train.embedding import chunk_rows, embed
from drcl.train.history import check_history
from drcl.train.perceptron import Perceptron
from drcl.train.ranks import Ranks
from drcl.train.source import Batch, Resident, Source, batches
from drcl.train.step import LossFunction, Step, make_step

# The share of a training's time that its checkpoints may take, and the speed of saving as long as
# none has been measured.
CHECKPOINT_SHARE = 0.01
BYTES_PER_SECOND = 2e8

Embed = Callable[[Source], Iterator[tuple[Tensor, Tensor]]]
Record = dict[str, Any]
Log = Callable[[Record], None]


@dataclass(frozen=True)
class Phase:
    """One training: what is trained on what, and how an epoch is judged.

    ``network`` makes embeddings of features, and is ``module`` or a part of it, or wraps one (in
    DistributedDataParallel); ``loss`` is to be minimised. ``judge(q, embed)`` returns the values to
    record, of which ``criterion`` (highest or, without ``maximize``, lowest; where it is missing,
    never) picks the epoch whose parameters are kept. ``embed(source)`` yields embeddings and
    targets, good until the next ones. Without a criterion, or with ``keep_last``, the last epoch is
    kept. With ``mixes``, the loss gets a random permutation of the batch.
    """

    name: str
    modality: str
    network: nn.Module
    module: nn.Module
    source: Source
    loss: LossFunction
    judge: Callable[[float, Embed], dict[str, float]]
    criterion: str | None
    maximize: bool
    epochs: int
    batch_size: int
    lr: float
    seed: int
    drop_last: bool
    settings: dict[str, Any]
    precision: str = "float32"
    mixes: bool = False
    inputs: tuple[Tensor | Source, ...] = ()  # what the outcome depends on beside the rest
    keep_last: bool = False
    average: Callable[[list[Tensor]], None] | None = None  # over processes, where there are several
    ranks: Ranks | None = None  # the processes that have a slice of every batch each
    first_epoch: int = 0  # what the schedule of q counts the first epoch as
    least: int = 1  # rows of a batch

    @property
    def file(self) -> str:
        """The checkpoint's name in its folder."""
        return f"{self.name}-{self.modality}.safetensors"


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


def stream_seed(seed: int, *names: str) -> int:
    """A seed of its own for every modality and phase, whatever order they run in."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def train(
    phases: Sequence[Phase],
    checkpoints: Path | None = None,
    progress: bool = True,
    log: Log | None = None,
) -> list[Outcome]:
    """Train phases that do not depend on each other, each from its checkpoint if there is one.

    On a GPU they run at once, each in a stream of its own: one modality alone seldom fills the
    device. On a CPU they run one after the other, as each fills it. ``log`` is called with the
    record of every epoch.
    """
    files = [None if checkpoints is None else checkpoints / phase.file for phase in phases]
    pairs = list(zip(phases, files, strict=True))
    # Even one: a step is captured best from a stream that is not the default one.
    if phases and all(phase.source.device.type == "cuda" for phase in phases):
        return run_together(pairs, progress, log)
    return [run(phase, file, progress, log) for phase, file in pairs]


def run(
    phase: Phase, checkpoint: Path | None = None, progress: bool = True, log: Log | None = None
) -> Outcome:
    """Train a phase to its end, from its checkpoint if there is one.

    The checkpoint file holds everything that the rest of the phase depends on, so that a resumed
    phase ends with bit-identical parameters. Ctrl-C ends the epoch, saves and raises
    KeyboardInterrupt; a second one interrupts at once.
    """
    with (
        _ending_the_epoch(checkpoint is not None) as stopped,
        Training(phase, checkpoint, progress, log) as training,
    ):
        while not training.done:
            training.begin_epoch()
            training.end_epoch()
            if training.agree(stopped()):
                training.save()
                raise KeyboardInterrupt
        return training.outcome


def run_together(
    pairs: Sequence[tuple[Phase, Path | None]], progress: bool = True, log: Log | None = None
) -> list[Outcome]:
    """:func:`run` of several phases on one GPU at once: their epochs overlap, each in a stream."""
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_ending_the_epoch(any(file for _, file in pairs)))
        trainings = []
        for position, (phase, file) in enumerate(pairs):
            stream = torch.cuda.Stream(phase.source.device)
            stream.wait_stream(torch.cuda.current_stream(phase.source.device))
            with torch.cuda.stream(stream):
                training = Training(phase, file, progress, log, position)
            trainings.append((stack.enter_context(training), stream))
        while active := [pair for pair in trainings if not pair[0].done]:
            for training, stream in active:
                with torch.cuda.stream(stream):
                    training.begin_epoch()
            for training, stream in active:
                with torch.cuda.stream(stream):
                    training.end_epoch()
            if active[0][0].agree(stopped()):
                for training, _ in active:
                    training.save()
                raise KeyboardInterrupt
        for _, stream in trainings:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
        return [training.outcome for training, _ in trainings]


class Training:
    """One phase in flight.

    :meth:`begin_epoch` puts the work of a whole epoch on the device's queue, without waiting for
    it; :meth:`end_epoch` reads the losses, judges the epoch, records it and saves a checkpoint if
    one is due.
    """

    def __init__(
        self,
        phase: Phase,
        checkpoint: Path | None = None,
        progress: bool = True,
        log: Log | None = None,
        position: int | None = None,
    ) -> None:
        self.phase, self.checkpoint, self.log = phase, checkpoint, log
        # Of several processes with the same training one is enough to tell of it.
        self._leads = phase.ranks is None or phase.ranks.rank == 0
        device = phase.source.device
        self.clock = Clock(device)
        self.step = Step(
            phase.network,
            phase.module,
            phase.source,
            phase.loss,
            phase.lr,
            phase.precision,
            phase.average,
            phase.ranks,
            self.clock,
        )
        self._take = make_step(self.step, phase.network, phase.batch_size)
        self.generator = torch.Generator(device).manual_seed(phase.seed)
        self.epoch = 0
        self.outcome = Outcome(copy_state(phase.module), None, [])
        self._fingerprint = ""
        if checkpoint is not None:
            with self._raise_together():
                self._fingerprint = fingerprint(phase)
                if checkpoint.is_file():
                    self._restore(checkpoint)
        self._bytes = sum(value.nbytes for value in self.outcome.state.values())
        self._rate = BYTES_PER_SECOND
        self._saving = 0.0  # seconds, of those since the start
        self._started = time.monotonic()
        self._losses = torch.empty(0)
        self._bar = tqdm(
            desc=f"{phase.name} {phase.modality}",
            initial=self.epoch * phase.source.count,
            total=phase.epochs * phase.source.count,
            unit=" samples",
            unit_scale=True,
            position=position,
            disable=None if progress and self._leads else True,
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self.phase.module.zero_grad()  # gives back the gradients' memory

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch >= self.phase.epochs

    def begin_epoch(self) -> None:
        """One pass over the samples, enqueued.

        Raises MemoryError where a step does not fit, with a batch size that does.
        """
        try:
            self._enqueue_epoch()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        else:
            return
        # Here nothing holds on to what the step had made.
        raise MemoryError(self._too_large(reason))

    def _enqueue_epoch(self) -> None:
        phase, source = self.phase, self.phase.source
        self._began = time.perf_counter()
        phase.network.train()
        self.step.q.fill_(schedule_q(phase.first_epoch + self.epoch))
        losses, self._rows = [], 0
        with self._seeded(str(self.epoch)):
            self.clock.enter("data")
            read = source.epoch(phase.batch_size, self.generator, phase.drop_last, phase.least)
            while (batch := self._next(read)) is not None:
                permutation = (
                    torch.randperm(batch.rows, generator=self.generator, device=source.device)
                    if phase.mixes
                    else None
                )
                losses.append(self._take(batch, permutation))
                self._rows += batch.rows
                self.clock.enter("data")
                if source.device.type == "cpu":
                    self._bar.update(batch.rows)
            if not losses:
                raise ValueError(
                    f"{phase.name} {phase.modality}: yields no samples in epoch {self.epoch}; a "
                    "Dataset or DataLoader is read once an epoch, and once beforehand"
                )
            self._losses = torch.stack(losses)
            self.clock.enter("")

    def _next(self, read: Iterator[Batch]) -> Batch | None:
        with self._raise_together():
            return next(read, None)

    def _too_large(self, reason: str) -> str:
        """What to say of a step that did not fit: the largest half, quarter, … that does."""
        phase, source = self.phase, self.phase.source
        size = min(phase.batch_size, source.count)
        about = (
            f"{phase.name} {phase.modality}: out of memory on {source.device} with batch_size "
            f"{size} ({reason})"
        )
        if phase.ranks is not None:
            return f"{about}; try half of it, or more processes"
        self.step.passes.embeddings = torch.empty(0)  # and with them the graph of what failed
        while size > 1:
            size //= 2
            try:
                batch = next(iter(source.epoch(size, self.generator, False, phase.least)))
                order = torch.arange(batch.rows, device=source.device) if phase.mixes else None
                for _ in range(2):  # a second one has to fit beside what the first keeps
                    self.step(batch, order)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return f"{about}; {batch.rows} fits"
        return f"{about}; not even one row fits: take a smaller network"

    def end_epoch(self) -> None:
        """Read, judge, record, and save if it is time to."""
        phase, epoch = self.phase, self.epoch
        q = schedule_q(phase.first_epoch + epoch)
        loss, parts = self._read_losses()
        self.clock.enter("evaluation")
        with torch.inference_mode(), self._seeded(str(epoch), "judge"):
            values = phase.judge(q, self.embed)
        if phase.average is not None and values:
            averaged = torch.tensor(list(values.values()), dtype=torch.float64)
            averaged = averaged.to(phase.source.device)
            phase.average([averaged])
            values = dict(zip(values, averaged.tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(diverged(phase, f"{name} is {value} after epoch {epoch}"))
        kept = self._keep_if_better(values)
        times = {section: round(seconds, 6) for section, seconds in self.clock.read().items()}
        record = {
            "phase": phase.name,
            "modality": phase.modality,
            "epoch": epoch,
            "loss": loss,
            "parts": parts,
            **values,
            "kept": kept,
            "samples": self._rows,
            "seconds": time.perf_counter() - self._began,
            "time": times,
        }
        self.outcome.history.append(record)
        self.epoch += 1
        self._bar.set_postfix(
            {
                "epoch": f"{self.epoch}/{phase.epochs}",
                "loss": f"{loss:.4f}",
                **{name: f"{value:.4f}" for name, value in values.items()},
            },
            refresh=False,
        )
        self._bar.update(self.epoch * phase.source.count - self._bar.n)
        with self._raise_together():
            if self.log is not None and self._leads:
                self.log(record)
            if self._worth_saving():
                self.save()

    def _worth_saving(self) -> bool:
        """Whether all saving so far, with one more, stays within its share of the time.

        So a killed run has lost at most the time that pays for the next checkpoint.
        """
        # The parameters and those that are kept, and two moments; in the end what is kept.
        size = self._bytes * (1 if self.done else 4)
        elapsed = time.monotonic() - self._started
        return self._saving + size / self._rate <= CHECKPOINT_SHARE * elapsed

    def agree(self, stopped: bool) -> bool:
        """Whether any of the processes with this training was asked to stop; then all do."""
        ranks = self.phase.ranks
        return stopped if ranks is None else ranks.any(stopped, self.phase.source.device)

    def embed(self, source: Source) -> Iterator[tuple[Tensor, Tensor]]:
        """Embeddings and targets of all samples, in chunks; good until the next chunk.

        Of several ranks each gets its own rows.
        """
        if self._reaches_ahead(source):
            yield from self._embed_ahead()
            return
        network = self.phase.network
        if isinstance(network, DistributedDataParallel):
            network = network.module
        ranks = self.phase.ranks
        rows = slice(None) if ranks is None else ranks.rows(source.count)
        yield from embed(network, source, self.step.passes, self.phase.precision, rows)

    def _raise_together(self) -> contextlib.AbstractContextManager[None]:
        ranks = self.phase.ranks
        return contextlib.nullcontext() if ranks is None else ranks.raise_together()

    @contextlib.contextmanager
    def _seeded(self, *names: str) -> Iterator[None]:
        """Seeds torch's own generator, and afterwards puts it back.

        A user's network (dropout) or loader may draw from it: that stream too depends on the phase
        and the epoch alone. Ranks have other rows, so they draw other numbers.
        """
        device, ranks = self.phase.source.device, self.phase.ranks
        own = [str(ranks.rank)] if ranks is not None else []
        seed = stream_seed(self.phase.seed, *names, *own)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # torch.manual_seed would note the seed for kinds of device that there may not even be,
            # with a traceback each time, in a list that only grows.
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield

    def _reaches_ahead(self, source: Source) -> bool:
        """Whether the judged samples are those trained on, so that a forward pass can be shared."""
        return (
            source is self.phase.source
            and isinstance(source, Resident)
            and isinstance(self.step.passes, Perceptron)
            and self.phase.ranks is None
            and self.epoch + 1 < self.phase.epochs
        )

    def _embed_ahead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The next epoch's first batch last: its step starts from that forward pass.

        The parameters do not change in between, so the step computes what it would have.
        """
        source, size = self.phase.source, self.phase.batch_size
        state = self.generator.get_state()
        first, *rest = batches(source.count, size, self.generator, drop_last=False)
        self.generator.set_state(state)  # it is drawn again when the epoch begins
        for rows in (*(torch.cat(rest).split(chunk_rows(source.device)) if rest else ()), first):
            features, targets = source.load(rows)
            if rows is first:
                self.clock.enter("encoder")
            embeddings = self.step.passes.forward(features)
            self.clock.enter("evaluation")
            yield embeddings, targets
        self.step.ahead = first

    def save(self) -> None:
        """Write the checkpoint, if the training has one; its file is the old or the new."""
        if self.checkpoint is None or not self._leads:
            return
        began = time.monotonic()
        tensors: dict[str, Tensor] = {}
        if self.done or not self.outcome.history[-1]["kept"]:
            tensors |= {f"kept.{k}": v for k, v in self.outcome.state.items()}
        if not self.done:
            tensors |= {f"module.{k}": v for k, v in self.phase.module.state_dict().items()}
            for index, moments in self.step.optimizer.state_dict()["state"].items():
                tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
            tensors["generator"] = self.generator.get_state()
        metadata = {
            "inputs": self._fingerprint,
            "epoch": self.epoch,
            "best": self.outcome.best,
            "history": self.outcome.history,
        }
        write_bytes(self.checkpoint, pack(tensors, metadata))
        seconds = time.monotonic() - began
        self._saving += seconds
        self._rate = sum(value.nbytes for value in tensors.values()) / seconds
        self.outcome.history[-1]["time"]["checkpoint"] += round(seconds, 6)

    def _restore(self, path: Path) -> None:
        tensors, metadata = read_tensors(path)
        if metadata.get("inputs") != self._fingerprint:
            raise ValueError(
                f"{path}: this checkpoint was written with other settings, data, prior or network; "
                "continue with the same, or remove it to start anew"
            )

        try:
            self._take_up(tensors, metadata)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: incomplete or damaged ({error!r})") from error

    def _take_up(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            return {k: v.to(self.phase.source.device) for k, v in found.items()}

        kept, history = part("kept.") or part("module."), check_history(metadata["history"])
        self.phase.module.load_state_dict(kept)
        if not ((best := metadata["best"]) is None or is_number(best)):
            raise ValueError(f"best is {best!r}")
        self.outcome = Outcome(kept, best, history)
        self.epoch = len(history)
        if self.done:
            return
        self.phase.module.load_state_dict(part("module."))
        state, parameters = self.step.optimizer.state_dict(), self.phase.module.parameters()
        for index, parameter in enumerate(parameters):
            # A parameter that never had a gradient has no moments.
            if moments := part(f"adam.{index}."):
                shapes = {name: moment.shape for name, moment in moments.items()}
                # The optimizer's own kernel does not look, and would reach into other memory.
                if shapes != {
                    "step": (),
                    "exp_avg": parameter.shape,
                    "exp_avg_sq": parameter.shape,
                }:
                    raise ValueError(f"moments of shapes {shapes}")
                state["state"][index] = moments
        self.step.optimizer.load_state_dict(state)
        self.generator.set_state(tensors["generator"])

    def _read_losses(self) -> tuple[float, dict[str, float]]:
        """The epoch's mean loss and parts; the one place where the host waits for the steps."""
        table = self._losses.double().cpu()
        names = self.step.parts
        bad = (~table[:, 0].isfinite()).nonzero()
        if len(bad):
            batch = int(bad[0])
            loss, *parts, embeddings = table[batch].tolist()
            culprits = [
                name for name, value in zip(names, parts, strict=True) if not math.isfinite(value)
            ]
            if not math.isfinite(embeddings):
                culprits = ["the network's output"]
            where = f"loss is {loss} in epoch {self.epoch}, batch {batch} of {len(table)}"
            raise NonFiniteLoss(
                diverged(self.phase, f"{where}: not finite is {', '.join(culprits) or 'their sum'}")
            )
        loss, *parts, _ = table.mean(dim=0).tolist()
        return loss, dict(zip(names, parts, strict=True))

    def _keep_if_better(self, values: dict[str, float]) -> bool:
        phase, best = self.phase, self.outcome.best
        value = None if phase.criterion is None else values.get(phase.criterion)
        better = value is not None and (
            best is None or (value > best if phase.maximize else value < best)
        )
        if better:
            self.outcome.best = value
        # The last one counts too as long as none could be judged.
        kept = better or phase.keep_last or self.outcome.best is None
        if kept:
            for name, tensor in phase.module.state_dict().items():
                self.outcome.state[name].copy_(tensor)
        return kept


def diverged(phase: Phase, what: str) -> str:
    """The message of a :class:`NonFiniteLoss`: where it happened and what to do about it."""
    return (
        f"{phase.name} {phase.modality}: {what} (lr {phase.lr}): try a smaller learning rate or "
        "standardize"
    )


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, in memory of its own."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def fingerprint(phase: Phase) -> str:
    """All that a phase depends on: settings, samples, further inputs, the untrained parameters."""
    about: list[Any] = [phase.name, phase.modality, phase.settings]
    if phase.first_epoch > 0:  # paper_compat has had 0 in both trainings
        about.append(phase.first_epoch)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in (phase.source, *phase.inputs, *phase.module.state_dict().values()):
        for tensor in [part] if isinstance(part, Tensor) else part.content():
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(np.asarray(plain).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _ending_the_epoch(active: bool) -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is only remembered: the function that is yielded tells.

    Python lets only the main thread do so, and a handler that is not Python's own is left alone.
    """
    asked: list[int] = []

    def remember(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError):  # Ctrl-C has ended whoever reads a pipe, too
            tqdm.write("ending the epoch, to save it; Ctrl-C again stops at once", file=sys.stderr)

    mine = (
        active
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if mine:
        signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
        if asked:  # when no epoch was left to look at it
            raise KeyboardInterrupt
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
