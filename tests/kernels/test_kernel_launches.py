"""What a GPU would be asked to compile: every launch of some problems, translated without a GPU.

Triton's interpreter runs only the lines that it comes to; the compiler translates all of a kernel,
also for arguments that are None, and for sizes of 1, which it takes as constants.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from drcl import Prior
from drcl.eager.reversible_consistency import Batch, Saved, Settings, Space
from drcl.ops.mixup import mixup, mixup_backward
from drcl.ops.prior_similarity import prior_similarity, prior_similarity_backward
from drcl.ops.reversible_consistency import (
    reversible_consistency,
    reversible_consistency_backward,
    stages,
)

compiler = pytest.importorskip("triton.compiler", reason="Triton is not installed")
ir = pytest.importorskip("triton._C.libtriton").ir
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place", allow_module_level=True)

aten = torch.ops.aten
TARGET = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
SHAPES = [  # (B, D, C)
    (1, 1, 1),  # one of everything; K = D
    (2, 10, 1),
    (5, 1, 3),
    (7, 64, 16),
    (7, 10, 40),  # more classes than dimensions, B < D
    (12, 10, 40),  # the same, B >= D
    (20, 48, 200),  # more classes than stay on chip
    (70, 300, 200),
]


TRANSLATED = set()


def translate(kernel, arguments, options):
    """To Triton's first representation, as the just-in-time compiler would at its first launch."""
    signature, constants = {}, {}
    for parameter in kernel.params:
        name, value = parameter.name, arguments[parameter.name]
        one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        else:
            signature[name] = {int: "i32", float: "fp32"}[type(value)]
    key = kernel.__name__, str(signature), str(constants)
    if key in TRANSLATED:
        return
    source = compiler.ASTSource(kernel, signature, constexprs=constants)
    backend = compiler.make_backend(TARGET)
    parsed = backend.parse_options(options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(parsed)
    source.make_ir(TARGET, parsed, functions, backend.get_module_map(), context)
    TRANSLATED.add(key)


@pytest.fixture
def launches(monkeypatch):
    """The kernels launched, by name: translated and not run, so that outputs hold anything."""
    names = Counter()

    def run(kernel, *values, grid, warmup, **named):
        arguments = dict(zip(kernel.arg_names, values, strict=False)) | named
        options = {name: value for name, value in named.items() if name not in kernel.arg_names}
        translate(kernel, arguments, options)
        names[kernel.__name__] += 1

    monkeypatch.setattr("triton.runtime.jit.JITFunction.run", run)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind, mixing", [("ids", False), ("ids", True), ("rows", True)])
def test_every_launch_of_the_loss_compiles(launches, shape, kind, mixing):
    b, d, c = shape
    prior = Prior(torch.randn(d, c))
    targets = torch.arange(b) % c if kind == "ids" else torch.rand(b, c)
    order, lam = (torch.randperm(b), 0.9) if mixing else (None, 1.0)
    space = [prior.basis, prior.recast_coordinates, prior.weight_coordinates]
    settings = Settings(0.1, 0.1, 1.0, 1.0, lam)
    for dtype in (torch.float32, torch.bfloat16):
        _, _, _, _, *saved = reversible_consistency(
            torch.randn(b, d).to(dtype), targets, order, torch.tensor(0.5).double(), space,
            settings, "", b < d, "triton",
        )  # fmt: skip
        grads = [torch.ones(()), None, None, torch.ones(())]
        reversible_consistency_backward(
            grads, [*saved, prior.basis], order, settings, dtype, "triton"
        )
    assert {"finish_kernel", "parts_kernel"} <= launches.keys()
    wide = c > 32
    assert ("unit_rows_kernel" in launches) == wide and ("rows_kernel" in launches) != wide


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ids", "rows"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_launch_of_prior_similarity_and_mixup_compiles(launches, shape, kind):
    b, d, c = shape
    x, weight, order = torch.randn(b, d), torch.randn(d, c), torch.randperm(b)
    targets = torch.arange(b) % c if kind == "ids" else torch.rand(b, c)
    q = torch.tensor(0.5).double()
    logits, p, loss, _, gradient = prior_similarity(x, weight, targets, q, 1.0, False, "triton")
    for given in itertools.product((True, False), repeat=3):
        if any(given):
            grads = [g if yes else None for g, yes in zip((logits, p, loss), given, strict=True)]
            saved = [x, weight, p, gradient]
            prior_similarity_backward(grads, saved, 1.0, (True, True), "triton")
    mixup_backward(mixup(x, order, 0.9, "triton"), order, 0.9, "triton")
    assert launches.keys() >= {
        "scale_kernel", "logit_gradient_kernel", "mix_kernel", "invert_kernel"
    }  # fmt: skip


class Aten(TorchDispatchMode):
    """What PyTorch itself would launch: its operations but for views and allocations."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in (aten.new_empty, aten.empty):
            self.names[str(func)] += 1
        return found


@pytest.mark.slow
@pytest.mark.parametrize("batch", [20, 70])
@pytest.mark.parametrize("kind", ["ids", "rows"])
def test_the_loss_is_its_kernels_and_nothing_else(launches, batch, kind):
    """No copy, no zeros: every node of a captured step is a kernel that the page counts."""
    d, c = 64, 10
    prior = Prior(torch.randn(d, c))
    targets = torch.arange(batch) % c if kind == "ids" else torch.rand(batch, c)
    order, features = torch.randperm(batch), torch.randn(batch, d)
    space = Space(prior.basis, prior.recast_coordinates, prior.weight_coordinates)
    settings, compute = Settings(0.1, 0.1, 1.0, 1.0, 0.9), stages("triton")
    q, one = torch.tensor(0.5).double(), torch.ones(())
    with Aten() as aten_launches:
        rows = compute.rows(Batch(features, targets, order, q), space, settings)
        if batch < d:
            inner, cross = torch.empty(0, 0), torch.empty(0, 0)
            gram = compute.differences(rows.outside, rows.coordinates, rows.norms)
        else:
            inner, cross, gram = compute.by_features(rows.coordinates, rows.outside)
        compute.combine(rows.sums, inner, cross, gram, settings, d)
        saved = Saved(*rows, inner, cross, gram, prior.basis, order)
        compute.gradient([one, None, None, None], saved, settings, torch.float32)
    assert not aten_launches.names
    once = ["rows_kernel", "similarity_kernel", "parts_kernel", "coefficients_kernel"]
    assert all(launches[name] == 1 for name in [*once, "finish_kernel"])
    assert launches["sum_partials_kernel"] == (1 if batch < d else 3)
    assert sum(launches.values()) == (9 if batch < d else 14) + (kind == "rows")
