"""Rounding of the loss: our float32 error beside the literal form's, over batches and widths.

python -m drcl.benchmarks.studies.loss_accuracy   several minutes; the suite's gate is far cheaper
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
import torch.nn.functional as nnf
from tqdm import tqdm

from drcl import Prior, functional, reference
from drcl.benchmarks.suite.timing import write_results


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
    options: dict[str, Any] = {"q": 0.5, "alpha": 1.0, "beta": 0.1, "eta": 0.0 if distance else 1.0}
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


if __name__ == "__main__":
    torch.manual_seed(0)
    print(write_results("loss_accuracy", accuracy()))
