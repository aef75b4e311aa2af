"""A training in flight: epochs, the best state, progress."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from drcl import kept_memory
from drcl.distributed import raise_together
from drcl.errors import NonFiniteLoss
from drcl.out_of_memory import first_line, first_that_fits, is_out_of_memory
from drcl.progress import progress_bar
from drcl.seeding import seeded
from drcl.train.checkpoint import Checkpoint, fingerprint
from drcl.train.clock import Clock
from drcl.train.config import stream_seed
from drcl.train.context import Context
from drcl.train.embedding import chunk_rows, embed
from drcl.train.interrupt import interrupt_after_epoch
from drcl.train.networks import unwrapped
from drcl.train.parallel import spread
from drcl.train.perceptron import Perceptron
from drcl.train.phase import Outcome, Phase, schedule_q
from drcl.train.source import Batch, Resident, SampleSource, batches
from drcl.train.step import Step, make_step


def train_modalities(
    costs: Mapping[str, float],
    make_phase: Callable[[str], Phase],
    finish: Callable[[Phase, Outcome], Outcome],
    context: Context,
) -> dict[str, Outcome]:
    """Train the phase of every modality; with several processes, each modality in one of them.

    Args:
        costs: modality -> how much work it is, in any unit.
        make_phase: called with a modality where it is trained.
        finish: called there with what was trained; what it returns goes to every process.
        context: what trainings have in common.
    """

    def learn(modalities: list[str]) -> dict[str, Outcome]:
        phases = [make_phase(modality) for modality in modalities]
        outcomes = zip(phases, train(phases, context), strict=True)
        return {phase.modality: finish(phase, outcome) for phase, outcome in outcomes}

    return spread(costs, learn, context.parallel.modalities)


def train(phases: Sequence[Phase], context: Context) -> list[Outcome]:
    """Train phases that do not depend on each other, each from its checkpoint if there is one.

    On a GPU they run at once, each in a stream of its own: one modality alone seldom fills the
    device. On a CPU they run one after the other, as each fills it.
    """
    # Even one: a step is captured best from a stream that is not the default one.
    if phases and all(phase.source.device.type == "cuda" for phase in phases):
        return run_together(phases, context)
    return [run(phase, context) for phase in phases]


def run(phase: Phase, context: Context) -> Outcome:
    """Train a phase to its end, from its checkpoint if there is one.

    The checkpoint file holds everything that the rest of the phase depends on, so that a resumed
    phase ends with bit-identical parameters. Ctrl-C ends the epoch, saves and raises
    KeyboardInterrupt; a second one interrupts at once.
    """
    with (
        interrupt_after_epoch(context.checkpoints is not None) as stopped,
        Training(phase, context) as training,
    ):
        while not training.done:
            training.begin_epoch()
            training.end_epoch()
            if training.agree(stopped()):
                training.save()
                raise KeyboardInterrupt
        return training.outcome


def run_together(phases: Sequence[Phase], context: Context) -> list[Outcome]:
    """:func:`run` of several phases on one GPU at once: their epochs overlap, each in a stream."""
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(interrupt_after_epoch(context.checkpoints is not None))
        trainings = []
        for position, phase in enumerate(phases):
            stream = torch.cuda.Stream(phase.source.device)
            stream.wait_stream(torch.cuda.current_stream(phase.source.device))
            with torch.cuda.stream(stream):
                training = Training(phase, context, position)
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

    def __init__(self, phase: Phase, context: Context, position: int | None = None) -> None:
        self.phase, self.log = phase, context.log
        # Of several processes with the same training one is enough to tell of it.
        self._leads = phase.ranks is None or phase.ranks.rank == 0
        device = phase.source.device
        self.clock = Clock(device)
        self.step = Step(phase, self.clock)
        self._take = make_step(self.step)
        self.generator = torch.Generator(device).manual_seed(phase.schedule.seed)
        state = phase.module.state_dict()
        kept = {name: value.detach().clone() for name, value in state.items()}
        self.outcome = Outcome(kept, None, [])
        self.checkpoint: Checkpoint | None = None
        with raise_together(self.phase.group):
            about = fingerprint(phase) if phase.ranks or context.checkpoints else ""
            if context.checkpoints is not None:
                path, optimizer = context.checkpoints / phase.file, self.step.optimizer
                self.checkpoint = Checkpoint(path, phase, about, optimizer, self.generator)
                self.outcome = self.checkpoint.restore() or self.outcome
        self.epoch = len(self.outcome.history)
        if phase.ranks is not None:  # what differs would be trained on, or hang, without a word
            phase.ranks.check_same(f"{phase.title}: settings, data, prior and network", about)
            phase.ranks.check_same(f"{phase.title}: folder of checkpoints", str(self.epoch))
        self._bytes = sum(value.nbytes for value in self.outcome.state.values())
        self._losses = torch.empty(0)
        self._bar = progress_bar(
            desc=phase.title,
            initial=self.epoch * phase.source.count,
            total=phase.schedule.epochs * phase.source.count,
            unit=" samples",
            unit_scale=True,
            position=position,
            disable=None if context.progress and self._leads else True,
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self.phase.module.zero_grad()  # gives back the gradients' memory
        kept_memory.release()

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch >= self.phase.schedule.epochs

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
        phase, source, schedule = self.phase, self.phase.source, self.phase.schedule
        self._began = time.perf_counter()
        phase.network.train()
        self.step.q.fill_(schedule_q(schedule.first_epoch + self.epoch))
        losses, self._rows = [], 0
        with self._seeded(str(self.epoch)):
            self.clock.enter("data")
            read = source.epoch(
                schedule.batch_size, self.generator, phase.config.paper_compat, phase.least
            )
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
                    f"{phase.title}: expected samples in epoch {self.epoch}, got none; a "
                    "Dataset or DataLoader is read once an epoch, and once beforehand"
                )
            self._losses = torch.stack(losses)
            self.clock.enter("")

    def _next(self, read: Iterator[Batch]) -> Batch | None:
        with raise_together(self.phase.group):
            return next(read, None)

    def _too_large(self, reason: str) -> str:
        """What to say of a step that did not fit: the largest half, quarter, … that does."""
        phase, source = self.phase, self.phase.source
        size = min(phase.schedule.batch_size, source.count)
        about = f"{phase.title}: out of memory on {source.device} with batch_size {size} ({reason})"
        if phase.ranks is not None:
            return f"{about}; try half of it, or more processes"
        self.step.passes.embeddings = torch.empty(0)  # and with them the graph of what failed

        def attempt(rows: int) -> int:
            batch = next(iter(source.epoch(rows, self.generator, False, phase.least)))
            order = torch.arange(batch.rows, device=source.device) if phase.mixes else None
            for _ in range(2):  # a second one has to fit beside what the first keeps
                self.step(batch, order)
            return batch.rows

        fits = first_that_fits(attempt, size // 2)
        if fits is None:
            return f"{about}; not even one row fits: take a smaller network"
        return f"{about}; {fits} fits"

    def end_epoch(self) -> None:
        """Read, judge, record, and save if it is time to."""
        phase, epoch = self.phase, self.epoch
        q = schedule_q(phase.schedule.first_epoch + epoch)
        loss, parts = self._read_losses()
        self.clock.enter("evaluation")
        with torch.inference_mode(), self._seeded(str(epoch), "judge"):
            values = phase.validate(q, self.embed)
        if phase.average is not None and values:
            averaged = torch.tensor(list(values.values()), dtype=torch.float64)
            averaged = averaged.to(phase.source.device)
            phase.average([averaged])
            values = dict(zip(values, averaged.tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(phase.diverged(f"{name} is {value} after epoch {epoch}"))
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
                "epoch": f"{self.epoch}/{phase.schedule.epochs}",
                "loss": f"{loss:.4f}",
                **{name: f"{value:.4f}" for name, value in values.items()},
            },
            refresh=False,
        )
        self._bar.update(self.epoch * phase.source.count - self._bar.n)
        with raise_together(self.phase.group):
            if self.log is not None and self._leads:
                self.log(record)
            # The parameters and those that are kept, and two moments; in the end what is kept.
            if self.checkpoint is not None and self.checkpoint.is_due(
                self._bytes * (1 if self.done else 4)
            ):
                self.save()

    def agree(self, stopped: bool) -> bool:
        """Whether any of the processes with this training was asked to stop; then all do."""
        ranks = self.phase.ranks
        return stopped if ranks is None else ranks.any(stopped, self.phase.source.device)

    def embed(self, source: SampleSource) -> Iterator[tuple[Tensor, Tensor]]:
        """Embeddings and targets of all samples, in chunks; good until the next chunk.

        Of several ranks each gets its own rows.
        """
        if self._reaches_ahead(source):
            yield from self._embed_ahead()
            return
        network, ranks = unwrapped(self.phase.network), self.phase.ranks
        rows = slice(None) if ranks is None else ranks.rows(source.count)
        yield from embed(network, source, self.step.passes, self.phase.config.precision, rows)

    def _seeded(self, *names: str) -> contextlib.AbstractContextManager[None]:
        """A stream that depends on the phase and the epoch alone.

        A user's network (dropout) or loader may draw from torch's own generator. Ranks have other
        rows, so they draw other numbers.
        """
        own = [] if self.phase.ranks is None else [str(self.phase.ranks.rank)]
        seed = stream_seed(self.phase.schedule.seed, *names, *own)
        return seeded(self.phase.source.device, seed)

    def _reaches_ahead(self, source: SampleSource) -> bool:
        """Whether judging and the next step share a forward pass: on the samples trained on."""
        return (
            source is self.phase.source
            and isinstance(source, Resident)
            and isinstance(self.step.passes, Perceptron)
            and self.phase.ranks is None
            and self.epoch + 1 < self.phase.schedule.epochs
        )

    def _embed_ahead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The next epoch's first batch last: its step starts from that forward pass.

        The parameters do not change in between, so the step computes what it would have.
        """
        source, size = self.phase.source, self.phase.schedule.batch_size
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
        """Write the checkpoint, if the training has one."""
        if self.checkpoint is not None and self._leads:
            self.checkpoint.save(self.outcome)

    def _read_losses(self) -> tuple[float, dict[str, float]]:
        """The epoch's mean loss and parts; the one place where the host waits for the steps."""
        table = self._losses.cpu().double()
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
                self.phase.diverged(f"{where}: not finite is {', '.join(culprits) or 'their sum'}")
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
