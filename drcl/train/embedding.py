"""A network's output for many rows, for evaluation: in chunks, without autograd."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from drcl.out_of_memory import in_pieces
from drcl.precision import network_precision
from drcl.train.perceptron import Perceptron

if TYPE_CHECKING:
    from drcl.train.source import SampleSource
    from drcl.train.step import Pass


def chunk_rows(device: torch.device) -> int:
    """Rows of one forward pass: enough for full speed, few enough for a CPU's cache."""
    return 1024 if device.type == "cpu" else 4096


def apply_in_chunks(network: nn.Module, features: Tensor) -> Tensor:
    """The network's output for all rows, in evaluation mode, without autograd, chunk by chunk.

    The chunks get smaller if memory runs out.
    """
    with evaluating(network), torch.inference_mode():
        parts = in_pieces(
            lambda start, stop: network(features[start:stop]),
            len(features),
            chunk_rows(features.device),
        )
        return torch.cat(list(parts))


def embed(
    network: nn.Module,
    source: SampleSource,
    passes: Pass,
    precision: str,
    rows: slice = slice(None),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings (float32 or wider) and targets of some ``rows``, as ``passes`` would compute them.

    They come in chunks, which get smaller if memory runs out.
    """

    def forward(features: Tensor) -> Tensor:
        if isinstance(passes, Perceptron):
            return passes.forward(features)
        with products_in(precision, source.device):
            embeddings = network(features)
        return at_least_float32(embeddings)

    with evaluating(network):
        for features, targets in source.chunks(chunk_rows(source.device), rows):
            work = partial(_of_rows, forward, features, targets)
            yield from in_pieces(work, len(features), len(features))


def _of_rows(
    forward: Callable[[Tensor], Tensor], features: Tensor, targets: Tensor, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    return forward(features[start:stop]), targets[start:stop]


def collect(chunks: Iterator[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """All of :func:`embed`'s embeddings and targets, at most ``count`` rows, each in one tensor."""
    targets: list[Tensor] = []
    embeddings, filled = torch.empty(0), 0
    for part, own in chunks:
        if not targets:
            embeddings = part.new_empty(count, part.shape[1])
        embeddings[filled : filled + len(part)] = part
        targets.append(own)
        filled += len(part)
    return embeddings[:filled], torch.cat(targets)


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards in the mode it was in."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextlib.contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products in ``"float32"``, ``"tf32"`` (on a GPU that has it) or ``"bf16"``."""
    if precision == "bf16":
        # A captured graph has to cast the weights anew in every replay: no cache.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            yield
    else:
        tf32 = precision == "tf32" and device.type == "cuda"
        with network_precision("high" if tf32 else "highest"):
            yield
