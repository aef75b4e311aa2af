"""The reversible consistency loss against its literal form: speed, memory, growth with the batch.

python benchmarks/loss.py            everything, about ten minutes on two cores
python benchmarks/loss.py speed      one part: speed, growth, growth_kept_heap, memory, accuracy
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from timing import PeakMemory, medians, write_results
from torch import Tensor
from tqdm import tqdm

from drcl import Prior, functional, reference

WIDTH, CLASSES = 2048, 10
MB = 1e6


def batch(b: int, d: int = WIDTH, c: int = CLASSES) -> tuple[Tensor, Tensor, Prior]:
    """Unit rows that take a gradient, class ids, and a prior of the norm that learning gives it."""
    generator = torch.Generator().manual_seed(b + d + c)
    features = nnf.normalize(torch.randn(b, d, generator=generator))
    ids = torch.randint(0, c, (b,), generator=generator)
    prior = Prior(torch.randn(d, c, generator=generator) / d**0.5 * 2.9)
    return features.requires_grad_(), ids, prior


def literal_loss(features: Tensor, rows: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """The formulas as they stand, with the generalised inverse found beforehand."""
    recasting = rows @ inverse
    label = reference.generalized_cross_entropy(features @ weight, rows, 1.0)
    consistency = reference.similarity_consistency(recasting, features)
    return 0.1 * consistency + 0.1 * reference.recasting_error(recasting, features) + label


def step(loss: Callable[[Tensor], Tensor], features: Tensor) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        features.grad = None
        loss(features).backward()

    return run


def contestants(b: int, compiled: bool) -> dict[str, Callable[[], Any]]:
    features, ids, prior = batch(b)
    rows = nnf.one_hot(ids, CLASSES).float()
    square = torch.randn(WIDTH, WIDTH)
    left = torch.randn(b, WIDTH)

    def literal(x: Tensor) -> Tensor:
        return literal_loss(x, rows, prior.weight, prior.inverse)

    forms = {
        "ours": step(
            lambda x: functional.reversible_consistency_loss(x, ids, prior).total, features
        ),
        "literal": step(literal, features),
        "GEMM": lambda: left @ square,
    }
    if compiled:
        # Masks of unlabelled rows have no place in a compiled graph; all rows are labelled here.
        def dense(x: Tensor) -> Tensor:
            recasting = rows @ prior.inverse
            log_s = ((x @ prior.weight).log_softmax(dim=1) * rows).sum(dim=1)
            consistency = reference.similarity_consistency(recasting, x)
            error = reference.recasting_error(recasting, x)
            return 0.1 * consistency + 0.1 * error - torch.expm1(log_s).mean()

        forms["literal, compiled"] = step(torch.compile(dense), features)
    return forms


def check(b: int) -> None:
    """No speed without correctness: value and gradient against float64."""
    features, ids, prior = batch(b)
    exact = features.detach().double().requires_grad_()
    rows = nnf.one_hot(ids, CLASSES).double()
    oracle = literal_loss(exact, rows, prior.weight.double(), prior.inverse.double())
    oracle.backward()
    ours = functional.reversible_consistency_loss(features, ids, prior).total
    ours.backward()
    error = (features.grad.double() - exact.grad).norm() / exact.grad.norm()
    if not (abs(float(ours) - float(oracle)) < 1e-5 * abs(float(oracle)) and float(error) < 1e-5):
        raise SystemExit(f"B={b}: wrong: {float(ours)} against {float(oracle)}, {float(error):.1e}")


def speed() -> list[dict[str, Any]]:
    rows = []
    for b, repeats in ((1024, 15), (4096, 3), (8192, 3)):
        check(min(b, 4096))
        times = medians(contestants(b, compiled=b <= 4096), repeats, f"B={b}")
        rate = 2 * b * WIDTH * WIDTH / times["GEMM"]
        narrow = min(b, WIDTH)
        floor = 3 * b * WIDTH * narrow / rate
        row = {
            "B": b,
            "D": WIDTH,
            "C": CLASSES,
            "ours_ms": times["ours"] * 1e3,
            "literal_ms": times["literal"] * 1e3,
            "compiled_ms": times.get("literal, compiled", float("nan")) * 1e3,
            "speedup": times["literal"] / times["ours"],
            "speedup_compiled": times.get("literal, compiled", float("nan")) / times["ours"],
            "gemm_gflops": rate / 1e9,
            "over_floor": times["ours"] / floor,
        }
        rows.append(row)
        print({key: round(value, 2) for key, value in row.items()}, flush=True)
    return rows


def growth() -> list[dict[str, Any]]:
    """Time against the batch at D = 512, and one batch the literal form has no memory for."""
    rows: list[dict[str, Any]] = []
    sizes = [4096 * 2**i for i in range(6)]
    forms = {}
    for b in sizes:
        features, ids, prior = batch(b, 512)
        forms[str(b)] = step(
            lambda x, ids=ids, prior=prior: (
                functional.reversible_consistency_loss(x, ids, prior).total
            ),
            features,
        )
    times = medians(forms, 7, "growth")
    for b in sizes:
        before = times.get(str(b // 2))
        row = {"B": b, "D": 512, "ms": times[str(b)] * 1e3}
        row["over_half_the_batch"] = times[str(b)] / before if before else None
        rows.append(row)
        print(row, flush=True)
    return rows


def growth_kept_heap() -> list[dict[str, Any]]:
    """Growth in a process whose C library keeps freed blocks instead of returning them.

    glibc maps every block above 32 MB anew, and the kernel hands it over page by page: a cost that
    starts between B = 8192 and 16384 and has nothing to do with the loss.
    """
    env = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "4000000000",
        "MALLOC_TRIM_THRESHOLD_": "8000000000",
    }
    command = [sys.executable, __file__, "growth_as_json"]
    done = subprocess.run(command, check=True, capture_output=True, env=env, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def memory() -> list[dict[str, Any]]:
    """Each size in a process of its own, so that one does not live on what another freed."""
    rows = []
    for b, d in ((1024, 2048), (4096, 2048), (8192, 2048), (131072, 512)):
        for form in ("ours", "literal"):
            if form == "literal" and b > 8192:
                continue
            command = [sys.executable, __file__, "peak", form, str(b), str(d)]
            peak = float(subprocess.run(command, check=True, capture_output=True).stdout)
            allowed = 2.5 * b * d * 4 + 3 * d * d * 4
            row = {"form": form, "B": b, "D": d, "peak_MB": peak / MB, "budget_MB": allowed / MB}
            rows.append(row)
            print(row, flush=True)
    return rows


def peak(form: str, b: int, d: int) -> None:
    """Print the peak bytes of one step beyond inputs and gradient."""
    small, ids, prior = batch(64, d)
    features, many, _ = batch(b, d)

    def loss(x: Tensor, targets: Tensor) -> Tensor:
        if form == "ours":
            return functional.reversible_consistency_loss(x, targets, prior).total
        return literal_loss(x, nnf.one_hot(targets, CLASSES).float(), prior.weight, prior.inverse)

    step(lambda x: loss(x, ids), small)()  # what a first call sets up stays out of the count
    with PeakMemory() as used:
        step(lambda x: loss(x, many), features)()
    print(used.bytes - features.numel() * 4)


def accuracy() -> list[dict[str, Any]]:
    """Rounding errors of float32, ours over what the literal form's allow, worst per B and D."""
    rows = []
    cases = list(itertools.product((1, 2, 7, 128, 1000, 4096), (1, 10, 64, 300, 2048)))
    for b, d in tqdm(cases, desc="accuracy", disable=None):
        worst = {"B": b, "D": d, "value": 0.0, "gradient": 0.0}
        for c, distance in itertools.product((1, 2, 10, 200, 1000), (None, 1e-2, 1e-4, 3e-5)):
            for name, share in shares_of_bound(b, d, c, distance).items():
                worst[name] = max(worst[name], share)
        rows.append(worst)
        print(worst, flush=True)
    return rows


