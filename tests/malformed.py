"""Requests to a server that must be refused, each for a reason of its own, without end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from asgi import JSON, Asked, search

from drcl.serve import Limits

LIMITS = Limits(body=20_000, rows=4, k=20)
WORDS = (
    "",
    "ids",
    "image-3",
    "../../etc/passwd",
    "\ud800",
    "é\0",
    "</script>",
    "__proto__",
    "9" * 30,
)


def malformed(random: np.random.Generator, width: int) -> Asked:
    """A request to a server of an index of this width, with :data:`LIMITS`."""

    def one_of(*options: Any) -> Any:
        return options[int(random.integers(len(options)))]

    def numbers(count: int) -> list[float]:
        return random.normal(size=count).round(3).tolist()

    def anything() -> Any:
        return one_of(None, True, -1, 0, 1.5, 10**30, "a", "\ud800", [], {}, [[]], [None], {"a": 1})

    good: dict[str, Any] = {"embeddings": [numbers(width)], "k": 3}
    word = one_of(*WORDS)

    def changed(**values: Any) -> Asked:
        return search({**good, **values})

    others = ("/", "/items", "/health", "/metrics")
    lengths = ("-1", "x", "9" * 30, "1" * 5000)
    nowhere = ("/search/", "//", "/items/", "/../etc/passwd", "/static", "/a b")
    constant = one_of("NaN", "Infinity", "-Infinity", "1e999")

    def text(body: str) -> Asked:
        return Asked("POST", "/search", body.encode("utf-8", "surrogatepass"), JSON)

    def raw(body: bytes, **headers: str) -> Asked:
        return Asked("POST", "/search", body, {**JSON, **headers})

    written = json.dumps(good)
    row = json.dumps(numbers(width))
    cases: tuple[Any, ...] = (
        lambda: changed(embeddings=[numbers(width + int(random.integers(1, 9)))]),
        lambda: changed(embeddings=[numbers(int(random.integers(width)))]),
        lambda: changed(embeddings=[numbers(width), numbers(width + 1)]),
        lambda: changed(embeddings=[numbers(width)] * int(random.integers(5, 50))),
        lambda: changed(embeddings=anything()),
        lambda: changed(embeddings=[anything()]),
        lambda: changed(embeddings=[[*numbers(width - 1), one_of(None, True, "1", [], {})]]),
        lambda: changed(embeddings=[[*numbers(width - 1), one_of(1e39, -1e300, 10**390, 1e16)]]),
        lambda: changed(k=one_of(0, -1, 21, 1.0, True, None, "3", [3], 10**40)),
        lambda: changed(modality=one_of("smell", "", [], 7, ["image", 7], {}, ["a"] * 200)),
        lambda: changed(where=one_of("a", [1], {"colour": 1}, {word: 1}, {"kind": {}}, 7)),
        lambda: changed(where={"kind": one_of({}, [[]], ["a"] * 101)}),
        lambda: changed(where={f"c{n}": 1 for n in range(101)}),
        lambda: changed(**{one_of(*WORDS, "K", "run", "path", "file", "queries"): anything()}),
        lambda: changed(ids=[0]),
        lambda: search({"k": 3}),
        lambda: search({"ids": one_of(anything(), [anything()], [word], [0] * 5, [2**63], [-1])}),
        lambda: search({"features": one_of(anything(), {word: [[1]]}, {"image": [[1.0]]})}),
        lambda: search(one_of(None, 7, [], "a", [good], {})),
        lambda: text(written[: int(random.integers(1, len(written) - 1))]),
        lambda: text(written[:-1] + ', "k": 3}'),
        lambda: text(f'{{"embeddings": [{row}], "where": {{"kind": "a", "kind": "b"}}}}'),
        lambda: text(written.replace("[[", f"[[{constant}, ")),
        lambda: text("[" * int(random.integers(2, 9000))),
        lambda: text('{"ids":' * int(random.integers(2, 2000))),
        lambda: text("[" * 5000 + "]" * 5000),
        lambda: text('{"k": ' + "9" * int(random.integers(50, 15000)) + "}"),
        lambda: text('{"embeddings": [[' + "1" * int(random.integers(400, 15000)) + "]]}"),
        lambda: text(one_of("", " ", "\ufeff" + written, "'a'", "{,}", '{"k": 01}', written + "x")),
        lambda: raw(random.bytes(int(random.integers(1, 300)))),
        lambda: raw(written.encode(one_of("utf-16", "utf-32"))),
        lambda: raw(b'{"ids": ["\xff\xfe"]}'),
        lambda: raw(b" " * (LIMITS.body + int(random.integers(1, 9)))),
        lambda: raw(written.encode(), **{"content-length": one_of(*lengths)}),
        lambda: raw(written.encode(), **{"content-type": one_of("", "text/plain", "a" * 5000)}),
        lambda: raw(written.encode(), **{"content-encoding": one_of("gzip", "br", "")}),
        lambda: Asked("POST", "/search", written.encode(), JSON, query=b"k=3"),
        lambda: Asked("POST", "/search", written.encode(), {**JSON, "host": "elsewhere.example"}),
        lambda: Asked(one_of("GET", "PUT", "DELETE", "PATCH", "OPTIONS"), "/search"),
        lambda: Asked(one_of("POST", "PUT"), one_of(*others), b"{}", JSON),
        lambda: Asked("GET", one_of(*nowhere)),
        lambda: Asked("GET", f"/pictures/{one_of('x', '..')}/{one_of('0', '-1', word or 'a')}"),
        lambda: Asked("GET", f"/pictures/{'9' * 5000}/{'9' * 5000}"),
    )  # fmt: skip
    found: Asked = one_of(*cases)()
    return found
