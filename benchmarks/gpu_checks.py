"""What a GPU needs beside the suite: kernels for compute-sanitizer, and a profiler trace.

python -m drcl.benchmarks.gpu_checks sanitize | trace FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from drcl import Prior, functional, metrics, use_backend
from drcl.benchmarks.workloads.loss import batch, step


def sanitize(device: torch.device, backend: str = "triton") -> None:
    """Every kernel once on ragged shapes, small enough for compute-sanitizer."""
    for b, d, c, mixing in ((7, 10, 3, True), (131, 300, 10, True), (300, 131, 40, False)):
        features = torch.randn(b, d, device=device, requires_grad=True)
        prior = Prior(torch.randn(d, c)).to(device)
        ids = torch.arange(b, device=device) % c
        permutation = torch.randperm(b, device=device) if mixing else None
        with use_backend(backend):
            parts = functional.reversible_consistency_loss(
                features, ids, prior, lam=0.9 if mixing else 1.0, permutation=permutation
            )
            similarity = functional.prior_similarity(features, prior, ids)
            assert similarity.loss is not None
            (parts.total + similarity.loss).backward()
            functional.mixup(features, ids, classes=c)
        rows = features.detach()
        for k in (None, 5):
            metrics.mean_average_precision(rows, rows, ids, ids, k=k)
    if device.type == "cuda":
        torch.cuda.synchronize()


def trace(device: torch.device, folder: Path) -> Path:
    """A profiler trace of five steps of the loss at B = 1024, and the table of its kernels."""
    features, ids, prior = batch(1024, 2048, 10)
    leaf = features.detach().to(device).requires_grad_()
    ids, prior = ids.to(device), prior.to(device)
    run = step(lambda x: functional.reversible_consistency_loss(x, ids, prior).total, leaf)
    run()
    with torch.profiler.profile() as profile:
        for _ in range(5):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "loss_trace.json"
    profile.export_chrome_trace(str(path))
    print(profile.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=15))
    return path


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("gpu_checks: no CUDA device here; nothing checked")
    gpu = torch.device("cuda")
    if sys.argv[1:] == ["sanitize"]:
        sanitize(gpu)
    elif len(sys.argv) == 3 and sys.argv[1] == "trace":
        print(trace(gpu, Path(sys.argv[2])))
    else:
        raise SystemExit(__doc__)
