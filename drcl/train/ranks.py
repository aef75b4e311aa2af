"""The processes of one training, each with a slice of every batch, that compute as one would.

Every rank draws the same permutations of the same samples and takes its slice of each batch. What
one process would do with the whole batch needs three exchanges a step:

- feature mixing: the rows that a rank mixes its own with, ``B·D/world`` numbers to and from it, and
  their gradients the same way back (:meth:`Ranks.mix`);
- the loss: the sums of :func:`drcl.functional.reversible_consistency_loss` over the process group;
- the gradients of the parameters, in one sum (:meth:`Ranks.sum_gradients`).

Losses and gradients are those of one process up to the rounding of sums in another order. That
does not hold for layers that mix rows themselves: batch normalisation sees a rank's own slice (use
``torch.nn.SyncBatchNorm``).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from drcl.distributed import all_gather_int, gather_rows, shard
from drcl.labels import is_labelled, target_rows
from drcl.metrics import average_precision
from drcl.precision import widest


@dataclass(frozen=True)
class Ranks:
    """One process among those of a group.

    Attributes:
        group: the processes; its backend must know the device that is trained on.
        rank, world: the number of this process, 0..world−1, and how many there are.
    """

    group: ProcessGroup
    rank: int
    world: int

    @classmethod
    def of(cls, group: ProcessGroup | None = None) -> Ranks:
        """This process in ``group``, by default in the default group."""
        if not dist.is_initialized():
            raise ValueError(
                "parallel: expected a process group, got none; start the processes with torchrun "
                "and call torch.distributed.init_process_group() in each"
            )
        group = group or cast(ProcessGroup, dist.group.WORLD)
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def shard(self, count: int) -> slice:
        """This rank's slice of ``count`` rows: :func:`drcl.distributed.shard`."""
        return shard(count, self.rank, self.world)

    def rows(self, count: int) -> slice:
        """:meth:`shard`, or row 0 where that is empty: every rank has to take part in every step.

        :meth:`targets` then hides the row's label, and a row without a label counts nowhere.
        """
        own = self.shard(count)
        return own if own.start < own.stop else slice(0, 1)

    def targets(self, own: Tensor, count: int) -> Tensor:
        """The labels of :meth:`rows`: hidden if the row only stands in."""
        if self.size(count) > 0:
            return own
        return torch.full_like(own, -1 if own.ndim == 1 else 0)

    def mix(
        self, features: Tensor, targets: Tensor, permutation: Tensor, classes: int, lam: float
    ) -> tuple[Tensor, Tensor]:
        """The rank's rows of :func:`drcl.functional.mixup` of the whole batch.

        Args:
            features, targets: (b, D) and (b,) ids or (b, C) rows, those of :meth:`rows`.
            permutation: π (B,) of the whole batch, the same on every rank.
            classes: C.
            lam: λ.

        Returns mixed features (b, D), at least float32, and target rows (b, C).
        """
        size = self.size(len(permutation))
        route = _Route.of(permutation, self)
        wide = torch.promote_types(features.dtype, torch.float32)
        x, y = features[:size], targets[:size]
        x_partner, y_partner = _Exchange.apply(x, route), route.move(y)
        y, y_partner = target_rows(y, classes, wide), target_rows(y_partner, classes, wide)
        labelled = is_labelled(y) & is_labelled(y_partner)
        # A rank without rows keeps its stand-in beside them, so that it has a part in the exchange.
        mixed = torch.cat([x_partner.to(wide).lerp(x.to(wide), lam), features[size:].to(wide)])
        rows = torch.cat(
            [y_partner.lerp(y, lam) * labelled[:, None], y.new_zeros(len(features) - size, classes)]
        )
        return mixed, rows

    def mean(self, value: Tensor, count: Tensor | int) -> Tensor:
        """The mean over all rows from the mean ``value`` over ``count`` own ones.

        The gradient is that by this rank's own rows.
        """
        weight = torch.as_tensor(count, dtype=value.dtype, device=value.device)
        total, rows = _Sum.apply(torch.stack([value * weight, weight]), self.group)
        return total / rows.clamp(min=1)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks, in one all-reduce for each dtype.

        A parameter that no rank has a gradient for keeps None.
        """
        by_dtype: dict[Any, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            if parameter.requires_grad:
                by_dtype[parameter.dtype, parameter.device].append(parameter)
        for alike in by_dtype.values():
            # Beside the gradients goes how many ranks have each of them.
            own = alike[0].new_tensor([float(p.grad is not None) for p in alike])
            parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in alike]
            flat = torch.cat([*parts, own])
            dist.all_reduce(flat, group=self.group)
            *sums, known = flat.split([*(len(part) for part in parts), len(alike)])
            for index, (parameter, total) in enumerate(zip(alike, sums, strict=True)):
                # To read the number a GPU would have to be waited for: only where it matters.
                if parameter.grad is not None or bool(known[index]):
                    parameter.grad = total.view_as(parameter)

    def check_same(self, what: str, value: str) -> None:
        """Raises ValueError on every rank where ``value`` is not the same on all of them."""
        digest = hashlib.sha256(value.encode()).hexdigest()[:15]  # what an int64 holds
        first, *others = all_gather_int(int(digest, 16), self.group)
        if differing := [rank for rank, one in enumerate(others, start=1) if one != first]:
            raise ValueError(f"{what}: expected the same on all ranks, got another on {differing}")

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so on any rank."""
        flags = torch.tensor(int(flag), device=device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flags)

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All ``count`` rows, on every rank, from those of every rank's :meth:`shard`."""
        return gather_rows(rows[: self.size(count)], self.group)

    def mean_average_precision(self, embeddings: Tensor, targets: Tensor) -> float:
        """mAP of all rows (N, D) against each other, every rank ranking its share of the queries.

        As ``metrics.mean_average_precision(x, x, y, y, exclude_self=True)``. Rows are at hand on
        every rank, so queries are split and not the gallery: no scores have to travel.
        """
        others = torch.ones(len(targets), dtype=torch.int64)
        others[self.shard(len(targets))] = 0
        found = average_precision(
            embeddings,
            embeddings,
            targets,
            targets,
            exclude_self=True,
            query_groups=others,
            gallery_groups=torch.zeros_like(others),
        )[others == 0]
        counted = ~found.isnan()
        sums = torch.stack([found[counted].sum(), counted.sum().double()])
        sums = sums.to(embeddings.device, widest(embeddings.device))
        dist.all_reduce(sums, group=self.group)
        return float(sums[0] / sums[1])

    def size(self, count: int) -> int:
        """The number of rows of :meth:`shard`."""
        own = self.shard(count)
        return own.stop - own.start


