"""The ops under torch.compile, torch.export, FlopCounterMode and the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from drcl import Prior, functional, use_backend
from drcl.dispatch import choose
from drcl.eager import reversible_consistency as eager
from drcl.losses import FeatureMixup, GeneralizedCrossEntropy, ReversibleConsistencyLoss
from drcl.ops import reversible_consistency as op
from drcl.ops.average_precision import average_precision_by_sorting

D, C = 12, 4


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()


@pytest.fixture
def prior():
    return Prior.orthogonal(D, C)


class PriorSimilarityLoss(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, features, targets, q=0.5):
        return functional.prior_similarity(features, self.prior, targets, q=q).loss


def modules(prior):
    return {
        "loss": ReversibleConsistencyLoss(prior),
        "mixed loss": ReversibleConsistencyLoss(prior, lam=0.9),
        "prior similarity": PriorSimilarityLoss(prior),
        "cross-entropy": GeneralizedCrossEntropy(),
        "mixing": FeatureMixup(C),
    }


NAMES = ["loss", "mixed loss", "prior similarity", "cross-entropy", "mixing"]


def batch(size):
    return torch.randn(size, D), torch.arange(size) % C


# --- any batch size


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_module_serves_batches_of_every_size(prior, name, strict):
    module = modules(prior)[name]
    example = batch(6)
    rows = {0: Dim("rows", min=2, max=4096)}
    program = torch.export.export(module, example, dynamic_shapes=(rows, rows), strict=strict)
    for size in (2, 6, 40):  # on both sides of D
        features, targets = batch(size)
        torch.manual_seed(size)
        ours = program.module()(features, targets)
        torch.manual_seed(size)
        torch.testing.assert_close(ours, module(features, targets))


@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_batch_is_compiled_once_on_each_side_of_the_width(prior, name):
    module, counter = modules(prior)[name], CompileCounterWithBackend("eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for size in (20, 30, 50):
        features, targets = batch(size)
        torch._dynamo.mark_dynamic(features, 0)
        torch._dynamo.mark_dynamic(targets, 0)
        torch.manual_seed(size)
        ours = compiled(features, targets)
        torch.manual_seed(size)
        torch.testing.assert_close(ours, module(features, targets))
    assert counter.frame_count == 1


@pytest.mark.parametrize(("width", "classes"), [(64, 32), (256, 100), (20, 30)])
def test_a_dynamic_batch_of_any_size_is_compiled_twice(width, classes):
    module = ReversibleConsistencyLoss(Prior(torch.randn(width, classes)))
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for size in (2, 10, 40, 63, 70, 100, 200, 300, 500, 1000):
        features, targets = torch.randn(size, width), torch.arange(size) % classes
        torch._dynamo.mark_dynamic(features, 0)
        torch._dynamo.mark_dynamic(targets, 0)
        torch.testing.assert_close(compiled(features, targets), module(features, targets))
    assert counter.frame_count == 2


# --- a schedule of q


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param("loss", "inductor", marks=pytest.mark.long),  # C++ is compiled, for a minute
        ("loss", "aot_eager"),
        ("prior similarity", "aot_eager"),
        ("cross-entropy", "aot_eager"),
    ],
)
def test_a_schedule_of_float_q_is_compiled_twice_at_most(prior, name, backend):
    module, counter = modules(prior)[name], CompileCounterWithBackend(backend)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    features, targets = batch(8)
    for epoch in range(12):
        q = 0.01 * epoch
        leaf, plain = features.clone().requires_grad_(), features.clone().requires_grad_()
        compiled(leaf, targets, q=q).backward()
        loss = module(plain, targets, q=q)
        loss.backward()
        torch.testing.assert_close(compiled(features, targets, q=q), loss.detach())
        torch.testing.assert_close(leaf.grad, plain.grad)
    assert counter.frame_count <= 4  # one value, then any; with and without gradient


# --- ranking


def ranking_arguments():
    """Lists and bits, with and without everything that is optional."""
    q, n = 5, 70
    relevant = torch.rand(q, n) < 0.2
    counts = torch.cat([torch.zeros(1, dtype=torch.int64), relevant.sum(1).cumsum(0)])
    rows = torch.arange(q + 1)
    words = torch.zeros(q, 128, dtype=torch.int64)
    words[:, :n] = relevant.long()
    bits = (words.view(q, 2, 64) << torch.arange(64)).sum(2)
    lists = (counts, relevant.nonzero()[:, 1].int(), None, None)
    gains = (*lists[:2], torch.randint(1, 4, (int(counts[-1]),), dtype=torch.int32), None)
    discounts = 1 / torch.log2(torch.arange(2, n + 2, dtype=torch.float64))
    excluded = (torch.arange(q + 1), torch.arange(q))
    for dtype in (torch.float32, torch.float64):
        scores, scale, bias = torch.randn(q, n).to(dtype), torch.rand(n).to(dtype), torch.rand(n)
        for relevance in (lists, gains, (None, None, None, bits)):
            for ties in (False, True):
                for given in (False, True):
                    yield (
                        scores,
                        scale if given else None,
                        bias.to(dtype) if given else None,
                        *(excluded if given else (None, None)),
                        rows,
                        rows[:-1],
                        *relevance,
                        n,
                        [1, 5, n] if given else [n],
                        n,
                        given + ties,
                        ties,
                        11 if given and not ties else 0,
                        discounts if given else None,
                        7 if given else 0,
                        given,
                        2**28,
                    )


@pytest.mark.parametrize(
    "arguments",
    [
        # half of them, in which each dtype, relevance, tie rule and option meets all of the others
        pytest.param(arguments, marks=pytest.mark.long if (i + i // 2 + i // 12) % 2 else [])
        for i, arguments in enumerate(ranking_arguments())
    ],
)
def test_ranking_is_registered_right(arguments):
    with use_backend("native"):
        functional.average_precision(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    opcheck(torch.ops.drcl.average_precision.default, arguments)
    opcheck(average_precision_by_sorting, (*arguments[:-1], False))


BACKENDS = ["native", "eager", "reference"]
OPTIONS = [{}, {"k": 5, "divisor": "min"}, {"ties": "average"}]


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        # all of both, each pair in the long form
        pytest.param(backend, options, marks=[] if i == j else pytest.mark.long)
        for i, backend in enumerate(BACKENDS)
        for j, options in enumerate(OPTIONS)
    ],
)
def test_average_precision_compiles_without_graph_breaks(backend, options):
    compiled = torch.compile(
        lambda scores, relevant: functional.average_precision(scores, relevant, **options),
        fullgraph=True,
        backend="aot_eager",
    )
    with use_backend(backend):
        for q, n in ((7, 130), (3, 64), (2, 1)):
            scores, relevant = torch.randn(q, n), torch.rand(q, n) < 0.3
            expected = functional.average_precision(scores, relevant, **options)
            torch.testing.assert_close(compiled(scores, relevant), expected, rtol=0, atol=0)


class AveragePrecision(nn.Module):
    def forward(self, scores, relevant):
        return functional.average_precision(scores, relevant, k=10)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_average_precision_serves_any_number_of_queries(strict):
    scores, relevant = torch.randn(7, 70), torch.rand(7, 70) < 0.3
    rows = {0: Dim("queries", min=2, max=4096)}
    program = torch.export.export(
        AveragePrecision(), (scores, relevant), dynamic_shapes=(rows, rows), strict=strict
    )
    ours = program.module()(scores[:3], relevant[:3])
    assert torch.equal(ours, functional.average_precision(scores[:3], relevant[:3], k=10))


# --- operations counted


class Products(TorchDispatchMode):
    """What FlopCounterMode counts, and products in place too."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            a, b = [value for value in args if isinstance(value, torch.Tensor)][-2:]
            self.total += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


