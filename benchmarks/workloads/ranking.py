"""mAP from embeddings, ours beside other evaluators (:mod:`ranking_peers`).

The floor is the similarity product alone: no evaluation can do without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drcl import metrics, reference
from drcl.benchmarks.suite import registry
from drcl.benchmarks.workloads.ranking_peers import PEERS

# Enough for blocks of 1,024 queries against a million items: with fewer the product is slow.
GPU_MEMORY = 2**33
# Scores of query and item beyond which sorting every ranking takes hours.
MOST_SORTED = 10**11


@dataclass(frozen=True)
class Size:
    """Q queries against N items of width D in C classes; k None is mAP@all."""

    queries: int
    items: int
    dim: int
    classes: int
    k: int | None = None


SIZES = {
    "first": Size(5_000, 20_000, 512, 50),
    "top": Size(5_000, 20_000, 512, 50, k=50),
    "nus": Size(23_661, 23_661, 2048, 10),
    "narrow": Size(20_000, 20_000, 64, 20),
    "large": Size(100_000, 100_000, 128, 50),
}


@dataclass(frozen=True)
class Data:
    """Normalised embeddings and class ids."""

    query: Tensor
    gallery: Tensor
    query_labels: Tensor
    gallery_labels: Tensor
    k: int | None

    def head(self, queries: int) -> Data:
        """The same with fewer queries."""
        return replace(self, query=self.query[:queries], query_labels=self.query_labels[:queries])

    def to(self, device: torch.device) -> Data:
        return Data(
            self.query.to(device),
            self.gallery.to(device),
            self.query_labels.to(device),
            self.gallery_labels.to(device),
            self.k,
        )


def make(size: Size) -> Data:
    """Class centres in noise: relevant items score higher, without being easy to find."""
    torch.manual_seed(0)
    centres = torch.randn(size.classes, size.dim)

    def side(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(size.classes, (count,))
        rows = centres[labels] + 4 * torch.randn(count, size.dim)
        return torch.nn.functional.normalize(rows, dim=1), labels

    query, query_labels = side(size.queries)
    gallery, gallery_labels = side(size.items)
    return Data(query, gallery, query_labels, gallery_labels, size.k)


def build(sizes: registry.Sizes, device: torch.device) -> registry.Problem:
    q, n, d = sizes["Q"], sizes["N"], sizes["D"]
    data = make(Size(q, n, d, sizes["C"], sizes.get("k"))).to(device)
    copies = 2 if sizes.get("ties") else 1
    distinct = data.gallery[::copies]
    data = replace(data, gallery=distinct.repeat_interleave(copies, dim=0)[:n])
    memory = GPU_MEMORY if device.type == "cuda" else metrics.MAX_BYTES

    def ours() -> registry.Outcome:
        found = metrics.mean_average_precision(
            data.query,
            data.gallery,
            data.query_labels,
            data.gallery_labels,
            k=data.k,
            max_bytes=memory,
        )
        return (torch.tensor(found),)

    def oracle() -> registry.Outcome:
        scores = data.query.double() @ distinct.double().T
        scores = scores.repeat_interleave(copies, dim=1)[:, :n]
        relevant = data.query_labels[:, None] == data.gallery_labels
        return (reference.average_precision(scores.cpu(), relevant.cpu(), data.k).mean(),)

    contenders = registry.our_backends("average_precision", device, ours)
    if q * n > MOST_SORTED:
        contenders["drcl eager"] = "sorts the gallery for every query: not attempted"
    for name, peer in PEERS.items():
        reason = peer.absent(data.k, device)
        queries = max(1, min(q, peer.scores // n))
        contenders[name] = reason or registry.Contender(
            outcome(peer.run, data.head(queries)), queries / q
        )
    least = registry.Work(2 * q * n * d, (q + n) * d * 4, (min(q, 1024), d, min(n, 16384)))

    def joined(own: Callable[..., float]) -> registry.Contender:
        """``own(query, gallery, query_labels, gallery_labels, k)`` returns the mAP."""
        sides = data.query, data.gallery, data.query_labels, data.gallery_labels
        return registry.Contender(
            lambda: (torch.tensor(float(own(*sides, data.k)), dtype=torch.float64),)
        )

    return registry.Problem(contenders, oracle, least, joined=joined)


def outcome(run: Callable[[Data], float], data: Data) -> Callable[[], registry.Outcome]:
    return lambda: (torch.tensor(run(data), dtype=torch.float64),)


NAMES = (*registry.backend_names("average_precision"), *PEERS)


def entry(
    q: int, n: int, d: int, c: int, note: str, k: int | None = None, **options: bool
) -> registry.Entry:
    return at({"Q": q, "N": n, "D": d, "C": c} | ({} if k is None else {"k": k}), note, **options)


def at(sizes: registry.Sizes, note: str, **options: bool) -> registry.Entry:
    """An entry of these sizes; without k of mAP@all.

    Where they say ``ties``, items come in equal pairs; a library that orders ties arbitrarily gets
    no time.
    """
    # Few queries for the literal oracle, but whole galleries: ties and near-ties are theirs.
    return registry.Entry("map", sizes, build, NAMES, {"Q": 16}, note, **options)


ENTRIES = [
    entry(462, 462, 2048, 10, "Wikipedia test set", quick=True),
    entry(500, 500, 2048, 20, "XMedia test set"),
    entry(4_366, 4_366, 2048, 100, "INRIA-Websearch test set"),
    entry(4_000, 4_000, 2048, 200, "XMediaNet test set"),
    entry(23_661, 23_661, 2048, 10, "NUS-WIDE test set"),
    entry(23_661, 23_661, 2048, 10, "NUS-WIDE test set, @50", k=50),
    entry(500, 20_000, 512, 50, "sweep over Q", quick=True),
    entry(500, 20_000, 512, 50, "@50", k=50, quick=True),
    entry(5_000, 20_000, 512, 50, "sweep over Q, N"),
    entry(5_000, 20_000, 512, 50, "@50", k=50),
    entry(5_000, 100_000, 128, 50, "sweep over N"),
    entry(20_000, 20_000, 64, 20, "narrow: the product is cheap"),
    entry(8192, 10**6, 512, 1000, "some queries against a million", gpu=True),
    entry(10**6, 10**6, 512, 1000, "a million against a million", gpu=True),
]
