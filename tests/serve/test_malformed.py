"""Requests that nobody should send: each is refused, and the server goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from asgi import client
from malformed import LIMITS, malformed

from drcl import Index

app = pytest.importorskip("drcl.serve.app", reason="serving needs the extra 'serve'")

TOGETHER = 64


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1500, id="some"),
        pytest.param(100_000, id="many", marks=pytest.mark.long),
    ],
)
def test_malformed_requests_are_refused_and_nothing_breaks(tmp_path: Path, count: int) -> None:
    names, kinds = [f"i-{n}" for n in range(50)], ["a", "b"] * 25
    index = Index().add(torch.eye(50, 8), ids=names, modality="image", metadata={"kind": kinds})
    random = np.random.default_rng(count)
    with client(app.make_app(index.save(tmp_path / "index"), limits=LIMITS)) as one:
        for _ in range(-(-count // TOGETHER)):
            asked = [malformed(random, 8) for _ in range(TOGETHER)]
            for request, reply in zip(asked, one.together(asked), strict=True):
                assert 400 <= reply.status < 500, (request, reply)
                assert list(reply.json) == ["error"] and len(reply.body) < 2000
        reply = one.search({"embeddings": [[0, 1, 0, 0, 0, 0, 0, 0]], "k": 1})
        assert reply.json["results"][0]["found"][0]["item"]["id"] == "i-1"
