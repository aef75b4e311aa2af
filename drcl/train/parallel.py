"""Training modalities in several processes, whole ones in each.

Modalities share nothing but the prior, so each can be trained in a process of its own: once for
prior learning, where all then agree on the best prior, and once for the encoders. What is trained
does not depend on how many processes there are, to the last bit for one number of threads each.
(For one modality on several processes see :mod:`drcl.train.ranks`.)

Processes do not replace threads. On two cores, two processes with a thread each against one with
two, start-up not counted: two equal modalities 1.00 and 1.09 times as fast, the digits (three
modalities) 0.81 to 0.97 times, features 4096 and 300 wide 0.72 and 0.75 times, the paper's network
on these 0.90 times (one run). Threads share the cores evenly, modalities seldom do. What this is
for is several machines or GPUs, or more cores than the products of one modality can fill; neither
is measured yet.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import _set_pg_timeout

from drcl.distributed import destroy
from drcl.errors import RankFailed
from drcl.portable import notice_lost_machines
from drcl.train.phase import Outcome
from drcl.train.ranks import Ranks

Mode = Literal["modality", "data"]
MODES = ("modality", "data")
# A process that is done waits for the others, however long they train. One that dies keeps nobody
# waiting: its connections break, by `notice_lost_machines` also where its machine dies with it, and
# the launcher ends the rest.
CONNECTING, TRAINING = datetime.timedelta(minutes=10), datetime.timedelta(days=365)
LOST = 60  # seconds without an answer, also to the kernel, after which a machine counts as lost


class Parallel(NamedTuple):
    """The processes that modalities are spread over, or those with a slice of every batch."""

    modalities: Ranks | None = None
    batches: Ranks | None = None

    @classmethod
    def of(cls, mode: Mode | None) -> Parallel:
        """The processes of the default group, divided so; one process alone needs no division."""
        if mode is None:
            return ALONE
        if mode not in MODES:
            raise ValueError(f"parallel: expected one of {MODES} or None, got {mode!r}")
        ranks = Ranks.of()
        if ranks.world == 1:
            return ALONE
        notice_lost_machines(LOST)
        return cls(modalities=ranks) if mode == "modality" else cls(batches=ranks)

    @property
    def group(self) -> ProcessGroup | None:
        """The processes that take part, if there are several."""
        ranks = self.modalities or self.batches
        return None if ranks is None else ranks.group


ALONE = Parallel()


def assign(costs: Mapping[str, float], world: int) -> dict[str, int]:
    """Modality -> the rank that trains it: the costliest first, to the rank with the least work.

    >>> assign({"image": 3.0, "text": 1.0, "audio": 1.0}, world=2)
    {'image': 0, 'text': 1, 'audio': 1}
    """
    load = [0.0] * world
    ranks = {}
    for modality in sorted(costs, key=lambda name: (-costs[name], name)):
        ranks[modality] = rank = load.index(min(load))
        load[rank] += costs[modality]
    return {modality: ranks[modality] for modality in costs}


def spread(
    costs: Mapping[str, float],
    train: Callable[[list[str]], Mapping[str, Outcome]],
    ranks: Ranks | None,
) -> dict[str, Outcome]:
    """Train every modality on one of the ranks; every rank gets what all of them trained.

    Args:
        costs: modality -> work, in any unit; the same on every rank.
        train: trains the modalities it is given, which may be none.
        ranks: the processes; None trains all modalities here.
    """
    if ranks is None:
        return dict(train(list(costs)))
    # The results travel through memory, whatever device they were trained on.
    members = dist.get_process_group_ranks(ranks.group)
    group = dist.new_group(members, backend="gloo", timeout=CONNECTING)
    _set_pg_timeout(TRAINING, group)
    notice_lost_machines(LOST)
    owner = assign(costs, ranks.world)
    try:
        own = train([modality for modality in costs if owner[modality] == ranks.rank])
    except Exception:
        _tell(True, group)  # and no waiting for the others, who may train for long
        raise
    exchange, flags = _tell(False, group)
    while not exchange.is_completed():  # in Python, so that Ctrl-C gets through
        time.sleep(0.02)
    exchange.wait()
    failed = [int(flag) for flag in flags]
    if any(failed):
        raise RankFailed(f"rank {failed.index(1)} failed; stopping all ranks (see its error)")
    trained = {}
    for modality in costs:
        trained[modality] = _from_owner(own.get(modality), owner[modality], group)
    destroy(group)
    return trained


def _tell(failed: bool, group: ProcessGroup) -> tuple[dist.Work, list[Tensor]]:
    """Tell the other ranks whether the training failed here, and receive the same from them."""
    flags = [torch.tensor(0) for _ in range(dist.get_world_size(group))]
    return dist.all_gather(flags, torch.tensor(int(failed)), group=group, async_op=True), flags


def _from_owner(own: Outcome | None, owner: int, group: ProcessGroup) -> Outcome:
    tensors = record = b""
    if own is not None:
        state = {name: value.cpu().contiguous() for name, value in own.state.items()}
        tensors, record = save(state), json.dumps([own.best, own.history]).encode()
    tensors, record = (_broadcast(part, owner, group) for part in (tensors, record))
    return own or Outcome(load(tensors), *json.loads(record))


def _broadcast(content: bytes, owner: int, group: ProcessGroup) -> bytes:
    """The owner's bytes, on every rank."""
    length = torch.tensor(len(content))
    dist.broadcast(length, group=group, group_src=owner)
    if len(content) > 0:
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    else:
        buffer = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(buffer, group=group, group_src=owner)
    return buffer.numpy().tobytes()
