"""The registered ops: schema, fake and autograd, compilation, autocast, ranks, memory."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from forced import forced
from gloo import on_ranks, process_group
from torch import nn
from torch.library import opcheck
from torch.nn.parallel import DistributedDataParallel

from drcl import Prior, functional, reference
from drcl.backends import probe_native
from drcl.dispatch import use_backend
from drcl.eager import reversible_consistency as eager
from drcl.eager.reversible_consistency import Batch, Saved, Settings, Space
from drcl.labels import target_rows
from drcl.losses import ReversibleConsistencyLoss
from drcl.ops.mixup import mixup
from drcl.ops.prior_similarity import prior_similarity
from drcl.ops.reversible_consistency import reversible_consistency

# B against D decides which matrices are formed, C against D if anything lies outside the prior.
SHAPES = [(5, 16, 3), (20, 16, 3), (4, 6, 9), (9, 6, 9), (1, 8, 1)]


def batch(b, d, c, dtype=torch.float64):
    features = nnf.normalize(torch.randn(b, d, dtype=dtype))
    prior = Prior(torch.randn(d, c, dtype=dtype))
    return features, torch.arange(b) % c, prior


def consistency_arguments(b, d, c, *, mixing, rows, backend="eager", dtype=torch.float64):
    features, targets, prior = batch(b, d, c, dtype)
    return (
        features.requires_grad_(),
        nnf.one_hot(targets, c).to(dtype) if rows else targets,
        torch.randperm(b) if mixing else None,
        torch.tensor(0.3),
        [prior.basis, prior.recast_coordinates, prior.weight_coordinates],
        (0.1, 0.2, 1.0, 0.7, 0.9),
        "",
        b < d,
        backend,
    )


# --- registration


@pytest.mark.parametrize(
    ("shape", "mixing", "rows"),  # every pair of values
    [(s, mixing, mixing == (i % 2 > 0)) for i, s in enumerate(SHAPES) for mixing in (False, True)],
)
def test_reversible_consistency_is_registered_right(shape, mixing, rows):
    backend = "native" if mixing and probe_native().available else "eager"
    opcheck(
        reversible_consistency,
        consistency_arguments(*shape, mixing=mixing, rows=rows, backend=backend),
    )


def test_prior_similarity_is_registered_right():
    features, targets, prior = batch(7, 12, 4)
    features.requires_grad_()
    weight = prior.weight.clone().requires_grad_()
    for loss_only in (False, True):
        args = features, weight, targets, torch.tensor(0.5), 0.7, loss_only, "eager"
        opcheck(prior_similarity, args)
        for half in (torch.float16, torch.bfloat16):
            narrow = features, weight.to(half), *args[2:]
            opcheck(prior_similarity, narrow, test_utils="test_faketensor")


def test_mixup_is_registered_right():
    rows = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    opcheck(mixup, (rows, torch.randperm(6), 0.9, "eager"))


# --- gradients


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mixing", [False, True])
def test_every_part_has_the_literal_gradient(shape, mixing):
    """Each part by itself and weighted: the loss need not be the last op, nor its gradient one."""
    features, targets, prior = batch(*shape)
    permutation = torch.randperm(len(features)) if mixing else None
    options = {"q": 0.4, "alpha": 0.3, "lam": 0.8 if mixing else 1.0, "permutation": permutation}
    results = {}
    for backend in ("reference", "eager", "native"):
        leaf = features.clone().requires_grad_()
        with forced(backend):
            parts = functional.reversible_consistency_loss(leaf, targets, prior, **options)
            mixed = (parts.total.sin() + 3 * parts.label, parts.consistency, 2 * parts.recasting)
            results[backend] = [torch.autograd.grad(p, leaf, retain_graph=True)[0] for p in mixed]
    for backend in ("eager", "native"):
        for ours, oracle in zip(results[backend], results["reference"], strict=True):
            torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-12)


def test_double_backward_says_that_it_does_not_work():
    features, targets, prior = batch(5, 16, 3)
    features.requires_grad_()
    loss = functional.reversible_consistency_loss(features, targets, prior).total
    (gradient,) = torch.autograd.grad(loss, features, create_graph=True)
    with pytest.raises(NotImplementedError, match="reference"):
        gradient.sum().backward()


def test_mixup_has_a_second_derivative():
    rows, order = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randperm(4)
    mixed = functional.mixup(rows, torch.arange(4), classes=4, permutation=order)[0]
    (gradient,) = torch.autograd.grad(mixed.square().sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), rows)
    transform = torch.lerp(torch.eye(4)[order], torch.eye(4), 0.9).double()
    expected = 2 * transform.T @ transform @ torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(second, expected)


# --- compilation, autocast, narrow types


@pytest.mark.slow
def test_compiles_without_graph_breaks_and_follows_q():
    features, targets, prior = batch(12, 16, 3, torch.float32)
    compiled_for = []

    def counting(graph, inputs):
        compiled_for.append(len(graph.graph.nodes))
        return graph.forward

    def loss(x, q):
        return functional.reversible_consistency_loss(x, targets, prior, q=q).total

    compiled = torch.compile(loss, fullgraph=True, backend=counting)
    for q in (0.0, 0.25, 1.0):
        q = torch.tensor(q)
        torch.testing.assert_close(compiled(features, q), loss(features, q))
    assert len(compiled_for) == 1


@pytest.mark.slow
def test_compiles_with_inductor_forward_and_backward():
    features, targets, prior = batch(12, 16, 3, torch.float32)
    weight = prior.weight.clone().requires_grad_()

    def loss(x, w):
        similarity = functional.prior_similarity(x, w, targets, q=torch.tensor(0.5))
        parts = functional.reversible_consistency_loss(x, targets, prior, q=torch.tensor(0.5))
        return similarity.loss + parts.total

    leaf = features.clone().requires_grad_()
    expected = torch.autograd.grad(loss(leaf, weight), (leaf, weight))
    ours = torch.autograd.grad(torch.compile(loss, fullgraph=True)(leaf, weight), (leaf, weight))
    torch.testing.assert_close(ours, expected)


def test_autocast_leaves_the_sums_in_float32():
    features, targets, prior = batch(12, 16, 3, torch.float32)
    exact = functional.reversible_consistency_loss(features, targets, prior).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = functional.reversible_consistency_loss(features, targets, prior).total
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, exact, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_widened(dtype):
    features, targets, prior = batch(40, 16, 3, torch.float32)
    narrow = features.to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    for leaf in (narrow, wide):
        functional.reversible_consistency_loss(leaf, targets, prior).total.backward()
    assert narrow.grad.dtype == dtype
    torch.testing.assert_close(narrow.grad, wide.grad.to(dtype), rtol=0, atol=0)


def test_strided_features_give_the_same():
    features, targets, prior = batch(12, 16, 3)
    wide = torch.randn(24, 32, dtype=torch.float64)
    wide[::2, ::2] = features
    for view in (wide[::2, ::2], features.T.contiguous().T):
        ours = functional.reversible_consistency_loss(view, targets, prior)
        torch.testing.assert_close(
            ours, functional.reversible_consistency_loss(features, targets, prior)
        )


# --- accuracy in float32


def offset_batch(b, prior, distance):
    """Recast rows, each off by ``distance`` of its length in a random direction; random if None."""
    d, c = prior.weight.shape
    ids = torch.randint(0, c, (b,))
    if distance is None:
        return nnf.normalize(torch.randn(b, d)), ids
    recast = prior.inverse.double()[ids]
    noise = nnf.normalize(torch.randn(b, d).double())
    length = torch.linalg.vector_norm(recast, dim=1, keepdim=True)
    return (recast + distance * length * noise).float(), ids


def literal(features, ids, prior, **options):
    leaf = features.clone().requires_grad_()
    rows = nnf.one_hot(ids, prior.weight.shape[1]).to(leaf.dtype)
    total, _, consistency, _ = reference.reversible_consistency(
        leaf, rows, prior.weight.to(leaf.dtype), **options
    )
    return total.detach(), consistency.detach(), torch.autograd.grad(total, leaf)[0]


def fused(features, ids, prior, **options):
    leaf = features.clone().requires_grad_()
    parts = functional.reversible_consistency_loss(leaf, ids, prior, **options)
    gradient = torch.autograd.grad(parts.total, leaf)[0]
    return parts.total.detach(), parts.consistency.detach(), gradient


@pytest.mark.filterwarnings("ignore:the prior has rank")
@pytest.mark.parametrize(
    ("b", "d", "c", "distance"),
    [
        # a Latin square of numbers of classes: each meets every value of the others here
        pytest.param(b, d, c, distance, marks=[] if (i + j + k + m) % 4 == 0 else pytest.mark.long)
        for i, b in enumerate((1, 2, 7, 128))
        for j, d in enumerate((1, 10, 64, 300))
        for k, c in enumerate((1, 2, 10, 100))
        for m, distance in enumerate((None, 1e-2, 3e-5))
    ],
)
def test_float32_is_as_exact_as_the_literal_form(b, d, c, distance):
    """|ours − fp64| ≤ 4·|literal fp32 − fp64| + 1e-6·|fp64|, down to losses of 1e-9.

    In norm over several draws: a single rounding error is a matter of luck. The rounding
    of a cosine near one, squared, is allowed on top: some J_D are zero by construction.
    """
    prior = Prior(torch.randn(d, c) / d**0.5 * 2.9)
    # Near convergence the label loss would hide the others.
    options = {"q": 0.5, "alpha": 1.0, "beta": 0.1, "eta": 0.0 if distance else 1.0}
    parts, backends = ("total", "J_D", "gradient"), ("eager", "native")
    errors = {(backend, part): [] for backend in backends for part in parts}
    for _ in range(2 if b > 7 else 12):
        features, ids = offset_batch(b, prior, distance)
        rounded = literal(features, ids, prior, **options)
        exact = literal(features.double(), ids, prior, **options)
        for backend in backends:
            with forced(backend):  # beyond 32 columns the native form leaves it to the eager one
                ours = fused(features, ids, prior, **options)
            for part, o, r, e in zip(parts, ours, rounded, exact, strict=True):
                norms = ((o.double() - e).norm(), (r.double() - e).norm(), e.norm())
                errors[backend, part].append(tuple(map(float, norms)))
    for name, norms in errors.items():
        error, allowed, size = torch.tensor(norms, dtype=torch.float64).norm(dim=0).tolist()
        assert error <= 4 * allowed + 1e-6 * size + 1e-14, name


# --- ranks


def on_rank(rank: int, size: int, results: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank, size, results):
        torch.manual_seed(0)
        features, targets, prior = batch(31, 12, 4)
        targets[3] = -1
        rows = slice(rank * 31 // size, (rank + 1) * 31 // size)
        leaf = features[rows].clone().requires_grad_()
        loss = functional.reversible_consistency_loss(
            leaf, targets[rows], prior, q=0.4, process_group=torch.distributed.group.WORLD
        )
        loss.total.backward()
        # DistributedDataParallel averages what has to be summed
        network = DistributedDataParallel(linear())
        criterion = ReversibleConsistencyLoss(prior, process_group=torch.distributed.group.WORLD)
        total = criterion(network(features[rows]), targets[rows], q=0.4)
        (total * torch.distributed.group.WORLD.size()).backward()
        by_weight = network.module.weight.grad
        torch.save([torch.stack(loss).detach(), leaf.grad, by_weight], f"{results}/{rank}.pt")


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(12, 12, bias=False).double()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_have_the_loss_and_gradient_of_the_whole_batch(size, tmp_path: Path):
    on_ranks(on_rank, size, size, str(tmp_path))
    torch.manual_seed(0)
    features, targets, prior = batch(31, 12, 4)
    targets[3] = -1
    features.requires_grad_()
    whole = functional.reversible_consistency_loss(features, targets, prior, q=0.4)
    whole.total.backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(size)]
    network = linear()
    functional.reversible_consistency_loss(
        network(features.detach()), targets, prior, q=0.4
    ).total.backward()
    for loss, _, by_weight in parts:
        torch.testing.assert_close(loss, torch.stack(whole).detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(by_weight, network.weight.grad, rtol=1e-10, atol=1e-14)
    gradient = torch.cat([gradient for _, gradient, _ in parts])
    torch.testing.assert_close(gradient, features.grad, rtol=1e-10, atol=1e-14)


# --- dispatch


def test_a_backend_can_be_forced_and_an_unknown_one_is_refused(monkeypatch):
    from drcl.dispatch import choose

    cpu = torch.device("cpu")
    monkeypatch.setenv("DRCL_BACKEND", "reference")
    assert choose("reversible_consistency", cpu) == "reference"
    with use_backend("eager"):
        assert choose("reversible_consistency", cpu) == "eager"
    with pytest.warns(DeprecationWarning, match="DRCL_BACKEND: .*'torch' is now"):
        monkeypatch.setenv("DRCL_BACKEND", "torch")
        assert choose("reversible_consistency", cpu) == "eager"
    monkeypatch.setenv("DRCL_BACKEND", "fortran")
    with pytest.raises(ValueError, match=r"DRCL_BACKEND.*fortran"):
        choose("reversible_consistency", cpu)
    with pytest.raises(ValueError, match=r"backend.*cobol"), use_backend("cobol"):
        pass


def test_the_old_name_of_the_eager_backend_warns_where_it_is_used():
    from drcl.dispatch import choose

    says = "'torch' is now called 'eager'"
    with pytest.warns(DeprecationWarning, match=says) as told, use_backend("torch"):
        assert choose("mixup", torch.device("cpu")) == "eager"
    assert told[0].filename == __file__


@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_inputs_that_no_kernel_takes_go_to_the_eager_backend(monkeypatch, backend):
    """float64, a prior that is not float32, and rows too wide for the loss's kernels."""
    from drcl import dispatch

    def chosen(family, dtype=torch.float32, width=8, weight=None):
        features = torch.empty(2, width, dtype=dtype)
        takes = dispatch.kernels_take(family, features, weight)
        return dispatch.choose(family, features.device, kernels=takes, native=False)

    dispatch._reasons()
    monkeypatch.setitem(dispatch._probed, "triton", None)
    with use_backend(backend):
        for family in ("mixup", "prior_similarity", "reversible_consistency"):
            assert chosen(family) == chosen(family, torch.bfloat16) == backend
            assert chosen(family, torch.float64) == "eager"
        assert chosen("prior_similarity", weight=torch.empty(8, 3)) == backend
        assert chosen("prior_similarity", weight=torch.empty(8, 3).half()) == "eager"
        assert chosen("reversible_consistency", width=dispatch.FUSED_WIDTH) == backend
        assert chosen("reversible_consistency", width=dispatch.FUSED_WIDTH + 1) == "eager"
        assert chosen("mixup", width=dispatch.FUSED_WIDTH + 1) == backend


