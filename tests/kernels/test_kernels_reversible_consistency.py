"""The Triton kernels of ``drcl::reversible_consistency`` against the literal form in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from kernel_testing import DEVICE, assert_as_exact, on_gpu_only, poisoned  # noqa: F401
from torch.library import opcheck

from drcl import Prior, functional, use_backend
from drcl.eager import reversible_consistency as eager
from drcl.eager.reversible_consistency import Batch, Settings, Space
from drcl.kernels import launch, product
from drcl.kernels.reversible_consistency import class_sums, symmetric
from drcl.ops.reversible_consistency import reversible_consistency, stages

kernels = stages("triton")
PLAIN = Settings(0.1, 0.1, 1.0, 1.0, 1.0)
LOSS = "drcl.kernels.reversible_consistency."
SHAPES = [
    (1, 1, 1),  # one of everything; K = D
    (2, 10, 2),  # M and Z
    (11, 10, 2),  # FᵀF
    (7, 10, 40),  # more classes than dimensions, B < D
    (12, 10, 40),  # the same, B ≥ D
    (7, 64, 10),
]
# several programs of every kernel and several steps of its sums, a single row in the last one
LARGE = [(65, 40, 2), (65, 66, 1)]
KINDS = ("ids", "rows")
ON_GPU = [
    pytest.param(shape, marks=on_gpu_only)
    for shape in (
        (1024, 2048, 10),
        (4099, 2048, 10),
        (4096, 300, 200),
        (1000, 2048, 1000),
        (6000, 64, 10),
    )
]


def test_the_reference_of_the_largest_shape_fits_beside_that_of_other_workers():
    """In float64 it holds seven B×B matrices (counted on a CPU); 12 workers share 80 GB."""
    largest = max(case.values[0][0] for case in ON_GPU)
    assert 12 * 7 * 8 * largest**2 < 60e9


def space_of(prior):
    return Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)


def make(b, d, c, kind="ids", spoil=True):
    """Unit rows and labels; where there are enough rows, one without label and one zero row."""
    features, weight = nnf.normalize(torch.randn(b, d)), torch.randn(d, c)
    if kind == "ids":
        targets = torch.arange(b) % c
    else:
        targets = torch.rand(b, c) * (torch.rand(b, c) < 0.4)
        targets[:, 0] += 0.1
    if spoil and b > 5:
        targets[1] = -1 if kind == "ids" else 0
        features[3] = 0
    return features, weight, targets


def run(backend, features, weight, targets, dtype, *, weights=(1, 0, 0, 0), mixing=True, **options):
    """The four values, and the gradient of their weighted sum."""
    # The features keep what their own dtype holds, whatever they are computed in.
    wide = dtype if features.dtype == torch.float32 or backend == "reference" else features.dtype
    x = features.to(DEVICE, wide).detach().requires_grad_()
    targets = targets.to(DEVICE)
    targets = targets.to(dtype) if targets.ndim == 2 else targets
    order = torch.arange(len(x), device=DEVICE).roll(1).flip(0) if mixing else None
    prior = Prior(weight.double()).to(DEVICE, dtype)
    with use_backend(backend):
        parts = functional.reversible_consistency_loss(
            x, targets, prior, **{"q": 0.3, "temperature": 0.7, **options},
            lam=0.9 if mixing else 1.0, permutation=order,
        )  # fmt: skip
    total = sum(w * part for w, part in zip(weights, parts, strict=True))
    (gradient,) = torch.autograd.grad(total, x)
    return torch.stack([part.detach().cpu() for part in parts]), gradient.cpu()


def assert_exact(*problem, **options):
    oracle = run("reference", *problem, torch.float64, **options)
    literal = run("reference", *problem, torch.float32, **options)
    values, gradient = run("triton", *problem, torch.float32, **options)
    for ours, plain, exact in zip(values, literal[0], oracle[0], strict=True):
        assert_as_exact(ours, plain, exact)
    assert gradient.dtype == problem[0].dtype
    assert_as_exact(gradient, literal[1], oracle[1], gradient.dtype)


# --- the whole loss


@pytest.mark.parametrize(
    ("shape", "kind", "mixing"),
    [
        # under the interpreter ids and rows with each shape, of which one is mixed, in turn
        *(
            (s, kind, (kind == "ids") == (i % 2 > 0))
            for i, s in enumerate(SHAPES)
            for kind in KINDS
        ),
        *(
            pytest.param(*gpu.values, kind, mixing, marks=gpu.marks)
            for gpu in ON_GPU
            for kind in KINDS
            for mixing in (False, True)
        ),
    ],
)
def test_values_and_gradient(shape, kind, mixing):
    assert_exact(*make(*shape, kind), mixing=mixing)


@pytest.mark.parametrize(("kind", "mixing"), [("ids", True), ("rows", False)])
def test_a_width_that_no_block_divides(kind, mixing):
    assert_exact(*make(7, 300, 5, kind), mixing=mixing)


@pytest.mark.parametrize("shape", LARGE)
def test_several_programs(monkeypatch, shape):
    monkeypatch.setattr(LOSS + "gradient.DEPTH_BY_ROWS", 32)
    assert_exact(*make(*shape))


@pytest.mark.parametrize(
    ("shape", "kind", "mixing"),
    [  # M and Z or FᵀF with each kind, with and without mixing
        ((5, 20, 17), "ids", True),
        ((21, 20, 17), "rows", True),
        ((5, 12, 40), "rows", False),
        ((21, 12, 40), "ids", False),
    ],
)
def test_class_space_as_products(monkeypatch, shape, kind, mixing):
    """More classes than are looped over; with 40, K = D and there is nothing outside."""
    monkeypatch.setattr(LOSS + "rows.LOOPED_CLASSES", 16)
    monkeypatch.setattr(LOSS + "gradient.LOOPED_CLASSES", 16)
    monkeypatch.setattr(LOSS + "symmetric.LOOPED_CLASSES", 16)
    assert_exact(*make(*shape, kind), mixing=mixing)


@pytest.mark.parametrize("batch", [7, 26])
def test_rows_too_wide_for_a_loop_over_classes(monkeypatch, batch):
    """Class space as products, M and Z or FᵀF as for few classes."""
    monkeypatch.setattr(LOSS + "rows.LOOPED_WIDTH", 16)
    monkeypatch.setattr(LOSS + "gradient.LOOPED_WIDTH", 16)
    assert_exact(*make(batch, 24, 3))


def test_rows_wider_than_fit_on_chip(monkeypatch):
    monkeypatch.setattr("drcl.dispatch.FUSED_WIDTH", 16)
    assert_exact(*make(7, 24, 3))


@pytest.mark.parametrize("shape", [(7, 10, 3), (12, 10, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_features(shape, dtype):
    features, weight, targets = make(*shape)
    assert_exact(features.to(dtype), weight, targets)


@pytest.mark.parametrize("shape", [(7, 10, 3), (12, 10, 3)])
@pytest.mark.parametrize("weights", [(-2.5, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_gradient_of_every_part(shape, weights):
    assert_exact(*make(*shape), weights=weights)


@pytest.mark.parametrize("q", [0.0, 1.0])
def test_ends_of_q(q):
    assert_exact(*make(7, 10, 3), q=q)


@pytest.mark.parametrize(
    ("shape", "noise", "looped"),
    [((6, 20, 4), 1e-4, 2), ((11, 10, 4), 1e-2, launch.LOOPED_CLASSES)],
)
def test_converged_features(monkeypatch, shape, noise, looped):
    """Features on their recast labels: the similarity terms are 1e-9 of what they started at."""
    monkeypatch.setattr(LOSS + "rows.LOOPED_CLASSES", looped)
    monkeypatch.setattr(LOSS + "gradient.LOOPED_CLASSES", looped)
    monkeypatch.setattr(LOSS + "symmetric.LOOPED_CLASSES", looped)
    results = {"triton": [], "float32": [], "float64": []}
    for _ in range(3):
        features, weight, targets = make(*shape, spoil=False)
        recast = nnf.normalize(torch.linalg.pinv(weight.double())[targets])
        features = nnf.normalize(recast + noise * features / features.shape[1] ** 0.5).float()
        problem = (features, weight, targets)
        options = {"mixing": False, "weights": (0, 0, 1, 0)}
        results["triton"].append(run("triton", *problem, torch.float32, **options))
        results["float32"].append(run("reference", *problem, torch.float32, **options))
        results["float64"].append(run("reference", *problem, torch.float64, **options))
    # In norm over the draws: a single rounding error is a matter of luck.
    values = [torch.stack([draw[0] for draw in draws], 1) for draws in results.values()]
    gradients = [torch.stack([draw[1] for draw in draws]) for draws in results.values()]
    for ours, literal, oracle in (*zip(*values, strict=True), gradients):
        assert_as_exact(ours, literal, oracle)


@pytest.mark.parametrize("looped", [launch.LOOPED_CLASSES, 2])
@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e-40, 1e-43, 1e15, 1e30])
def test_rows_of_any_length_become_unit_rows(monkeypatch, scale, looped):
    """Also where the inverse of a length leaves the range, below 3e-39."""
    monkeypatch.setattr(LOSS + "rows.LOOPED_CLASSES", looped)
    features, weight, targets = make(7, 10, 3, spoil=False)
    features = features * scale
    prior = Prior(weight).to(DEVICE)
    q = torch.tensor(0.3, device=DEVICE)
    given = Batch(features.to(DEVICE), targets.to(DEVICE), None, q)
    rows = kernels.rows(given, space_of(prior), PLAIN)
    unit = nnf.normalize(features.double() / scale)
    basis = prior.basis.double().cpu()
    v = rows.coordinates[:, 6:].double().cpu()
    torch.testing.assert_close(v, unit @ basis, rtol=0, atol=1e-6)
    outside = rows.outside.double().cpu()
    torch.testing.assert_close(outside, unit - unit @ basis @ basis.T, rtol=0, atol=1e-6)
    lengths = torch.linalg.vector_norm(features.double(), dim=1)
    torch.testing.assert_close(rows.norms[0].double().cpu(), lengths, rtol=1e-6, atol=2e-45)


def test_strides_are_respected():
    features, weight, targets = make(9, 16, 3, "rows")
    prior = Prior(weight).to(DEVICE)
    features, targets = features.to(DEVICE), targets.to(DEVICE)
    spread = torch.cat([features, features], 1)
    order = torch.randperm(9, device=DEVICE)
    results = []
    for x, y, basis in (
        (features, targets, prior.basis),
        (spread[:, :16], targets.repeat_interleave(2, 1)[:, ::2], prior.basis.T.contiguous().T),
        (
            features.repeat_interleave(2, 1)[:, ::2],
            torch.cat([targets, targets], 1)[:, :3],
            prior.basis,
        ),
    ):
        q = torch.tensor(0.3, device=DEVICE)
        results.append(
            kernels.rows(
                Batch(x, y, order, q),
                space_of(prior)._replace(basis=basis),
                PLAIN._replace(lam=0.9),
            )
        )
    for other in results[1:]:
        for one, plain in zip(other, results[0], strict=True):
            torch.testing.assert_close(one, plain, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(4, 10, 3), (12, 10, 3)])
def test_unlabelled_batch_has_no_loss_and_no_gradient(shape):
    features, weight, _ = make(*shape)
    values, gradient = run("triton", features, weight, torch.full(shape[:1], -1), torch.float32)
    assert not values.any()
    assert not gradient.any()


@pytest.mark.parametrize("bad", [3, -2])
@pytest.mark.parametrize("row", [0, 2])
def test_an_id_that_is_no_class_makes_the_loss_nan(bad, row):
    features, weight, targets = (t.to(DEVICE) for t in make(4, 10, 3))
    targets[row] = bad
    q = torch.tensor(0.3, device=DEVICE)
    sums = kernels.rows(Batch(features, targets, None, q), space_of(Prior(weight)), PLAIN).sums
    assert sums[:2].isnan().all()


def test_two_runs_give_the_same_bits():
    problem = make(12, 10, 3)
    first, second = (run("triton", *problem, torch.float32) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_float64_takes_the_eager_backend():
    problem = make(7, 10, 3)
    ours, oracle = (run(name, *problem, torch.float64) for name in ("triton", "reference"))
    torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 16, 3), (20, 16, 3), (4, 6, 9), (9, 6, 9)])
def test_registered_with_the_kernels(shape):
    features, weight, targets = (t.to(DEVICE) for t in make(*shape))
    order = torch.randperm(len(features), device=DEVICE)
    opcheck(
        reversible_consistency,
        (
            features.requires_grad_(), targets, order, torch.tensor(0.3, device=DEVICE),
            list(space_of(Prior(weight))), (0.1, 0.2, 1.0, 0.7, 0.9), "",
            shape[0] < shape[1], "triton",
        ),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


# --- single stages


@pytest.mark.parametrize(
    ("shape", "precision"),
    [
        # one slice, and more; of the other precisions the form with several blocks alone
        *(((600, 40), "highest"), ((3, 70), "highest"), ((1030, 5), "highest")),
        *(((300, 140), "high"), ((300, 140), "medium")),
        *(
            pytest.param((5000, 2048), precision, marks=on_gpu_only)
            for precision in ("highest", "high", "medium")
        ),
    ],
)
def test_gram_matrix(monkeypatch, shape, precision):
    """Slices and blocks of every precision; exactly symmetric off the diagonal blocks."""
    error = {"highest": 1e-6, "high": 3e-5, "medium": 1e-2}[precision]
    name = {"highest": "ieee", "high": "tf32", "medium": "bf16"}[precision]
    monkeypatch.setattr(product, "matmul_precision", lambda: name)
    f = torch.randn(shape, device=DEVICE)
    ours, exact = symmetric.gram(f), f.double().T @ f.double()
    assert (ours[0] - exact).norm() <= error * exact.norm()
    torch.testing.assert_close(ours[0], ours[0].T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("magnitude", [1e-17, 1e-8, 1.0, 1e15])
def test_products_in_parts_are_as_exact_as_float32(magnitude):
    """F of a converged batch is tiny: its parts must be no worse there. Same for large numbers."""
    f = magnitude * torch.randn(140, 40, device=DEVICE).exp()
    right = torch.randn(40, 20, device=DEVICE)
    factor = torch.randn(140, 20, device=DEVICE)
    gram, (large, dots) = symmetric.gram(f)[0], product.product_with_dots(f, right, factor)
    torch.testing.assert_close(
        dots.sum(0), (large * factor).sum(1), rtol=1e-4, atol=1e-3 * magnitude
    )
    for ours, a, b in ((gram, f.T, f), (large, f, right), (product.product(f, right), f, right)):
        exact = a.double() @ b.double()
        literal = (a @ b - exact).norm()
        assert literal > 0
        assert (ours - exact).norm() <= 4 * literal


def test_a_nan_is_not_lost_in_parts():
    f, right = torch.ones(3, 5, device=DEVICE), torch.ones(5, 4, device=DEVICE)
    f.view(torch.int32)[1, 2] = 0x7FFFFFFF  # the one that GPUs make: all bits set
    assert product.product(f, right).isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("precision", ["ieee", "bf16x6"])
@pytest.mark.parametrize("width", [512, 2048])
def test_long_sums_of_one_sign(precision, width):
    """A million rows in the order of ``symmetric_kernel`` and ``gram_kernel``, in NumPy."""
    rows = 2**20
    config = symmetric.SYMMETRIC[precision]
    along, step = width // config["BLOCK"], config["BLOCK_K"]
    length = symmetric.slice_length(along * (along + 1) // 2, rows, step, precision)
    rng = np.random.default_rng(0)
    terms = (0.5 + 0.1 * rng.standard_normal((rows, 4))) ** 2
    # a product at a time in float32 arithmetic; or a step at a time, which starts at zero
    together = 1 if precision == "ieee" else step
    sums = terms.reshape(-1, together, 4).sum(1).astype(np.float32)
    parts = [
        np.add.accumulate(part, dtype=np.float32)[-1]
        for part in np.split(sums, range(length // together, len(sums), length // together))
    ]
    total = np.add.accumulate(np.stack(parts), dtype=np.float32)[-1]
    np.testing.assert_allclose(total, terms.sum(0), rtol=1e-6)


@pytest.mark.parametrize("converged", [False, True])
def test_differences(converged):
    """Blocks on and off the diagonal, one of them ragged, against M and Z written out."""
    features, weight, targets = make(70, 80, 4, spoil=False)
    prior = Prior(weight)
    if converged:
        features = nnf.normalize(prior.inverse[targets] + 1e-4 * features)
    q, space = torch.tensor(0.3), space_of(prior)
    rows = eager.rows(Batch(features, targets, None, q), space, PLAIN)
    wide = Space(*(one.double() for one in space))
    exact = eager.rows(Batch(features.double(), targets, None, q), wide, PLAIN)
    u, _, v = exact.coordinates.chunk(3, dim=1)
    x = v @ prior.basis.double().T + exact.outside
    m = u @ u.T - x @ x.T
    z = v @ u.T - u @ v.T
    ours = kernels.differences(
        *(t.to(DEVICE) for t in (rows.outside, rows.coordinates, rows.norms))
    )
    plain = eager.differences(rows.outside, rows.coordinates, rows.norms)
    for one, other, oracle in zip(ours, plain, (m, z), strict=True):
        assert_as_exact(one, other, oracle)
    assert not ours[1].diagonal().any()


def test_class_sums_in_slices():
    h, f = torch.randn(300, 9, device=DEVICE), torch.randn(300, 70, device=DEVICE)
    inner, cross = class_sums.class_sums(h, f)
    assert inner.dtype == torch.float64
    torch.testing.assert_close(inner, h.double().T @ h.double(), rtol=1e-13, atol=1e-13)
    exact = h[:, 3:].double().T @ f.double()
    assert (cross - exact).norm() <= 1e-6 * exact.norm()


def test_long_sums_keep_small_terms(monkeypatch):
    """What one float32 sum after another would lose: 4,064 rows that add 1/64 each to 2²⁴."""
    monkeypatch.setattr(class_sums, "slices", lambda *_: 1)
    batch = 4096
    h, f = torch.ones(batch, 3, device=DEVICE), torch.full((batch, 1), 1 / 64, device=DEVICE)
    f[0] = 2.0**24
    _, cross = class_sums.class_sums(h, f)
    exact = f.double().sum()
    assert (cross.double() - exact).abs().max() <= 1e-6 * exact


@pytest.mark.parametrize("width", [512, 2048])
def test_long_sums_in_the_order_of_the_kernel(width):
    """1,048,576 rows with a bias: slices side by side, chunks one after the other, rows in them."""
    batch, config = 2**20, class_sums.CROSS
    tiles = launch.blocks(width, config["BLOCK_D"]) * launch.blocks(20, config["BLOCK_H"])
    rows = batch // launch.slices(tiles, batch, 64)
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(batch, 1, generator=generator) + 0.5
    terms = terms * (torch.randn(batch, 4, generator=generator) + 0.5)
    slices = terms.reshape(-1, rows, 4)
    total = torch.zeros(len(slices), 4)
    for chunk in slices.split(class_sums.CHUNK, dim=1):
        part = torch.zeros(len(slices), 4)
        for term in chunk.unbind(1):
            part += term
        total += part
    exact = terms.double().sum(0)
    assert ((total.double().sum(0) - exact).abs() <= 1e-6 * exact.abs()).all()
