"""One optimisation step: forward, loss, backward, update; on a GPU captured as one CUDA graph."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from drcl.distributed import raise_together
from drcl.encoder import Encoder, is_as_built
from drcl.precision import widest
from drcl.train.clock import Clock
from drcl.train.embedding import at_least_float32, products_in
from drcl.train.perceptron import Perceptron, suits
from drcl.train.phase import Phase
from drcl.train.source import Batch

# Steps that are run before one is captured: libraries choose their kernels in them.
WARM_UP = 3


class Pass(Protocol):
    """A network's way forward and back; the embeddings of the last ``forward`` are its start."""

    embeddings: Tensor

    def forward(self, features: Tensor) -> Tensor: ...  # pragma: no cover

    def backward(self, gradient: Tensor) -> None: ...  # pragma: no cover


class Step:
    """One optimisation step of a phase.

    A call returns (2 + P,) numbers without waiting for the device: the loss, its ``parts``, and the
    sum of the embeddings, which is finite if they are.
    """

    def __init__(self, phase: Phase, clock: Clock) -> None:
        self.phase, self.clock, self.source = phase, clock, phase.source
        network, precision = phase.network, phase.config.precision
        self.optimizer = torch.optim.Adam(
            phase.module.parameters(),
            lr=phase.schedule.lr,
            betas=(0.5, 0.999),
            fused=True,
            capturable=self.source.device.type == "cuda",
        )
        self.passes: Pass = (
            Perceptron(network)
            if isinstance(network, Encoder) and suits(network) and precision != "bf16"
            else AutogradPass(network, precision)
        )
        inside = set(network.parameters())
        # What lies outside the network gets its gradient by the loss.
        self.outside = [p for p in phase.module.parameters() if p not in inside]
        # The rows of a batch whose forward pass is already made: see :meth:`Training.embed`.
        self.ahead: Tensor | None = None
        self.parts: tuple[str, ...] = ()
        source = self.source.device
        self.q = torch.zeros((), dtype=widest(source), device=source)

    def __call__(self, batch: Batch, permutation: Tensor | None) -> Tensor:
        ranks, average = self.phase.ranks, self.phase.average
        self.clock.enter("data")
        with raise_together(self.phase.group):
            features, targets = self.source.load(*batch.parts)
            if ranks is not None:
                targets = ranks.targets(targets, batch.rows)
            self.clock.enter("encoder")
            ahead, self.ahead = self.ahead, None
            if ahead is not None and torch.equal(ahead, batch.parts[0]):
                embeddings = self.passes.embeddings
            else:
                embeddings = self.passes.forward(features)
        self.clock.enter("loss")
        # The loss starts a graph of its own, so that the way back through the network is a step by
        # itself, in its own precision.
        leaf = at_least_float32(embeddings.detach()).requires_grad_()
        for parameter in self.outside:
            parameter.grad = None
        loss = self.phase.loss(leaf, targets, self.q, permutation)
        self.parts = tuple(loss.parts)
        loss.total.backward()
        if average is not None and self.outside:
            average([p.grad for p in self.outside if p.grad is not None])
        self.clock.enter("encoder")
        assert leaf.grad is not None
        self.passes.backward(leaf.grad)
        if ranks is not None:
            ranks.sum_gradients(self.phase.module.parameters())
        self.clock.enter("optimizer")
        self.optimizer.step()
        self.clock.enter("loss")
        with torch.no_grad():
            return torch.stack([loss.total, *loss.parts.values(), leaf.sum()]).detach()


class AutogradPass:
    """Any network, by autograd, under the precision asked for."""

    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network, self.precision = network, precision
        self.embeddings = torch.empty(0)

    def forward(self, features: Tensor) -> Tensor:
        try:
            with products_in(self.precision, features.device):
                embeddings = self.network(features)
        except RuntimeError as error:
            if features.is_floating_point() or "dtype" not in str(error):
                raise
            raise TypeError(
                f"networks: {type(self.network).__name__} does not take {features.dtype}, which a "
                "Dataset's rows reach it as, since it may be one of token ids: give rows of "
                f"float32 ({error})"
            ) from error
        if not isinstance(embeddings, Tensor):
            raise TypeError(
                "networks: expected modules whose output is one tensor (B, dim), got "
                f"{type(embeddings).__name__} from {type(self.network).__name__}"
            )
        self.embeddings = embeddings
        return embeddings

    def backward(self, gradient: Tensor) -> None:
        for parameter in self.network.parameters():
            parameter.grad = None
        with products_in(self.precision, gradient.device):
            self.embeddings.backward(gradient.to(self.embeddings.dtype))
        self.embeddings = torch.empty(0)


class CapturedStep:
    """A :class:`Step` whose batches of ``size`` rows are replayed as one CUDA graph.

    The first few run as they are, and so does a last batch that is smaller.
    """

    def __init__(self, step: Step, size: int) -> None:
        self.step, self.size = step, size
        self._seen = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, permutation: Tensor | None) -> Tensor:
        if batch.rows != self.size or self._seen < WARM_UP:
            self._seen += batch.rows == self.size
            return self.step(batch, permutation)
        inputs = [*batch.parts, *([] if permutation is None else [permutation])]
        if self._graph is None:
            self._capture(batch, permutation)
        assert self._graph is not None
        self.step.clock.enter("data")
        for static, tensor in zip(self._inputs, inputs, strict=True):
            static.copy_(tensor)
        self.step.clock.enter("replay")
        self._graph.replay()
        self.step.clock.enter("data")
        return self._numbers.clone()

    def _capture(self, batch: Batch, permutation: Tensor | None) -> None:
        batch = Batch(tuple(part.clone() for part in batch.parts), batch.rows)
        permutation = None if permutation is None else permutation.clone()
        self._inputs = [*batch.parts, *([] if permutation is None else [permutation])]
        graph = torch.cuda.CUDAGraph()
        # Of this device: PyTorch's own is one for all captures, on the device of the first.
        stream = torch.cuda.Stream(self.step.source.device)
        # Other threads may be reading batches into pinned memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._numbers = self.step(batch, permutation)
            self.step.clock.enter("")
        self._graph = graph


def make_step(step: Step) -> Step | CapturedStep:
    """Captured for the package's own encoder on a GPU; what a user's network does is not known.

    Steps that talk to other processes run as they are: what they send depends on the batch.
    """
    phase = step.phase
    if step.source.device.type == "cuda" and is_as_built(phase.network) and phase.ranks is None:
        return CapturedStep(step, min(phase.schedule.batch_size, step.source.count))
    return step
