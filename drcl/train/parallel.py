"""Training modalities in several processes, whole ones in each.

Modalities share nothing but the prior, so each can be trained in a process of its own: once for
prior learning, where all then agree on the best prior, and once for the encoders. What is trained
does not depend on how many processes there are, to the last bit for one number of threads each.
(For one modality on several processes see :mod:`drcl.train.ranks`.)
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed import ProcessGroup

from drcl.train.ranks import Ranks

Mode = Literal["modality", "data"]
MODES = ("modality", "data")
# Who is done first waits for the others, however long they train. A process that dies does not keep
# anyone waiting: its connections break, and its launcher ends the rest.
PATIENCE = datetime.timedelta(days=365)


class Trained(NamedTuple):
    """What a training hands on: tensors, and values that JSON can hold."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def assign(costs: Mapping[str, float], world: int) -> dict[str, int]:
    """Modality -> the rank that trains it: the costliest first, to whoever has least to do.

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
    train: Callable[[list[str]], Mapping[str, Trained]],
    ranks: Ranks | None,
) -> dict[str, Trained]:
    """Train every modality on one of the ranks; every rank gets what all of them trained.

    Args:
        costs: modality -> work, in any unit; the same on every rank.
        train: trains the modalities it is given, which may be none.
        ranks: the processes; None trains all modalities here.
    """
    if ranks is None:
        return dict(train(list(costs)))
    # The results travel through memory, whatever device they were trained on.
    group = dist.new_group(
        dist.get_process_group_ranks(ranks.group), backend="gloo", timeout=PATIENCE
    )
    owner = assign(costs, ranks.world)
    own = train([modality for modality in costs if owner[modality] == ranks.rank])
    trained = {}
    for modality in costs:
        trained[modality] = _from_owner(own.get(modality), owner[modality], group)
    dist.destroy_process_group(group)
    return trained


def _from_owner(own: Trained | None, owner: int, group: ProcessGroup) -> Trained:
    content = record = b""
    if own is not None:
        # Cloned because the format refuses tensors that share memory, which tied weights do.
        tensors = {name: value.detach().cpu().clone() for name, value in own.tensors.items()}
        content = save({name: value.contiguous() for name, value in tensors.items()})
        record = json.dumps(own.record).encode()
    content, record = (_broadcast(part, owner, group) for part in (content, record))
    return own or Trained(load(content), json.loads(record))


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
