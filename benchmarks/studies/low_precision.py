"""What bfloat16 products in the loss save and cost: time, value, gradient, and a whole training.

    DRCL_DATA=... python -m drcl.benchmarks.studies.low_precision   what is missing, an hour in all

PyTorch's ``torch.set_float32_matmul_precision("medium")`` lets a processor that has instructions
for it multiply float32 in bfloat16, and the loss follows. Times are of one call with its gradient,
all settings in turns, after both errors have been found, against the literal form in float64.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from drcl import functional, reference
from drcl.benchmarks.studies.deep_sets import load_set
from drcl.benchmarks.studies.evaluation import in_turns
from drcl.benchmarks.suite import timing
from drcl.compare.fitted import Fitted, Method
from drcl.compare.methods import RELEASED
from drcl.compare.study import run_study
from drcl.data.dataset import CrossModalDataset
from drcl.estimator import DRCL
from drcl.ops.top_k import multiplies_bfloat16

NAME = "low_precision"
SIZES = [(1024, 512, 10), (1024, 2048, 10), (4096, 2048, 10), (8192, 512, 10)]
TRAININGS = {"float32": ("highest", "float32"), "loss": ("medium", "float32")}
TRAININGS["loss and networks"] = "medium", "bf16"
Row = dict[str, Any]


@contextlib.contextmanager
def setting(precision: str) -> Iterator[None]:
    """PyTorch's precision of float32 products, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def one_size(batch: int, dim: int, classes: int, rounds: int = 7) -> Row:
    """Errors to float64 and seconds of the loss, and seconds of the literal form."""
    draw = torch.Generator().manual_seed(0)
    prior = torch.randn(dim, classes, generator=draw) / dim**0.5
    ids = torch.randint(classes, (batch,), generator=draw)
    features = torch.nn.functional.normalize(torch.randn(batch, dim, generator=draw))
    options: dict[str, Any] = {"q": 0.5, "alpha": 0.1, "beta": 0.1}

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = features.requires_grad_()
        total = functional.reversible_consistency_loss(leaf, ids, prior, **options).total
        return total.detach(), torch.autograd.grad(total, leaf)[0]

    def literal(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = features.detach().to(dtype).requires_grad_()
        rows = torch.nn.functional.one_hot(ids, classes).to(dtype)
        total = reference.reversible_consistency(leaf, rows, prior.to(dtype), **options)[0]
        return total.detach(), torch.autograd.grad(total, leaf)[0]

    def within(precision: str, call: Callable[[], object]) -> object:
        with setting(precision):
            return call()

    exact = literal(torch.float64)
    errors = {}
    for precision in ("highest", "medium"):
        with setting(precision):
            found = ours()
        errors[precision] = [
            float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)
        ]
    del exact
    calls = {
        f"{name}, {precision}": partial(within, precision, call)
        for precision in ("highest", "medium")
        for name, call in (("ours", ours), ("literal", literal))
    }
    about = {"batch": batch, "dim": dim, "classes": classes, "threads": torch.get_num_threads()}
    return about | {"errors": errors} | in_turns(calls, rounds, {})


def train(data: CrossModalDataset, seed: int, *, products: str, networks: Any) -> Fitted:
    with setting(products):
        model = DRCL(replace(RELEASED, precision=networks), seed=seed)
        model.fit(data.train, data.validation, progress=False)

    def embed(modality: str, features: np.ndarray) -> np.ndarray:
        return model.encode(modality, features).numpy()

    return Fitted(embed, "")


def training(name: str, seeds: int) -> Row:
    """mAP@all of whole trainings, seed by seed; each is written as it comes."""
    methods = {
        title: Method(title, partial(train, products=products, networks=networks))
        for title, (products, networks) in TRAININGS.items()
    }
    file = timing.RESULTS / timing.device_name() / NAME / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {title: [] for title in methods}
    for result in run_study(load_set(name), methods, range(seeds), file):
        found[result["method"]].append(result["mAP@all"]["mean"])
    return {"set": name, "mAP@all": found}


PARTS: dict[str, Callable[[], Row]] = {
    **{f"{b} × {d}": partial(one_size, b, d, c) for b, d, c in SIZES},
    **{name: partial(training, name, 10) for name in ("uci", "wikipedia")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.parse_args()
    if not multiplies_bfloat16():
        raise SystemExit("this processor multiplies no bfloat16: there is nothing to measure")
    timing.measure_missing(NAME, PARTS)


if __name__ == "__main__":
    main()