def shares_of_bound(b: int, d: int, c: int, distance: float | None) -> dict[str, float]:
    """Our error in units of 4·|literal fp32 − fp64| + 1e-6·|fp64|, value and gradient, in norm."""
    norms = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more classes than dimensions
        prior = Prior(torch.randn(d, c) / d**0.5 * 2.9)
    options = {"q": 0.5, "alpha": 1.0, "beta": 0.1, "eta": 0.0 if distance else 1.0}
    exact_inverse = torch.linalg.pinv(prior.weight.double())
    for _ in range(12 if b <= 7 else 1):
        ids = torch.randint(0, c, (b,))
        if distance is None:
            features = nnf.normalize(torch.randn(b, d))
        else:
            recast = exact_inverse[ids]
            noise = nnf.normalize(torch.randn(b, d).double())
            features = (recast + distance * recast.norm(dim=1, keepdim=True) * noise).float()
        forms = []
        for dtype, literal in (
            (torch.float64, True),
            (torch.float32, True),
            (torch.float32, False),
        ):
            leaf = features.to(dtype).requires_grad_()
            if literal:
                rows = nnf.one_hot(ids, c).to(dtype)
                total = reference.reversible_consistency(
                    leaf, rows, prior.weight.to(dtype), **options
                )[0]
            else:
                total = functional.reversible_consistency_loss(leaf, ids, prior, **options).total
            gradient = torch.autograd.grad(total, leaf)[0].double()
            forms.append((total.detach().double(), gradient))
        exact, rounded, ours = forms
        norms.append(
            [
                [(o - e).norm().item(), (r - e).norm().item(), e.norm().item()]
                for o, r, e in zip(ours, rounded, exact, strict=True)
            ]
        )
    error, literal_error, size = torch.tensor(norms).double().norm(dim=0).unbind(dim=1)
    share = error / (4 * literal_error + 1e-6 * size + 1e-14)
    return {"value": share[0].item(), "gradient": share[1].item()}


PARTS = {
    "speed": speed,
    "growth": growth,
    "growth_kept_heap": growth_kept_heap,
    "memory": memory,
    "accuracy": accuracy,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["growth_as_json"]:
        print(json.dumps(growth()))
    else:
        for part in sys.argv[1:] or PARTS:
            print(f"== {part}", flush=True)
            print(f"   {write_results(f'loss_{part}', PARTS[part]())}")