# --- the native form


def native_or_skip():
    """The compiled stages, which their module calls without a look at whether they are there."""
    forced("native")
    from drcl.native import reversible_consistency as native

    return native


def test_the_native_form_is_chosen_where_it_is_the_fastest():
    from drcl import dispatch

    forced("native")
    cpu, family = torch.device("cpu"), "reversible_consistency"
    assert dispatch.choose(family, cpu) == "native"
    assert dispatch.choose(family, cpu, native=False) == "eager"
    assert dispatch.choose(family, torch.device("meta")) == "eager"
    with use_backend("eager"):
        assert dispatch.choose(family, cpu) == "eager"


def test_an_exported_loss_asks_for_nothing_compiled():
    features, targets, prior = batch(12, 16, 3, torch.float32)
    program = torch.export.export(ReversibleConsistencyLoss(prior).eval(), (features, targets))
    calls = [node for node in program.graph.nodes if "reversible_consistency" in str(node.target)]
    assert [node.args[-1] for node in calls] == ["eager"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(37, 24, 5), (130, 150, 7), (75, 300, 1), (300, 80, 10), (90, 6, 9)]
)
def test_native_stages_have_the_same_bits_with_any_number_of_threads(shape, dtype, monkeypatch):
    native, multiply = native_or_skip(), torch.mm
    features, targets, prior = batch(*shape, dtype)
    targets[::9] = -1
    settings = Settings(0.2, 0.3, 1.0, 0.7, 0.8)
    space = Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)
    if shape[2] > shape[1]:
        space = Space(prior.basis[:, :0], prior.inverse, prior.weight)
    given = Batch(features, targets, torch.randperm(len(features)), torch.tensor(0.3))

    def by_one_thread(*args, **kwargs):  # PyTorch's products are not the matter here
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        multiply(*args, **kwargs)
        torch.set_num_threads(count)

    def stages(threads):
        torch.set_num_threads(threads)
        rows = native.rows(given, space, settings)
        if shape[0] < shape[1]:
            none = features.new_empty(0, 0)
            sums = (none.double(), none, native.differences(rows.outside, *rows[1:4:2]))
        else:
            torch.set_num_threads(1)
            sums = native.by_features(rows.coordinates, rows.outside)
            torch.set_num_threads(threads)
        parts = native.combine(rows.sums, *sums, settings, shape[1])
        saved = Saved(*rows, *sums, space.basis, given.permutation)
        one = features.new_ones(())
        return *rows, *sums, *parts, native.gradient([one, None, one, one], saved, settings, dtype)

    monkeypatch.setattr(torch, "mm", by_one_thread)
    before = torch.get_num_threads()
    try:
        alone = stages(1)
        for threads in (2, 5):
            for one, other in zip(alone, stages(threads), strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("panels", [True, False])
@pytest.mark.parametrize("converging", [True, False])
@pytest.mark.parametrize(
    ("size", "width", "k"),
    [
        (40, 60, 5),
        (300, 400, 64),
        (100, 400, 257),
        (300, 400, 257),
        (511, 600, 140),
        (700, 800, 65),
    ],
)
def test_the_differences_need_nothing_of_what_memory_held(
    size, width, k, converging, panels, dtype, monkeypatch
):
    """Below the diagonal FFᵀ is not computed: M is mirrored, also in blocks on the diagonal."""
    native = native_or_skip()

    def new(like, *sizes):
        return like.new_full(sizes, float("nan"))

    monkeypatch.setattr("drcl.kept_memory.new", new)
    monkeypatch.setattr(native, "multiplies_panels", lambda: panels)
    outside = torch.randn(size, width, dtype=dtype)
    u, delta, v = torch.randn(3, size, k, dtype=dtype)
    delta *= 0.1 if converging else 10.0
    norms = torch.ones(2, size, dtype=dtype)
    f, wide_u, wide_delta, wide_v = (one.double() for one in (outside, u, delta, v))
    # rows of length one, the diagonals of which are known
    m = wide_u @ wide_delta.T + wide_delta @ wide_v.T - f @ f.T
    m = (m.triu(1) + m.triu(1).T).fill_diagonal_(0.0)
    smaller = -wide_delta if converging else wide_v
    z = smaller @ wide_u.T - wide_u @ smaller.T
    for backend in (native, eager):
        found = backend.differences(outside, torch.cat([u, delta, v], dim=1), norms)
        for one, expected in zip(found.double(), (m, z), strict=True):
            error = (one - expected).abs().max() / expected.abs().max()
            assert error <= (1e-6 if dtype == torch.float32 else 1e-14), backend


@pytest.mark.parametrize("lam", [1.0, 0.9])
@pytest.mark.parametrize("bad", [-100, 3, 2**40])
def test_a_native_id_that_is_no_class_makes_the_loss_nan(bad, lam):
    """Where values are not looked at: in compiled code."""
    native = native_or_skip()
    features, targets, prior = batch(5, 16, 3)
    targets[2], targets[4] = bad, -1
    space = Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)
    order = torch.tensor([1, 0, 4, 3, 2])  # the bad one is mixed with one that has no label
    given = Batch(features, targets, order if lam < 1 else None, torch.tensor(0.5))
    rows = native.rows(given, space, Settings(1.0, 1.0, 1.0, 1.0, lam))
    assert rows.sums[0].isnan() and rows.sums[1].isnan()
    assert rows.coordinates[:2].isfinite().all() and rows.label_gradient[:2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [1, 7, 8, 45, 300])
