"""What one of several ranks does in the tests of two hosts: a script, as torchrun starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

import drcl
from drcl import functional, metrics
from drcl.distributed import destroy

DIM, CLASSES, QUERIES, BATCH, STEPS = 192, 24, 300, 100, 3
Data = dict[str, Tensor]


def whole() -> Data:
    """A batch and a gallery for the ranks to share out, and queries that all have; in float64."""
    generator = torch.Generator().manual_seed(0)
    data = {}
    for name, count in {"batch": BATCH * STEPS, "gallery": 1203, "query": QUERIES}.items():
        data[name] = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        data[f"{name}_ids"] = torch.randint(CLASSES, (count,), generator=generator)
    return data


def piece(data: Data, rank: int, world: int) -> Data:
    """What one rank has of its own: more of the batch and of the gallery the higher it is."""

    def own(rows: Tensor) -> Tensor:
        return rows[len(rows) * rank**2 // world**2 : len(rows) * (rank + 1) ** 2 // world**2]

    return {name: rows if "query" in name else own(rows) for name, rows in data.items()}


def even(data: Data) -> Data:
    """As many rows of the batch on every rank: a network that is wrapped takes as many steps."""
    return {name: rows[: BATCH * STEPS // 4] for name, rows in data.items()}


def loss(data: Data, group: ProcessGroup | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The loss and its parts, and the gradient of these rows."""
    prior = drcl.Prior(drcl.Prior.orthogonal(DIM, CLASSES).weight.to(dtype))
    x = torch.nn.functional.normalize(data["batch"]).to(dtype).requires_grad_()
    parts = functional.reversible_consistency_loss(
        x, data["batch_ids"], prior, q=0.5, process_group=group
    )
    parts.total.backward()
    assert x.grad is not None
    return torch.cat([torch.stack(parts).detach(), x.grad.flatten()])


def ranking(data: Data, group: ProcessGroup | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The average precision of every query."""
    query, gallery = (data[name].to(dtype) for name in ("query", "gallery"))
    labels = data["query_ids"], data["gallery_ids"]
    return metrics.average_precision(query, gallery, *labels, process_group=group)


def trained(data: Data, *, epochs: int, parallel: bool = False, wrapped: bool = False) -> Tensor:
    """The weights after so many epochs, on a slice of every batch, or of a wrapped network."""
    networks = {}
    if wrapped:
        torch.manual_seed(0)
        networks = {"image": DistributedDataParallel(drcl.Encoder(DIM, dim=DIM, hidden=(64,)))}
    model = drcl.DRCL(
        networks=networks, dim=DIM, hidden=(64,), epochs=epochs, batch_size=BATCH, device="cpu"
    )
    model.fit(
        {"image": (data["batch"].float(), data["batch_ids"])},
        prior=drcl.Prior.orthogonal(DIM, CLASSES),
        progress=False,
        parallel="data" if parallel else None,
    )
    return torch.cat([value.flatten() for value in model.encoders["image"].state_dict().values()])


def sent() -> Tensor:
    """The bytes and packets that have left this host by any of its interfaces, itself included."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    columns = (line.partition(":")[2].split() for line in lines)
    return torch.tensor([[int(column[8]), int(column[9])] for column in columns]).sum(0)


def counted(work: Callable[..., object], *arguments: Any, **options: Any) -> list[int]:
    """The bytes and packets that this host sends while all ranks do it."""
    work(*arguments, **options)  # the first time may set something up
    dist.barrier()
    before = sent()
    work(*arguments, **options)
    dist.barrier()
    return (sent() - before).tolist()


def main(folder: Path, with_training: bool) -> None:
    """Work on the data of this host alone; what is found and sent is left in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group, rank = dist.group.WORLD, dist.get_rank()
    data, every = torch.load(Path(os.environ["HOST_FOLDER"], "data.pt"), weights_only=True)
    found = {
        "loss": loss(data, group),
        "loss in float64": loss(data, group, torch.float64),
        "ranking": ranking(data, group),
    }
    sends = {
        "nothing": counted(lambda: None),
        "loss": counted(loss, data, group),
        "ranking": counted(ranking, data, group),
    }
    if with_training:
        found["slices"] = trained(every, epochs=4, parallel=True)
        found["wrapped"] = trained(even(data), epochs=2, wrapped=True)
        for epochs in (1, 3):
            sends[f"epochs {epochs}"] = counted(trained, every, epochs=epochs, parallel=True)
    destroy()
    torch.save((found, sends), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "training" in sys.argv)