class _Route(NamedTuple):
    """How rows travel: ``rows[take]`` leave, so many to each rank; arrivals go to ``put``."""

    take: Tensor
    put: Tensor
    send: list[int]
    receive: list[int]
    group: ProcessGroup

    @classmethod
    def of(cls, permutation: Tensor, ranks: Ranks) -> _Route:
        """The way of row π[i] of the whole batch to its place i."""
        # The host must know how much goes where, so the permutation is read from the device.
        wanted = permutation.cpu()
        count = len(wanted)
        own = ranks.shard(count)
        shards = (shard(count, rank, ranks.world) for rank in range(ranks.world))
        stops = torch.tensor([one.stop for one in shards])
        # Row p goes to the place where π holds p. Shares follow one another, so rising places are
        # rising ranks: sorted by place, the rows stand in the order in which they are received.
        place = wanted.argsort()[own]
        source = torch.searchsorted(stops, wanted[own], right=True)
        target = torch.searchsorted(stops, place, right=True)
        return cls(
            place.argsort().to(permutation.device),
            source.argsort(stable=True).to(permutation.device),
            target.bincount(minlength=ranks.world).tolist(),
            source.bincount(minlength=ranks.world).tolist(),
            ranks.group,
        )

    def back(self) -> _Route:
        """The same way in the other direction."""
        return _Route(self.put, self.take, self.receive, self.send, self.group)

    def move(self, rows: Tensor) -> Tensor:
        """The rows that arrive, in their places."""
        arrived = rows.new_empty(sum(self.receive), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows[self.take], self.receive, self.send, group=self.group)
        placed = torch.empty_like(arrived)
        placed[self.put] = arrived
        return placed


class _Exchange(torch.autograd.Function):
    """Rows go along a route, their gradients the same way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, route: _Route) -> Tensor:
        ctx.route = route
        return route.move(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.route.back().move(grads[0]), None


class _Sum(torch.autograd.Function):
    """The sum over the ranks; each rank's gradient is that of its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None