def test_native_entropies_are_those_of_the_formula(classes, dtype):
    """Of near and far logits, one class, several and all, and with any number of threads."""
    forced("native")
    from drcl.native.cross_entropy import entropies, entropies_in_place

    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(90, classes, generator=generator, dtype=dtype)
    logits[::2] *= 60
    ids = torch.randint(-1, classes, (90,), generator=generator)
    drawn = torch.rand(90, classes, generator=generator, dtype=dtype)
    several = torch.where(drawn > 0.9, drawn, 0.0)
    before = torch.get_num_threads()
    for targets, q in product((ids, drawn, several), (0.0, 0.4)):
        exact = logits.double().requires_grad_()
        rows = target_rows(targets, classes, torch.float64)
        labelled = rows.sum(dim=1) > 0
        log_s = (exact.log_softmax(dim=1) + rows.log())[labelled].logsumexp(dim=1)
        loss = -log_s.sum() if q == 0 else ((1 - (q * log_s).exp()) / q).sum()
        sums = [loss, log_s.exp().sum(), *torch.autograd.grad(loss, exact)]
        means = [one / labelled.sum() for one in sums]
        wide = torch.tensor(q, dtype=torch.float64)
        found = [*entropies(logits, targets, wide)]
        expected = [*means, exact.softmax(dim=1)]
        for mean in (True, False):
            gradient = logits.clone()
            found += *entropies_in_place(gradient, targets, wide, mean=mean), gradient
            expected += means if mean else sums
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(
                one.double(),
                other.detach(),
                atol=4e-6 if dtype == torch.float32 else 1e-12,
                rtol=1e-5,
            )
        torch.set_num_threads(5)
        again = [*entropies(logits, targets, wide)]
        for mean in (True, False):
            gradient = logits.clone()
            again += *entropies_in_place(gradient, targets, wide, mean=mean), gradient
        torch.set_num_threads(before)
        assert all(map(torch.equal, found, again))
        alone = entropies_in_place(logits.clone(), targets, wide, mean=True, gradient=False)
        assert all(map(torch.equal, found, alone))


