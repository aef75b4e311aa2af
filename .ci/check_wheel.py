"""Run where only the wheel is installed: is all of it there, and are its compiled ops right?"""

import sys
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import torch

import drcl
import drcl.kernels
from drcl import backends, dispatch, functional, metrics

info = backends.build_info()
for place in (drcl.__file__, drcl.kernels.__file__, backends._ops_library()):
    assert Path(place).resolve().is_relative_to(Path(sys.prefix).resolve()), place
assert metadata.version("drcl") == info["drcl"]
for name in ("template.html.jinja", "report.css"):
    assert resources.files("drcl.report").joinpath(name).is_file(), f"{name} is not in the wheel"
assert info["extension"]["built"], info["extension"]["reason"]
assert dispatch.choose("average_precision", torch.device("cpu")) == "native"

# the compiled ranking and loss, against the literal formulas
torch.manual_seed(0)
scores = torch.randint(0, 50, (40, 300)).double()  # with ties
relevant = torch.rand(40, 300) < 0.1
for options in ({}, {"k": 10}, {"divisor": "min", "k": 20}, {"ties": "average"}):
    values = {}
    for backend in ("reference", "native"):
        with drcl.use_backend(backend):
            values[backend] = functional.average_precision(scores, relevant, **options)
    torch.testing.assert_close(*values.values(), rtol=1e-12, atol=1e-13)
report = metrics.retrieval_report(
    {n: (torch.rand(60, 8).numpy(), np.arange(60) % 5) for n in ("image", "text")}
)
assert set(report) == {"mAP@all", "mAP@50"}, report

prior = drcl.Prior.orthogonal(dim=24, classes=5)
features, ids = torch.randn(32, 24), torch.arange(32) % 5
expected = None
for backend, dtype in (("reference", torch.float64), ("eager", None), ("native", None)):
    leaf = features.to(dtype or torch.float32).requires_grad_()
    with drcl.use_backend(backend):
        loss = functional.reversible_consistency_loss(leaf, ids, prior, q=0.5).total
        loss += functional.prior_similarity(leaf, prior, ids, q=0.5).loss
    found = [loss.double(), torch.autograd.grad(loss, leaf)[0].double()]
    expected = expected or found
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

print(f"drcl {info['drcl']} in {sys.prefix}: complete, with torch {info['torch']}")
