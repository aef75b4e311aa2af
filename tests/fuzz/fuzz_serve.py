"""Targets: ``drcl.serve``. What is asked of a server beside what the index itself finds."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asgi import JSON, Asked, client, search
from fuzz_index import Drawn, draw_index, draw_rows
from fuzz_training import scratch
from fuzzing import Draw, refused, target
from malformed import LIMITS, malformed

from drcl.serve import Encoders, Limits, explorer_page, make_app


def saved(drawn: Drawn) -> Path:
    folder = scratch() / "served"
    shutil.rmtree(folder, ignore_errors=True)
    return drawn.index.save(folder)


def found(reply: Any) -> list[list[int]]:
    assert reply.status == 200, reply
    return [[hit["number"] for hit in one["found"]] for one in reply.json["results"]]


@target("drcl.serve.make_app", few=15)
def requests(draw: Draw) -> None:
    """A good request finds what a sort finds; a bad one is refused, however it is bad."""
    drawn = draw_index(draw)
    folder = saved(drawn)
    token = draw.choose("token", None, "0123456789abcdef")
    with client(make_app(folder, token=token, limits=LIMITS)) as one:
        header = {} if token is None else {"authorization": f"Bearer {token}"}

        def ask(asked: Asked) -> Any:
            given = {**header, **(asked.headers or {})}
            return one(Asked(asked.method, asked.path, asked.body, given, asked.query))

        for _ in range(draw.integer("bad requests", 0, 3)):
            bad = malformed(draw.random, drawn.width)
            # of which some may be ids, or columns, of this index
            lucky = bad.path == "/search" and re.search(rb'"(ids|where|modality)"', bad.body)
            assert lucky or 400 <= ask(bad).status < 500, bad
            assert ask(bad).status < 500
        for _ in range(draw.integer("broken requests", 0, 3)):
            good = {"embeddings": draw_rows(draw, 2, drawn.width).tolist(), "k": 3}
            body = bytearray(json.dumps(good).encode())
            for _ in range(draw.integer("bytes", 1, 4)):
                body[int(draw.random.integers(len(body)))] = int(draw.random.integers(256))
            assert ask(Asked("POST", "/search", bytes(body), JSON)).status < 500
        query = draw_rows(draw, draw.integer("Q", 1, 4), drawn.width)
        k = draw.choose("k", 2, 1, 20)
        asked: dict[str, Any] = {"embeddings": query.tolist(), "k": k}
        allowed = np.ones(len(drawn.rows), bool)
        modality = draw.choose("modality", None, "image", "text")
        if modality in drawn.modalities and modality is not None:
            asked["modality"] = draw.choose("as", modality, [modality])
            allowed &= np.array([name == modality for name in drawn.modalities])
        assert found(ask(search(asked))) == drawn.first(query, k, allowed)
        if token is not None:
            assert one(search(asked)).status == 401


@target("drcl.serve.Encoders", few=5)
def encoders(draw: Draw) -> None:
    drawn = draw_index(draw)
    width = drawn.width
    scale = draw.choose("scale", 1.0, math.inf)

    def encode(modality: str, rows: torch.Tensor, space: str | None) -> torch.Tensor:
        assert (modality, space) == ("image", drawn.index.space)
        if rows.shape[1] != width:
            raise ValueError(f"image features: expected width {width}")
        return rows * scale

    made = Encoders(("image",), encode, "its own")  # the index does not name a prior
    fault = draw.fault("width", "modality")
    query = draw_rows(draw, 2, width + (fault == "width"))
    asked = {"features": {"smell" if fault == "modality" else "image": query.tolist()}}
    with client(make_app(saved(drawn), encoders=made)) as one:
        reply = one.search({**asked, "k": 3})
    if fault or scale > 1:
        assert 400 <= reply.status < 500 and "features" in reply.json["error"], reply
    else:
        everything = np.ones(len(drawn.rows), bool)
        assert found(reply) == drawn.first(query, 3, everything)


@target("drcl.serve.Limits", few=10)
def limits(draw: Draw) -> None:
    name = draw.choose("name", "body", "rows", "k", "waiting", "batch", "wait", "patience")
    value = draw.integer("value", 1, 1000)
    assert getattr(Limits(**{name: value}), name) == value  # type: ignore[arg-type]
    with refused(name):
        Limits(**{name: draw.choose("bad", 0, -1, math.nan, "few", None)})  # type: ignore[arg-type]


@target("drcl.serve.explorer_page", few=10)
def page(draw: Draw) -> None:
    drawn = draw_index(draw)
    title = draw.choose("title", "Leaves", "</title><script>", "é\0\u2028")
    if not drawn.kept:
        with refused("index"):
            explorer_page(drawn.index, title)
        return
    html = explorer_page(drawn.index, title)
    assert html.count("<script") == html.count("</script>") == 2
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])["known"]
    assert [item["record"]["id"] for item in data["items"]] == [drawn.ids[n] for n in drawn.kept]
    rows = np.frombuffer(base64.b64decode(data["rows"]), "<f4").reshape(-1, drawn.width)
    assert np.array_equal(rows, drawn.rows[drawn.kept])
    assert all(math.isfinite(x) for item in data["items"] for x in item["place"])