def test_a_native_permutation_out_of_range_is_an_error_and_no_read_outside():
    native = native_or_skip()
    features, targets, prior = batch(5, 16, 3)
    space = Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)
    for order in ([0, 1, 2, 3, 5], [0, 1, 2, 3, -1]):
        given = Batch(features, targets, torch.tensor(order), torch.tensor(0.5))
        with pytest.raises(RuntimeError, match=f"permutation: .*got {order[-1]}"):
            native.rows(given, space, Settings(1.0, 1.0, 1.0, 1.0, 0.9))
    with pytest.raises(RuntimeError, match="permutation: expected every row once"):
        torch.ops.drcl.reversible_unmix(
            features, torch.tensor([0, 1, 2, 3, 3]), 0.9, torch.empty_like(features)
        )


def test_native_rows_take_any_layout_of_the_prior_and_of_targets():
    native = native_or_skip()
    features, targets, prior = batch(9, 16, 3)
    settings = Settings(1.0, 1.0, 1.0, 1.0, 1.0)
    label_rows = nnf.one_hot(targets, 3)
    space = Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)
    q = torch.tensor(0.5)
    expected = native.rows(Batch(features, targets, None, q), space, settings)
    turned = Space(*(one.contiguous() for one in space))
    assert turned.basis.stride() != space.basis.stride()
    for other_q in (q.double(), q.half(), q.bfloat16()):
        views = (features.T.contiguous().T, label_rows.T.contiguous().T, None, other_q)
        for one, other in zip(native.rows(Batch(*views), turned, settings), expected, strict=True):
            assert torch.equal(one, other)