# Sizes at which each product weighs: of F, of the class space, of the labels.
SIZES = [
    (64, 256, 20),
    (600, 500, 20),
    (500, 1024, 70),
    (1300, 300, 200),
]
IN_THE_WHOLE_SPACE = [  # B > D, too
    (400, 512, 100),
    (700, 300, 200),
    (600, 700, 500),
    (64, 16, 16),
    (64, 16, 20),
]


@pytest.mark.parametrize("size", [*SIZES, *IN_THE_WHOLE_SPACE])
def test_flops_are_those_of_the_products_that_are_made(size):
    b, d, c = size
    prior = Prior(torch.randn(d, c))
    features, targets = torch.randn(b, d, requires_grad=True), torch.arange(b) % c
    settings = eager.Settings(0.1, 0.1, 1.0, 1.0, 1.0)
    backend = choose("reversible_consistency", features.device)
    by_rows = op.prefers_rows(b, d, c, "", backend)
    whole = op.prefers_whole(b, d, c, targets.shape, by_rows=by_rows, backend=backend)
    assert whole == (size in IN_THE_WHOLE_SPACE)
    space = eager.Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)
    if whole:
        space = eager.Space(prior.basis[:, :0], prior.inverse, prior.weight)
    with Products() as forward:
        given = eager.Batch(features.detach(), targets, None, torch.tensor(0.5))
        rows = eager.rows(given, space, settings)
        inner, cross = torch.empty(0, 0, dtype=torch.float64), torch.empty(0, 0)
        if by_rows:
            gram = eager.differences(rows.outside, rows.coordinates, rows.norms)
        else:
            inner, cross, gram = eager.by_features(rows.coordinates, rows.outside)
    with Products() as backward:
        saved = eager.Saved(*rows, inner, cross, gram, space.basis, None)
        eager.gradient(torch.ones(4), saved, settings, torch.float32)
    with FlopCounterMode(display=False) as counted_forward:
        loss = functional.reversible_consistency_loss(features, targets, prior).total
    with FlopCounterMode(display=False) as counted_backward:
        loss.backward()
    # panels of 256 compute a little more than the triangle that is counted
    excess = forward.total / counted_forward.get_total_flops()
    assert 1 <= excess <= 1.34
    assert backward.total == counted_backward.get_total_flops()


def test_flops_of_prior_similarity_and_mixing(prior):
    features, weight = torch.randn(6, D, requires_grad=True), prior.weight.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        functional.prior_similarity(features, weight, torch.arange(6) % C).loss.backward()
    assert counter.get_total_flops() == 3 * 2 * 6 * D * C
    with FlopCounterMode(display=False) as counter:
        functional.mixup(features, torch.arange(6) % C, classes=C)[0].sum().backward()
    assert counter.get_total_flops() == 0


# --- no values


def test_a_prior_on_the_meta_device_is_filled_from_a_saved_one(prior):
    with torch.device("meta"):
        module = ReversibleConsistencyLoss(Prior.orthogonal(D, C, seed=1))
    assert all(buffer.is_meta for buffer in module.buffers())
    module = module.to_empty(device="cpu")
    module.load_state_dict(ReversibleConsistencyLoss(prior).state_dict())
    features, targets = batch(6)
    ours, expected = module(features, targets), ReversibleConsistencyLoss(prior)(features, targets)
    assert torch.equal(ours, expected)
