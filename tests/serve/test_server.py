"""A server's answers beside those of the index, what it refuses, and whom it lets in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asgi import JSON, Asked, Client, client, search

from drcl import Index
from drcl.serve import Encoders, Limits

app = pytest.importorskip("drcl.serve.app", reason="serving needs the extra 'serve'")

PNG = bytes.fromhex(  # a single pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da63"
    "f8cfc00000030101002d0b8f6f0000000049454e44ae426082"
)
TOKEN = "a token of many letters".replace(" ", "-")
# Of small integers products are exact, however many queries are in one.
ROWS = torch.randint(-3, 4, (60, 6), generator=torch.Generator().manual_seed(0)).float()
QUERIES = torch.randint(-3, 4, (9, 6), generator=torch.Generator().manual_seed(1)).float()


@dataclass
class Held:
    began: list[int]
    through: threading.Event


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    (place / "a.png").write_bytes(PNG)
    (place / "secret.png").write_text("root:x:0:0")
    pictures = [str(place / "a.png"), str(place / "secret.png"), str(place / "gone.png"), ""]
    index = Index(space="cosine", about={"prior": "p"})
    names = [f"i{n}" for n in range(40)]
    metadata = {"tree": ["oak", "elm"] * 20, "day": [1, 2, 3, None] * 10, "picture": pictures * 10}
    index.add(ROWS[:40], ids=names, modality="image", metadata=metadata)
    index.add(ROWS[40:], ids=[f"t{n}" for n in range(20)], modality="text")
    return index.remove(["i7"]).save(place / "index")


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return Index.load(folder)


def encode(modality: str, features: torch.Tensor, space: str | None) -> torch.Tensor:
    """Twice the width; infinite for what is too large."""
    assert (modality, space) == ("image", "cosine")
    if features.shape[1] != 3:
        raise ValueError(f"image features: expected width 3, got {features.shape[1]}")
    return torch.cat([features, -features], dim=1) * 1e5 * 1e-5


ENCODERS = Encoders(("image",), encode, "p")


@pytest.fixture(scope="module")
def asking(folder: Path) -> Iterator[Client]:
    with client(app.make_app(folder, encoders=ENCODERS)) as one:
        yield one


def ids(reply: Any) -> list[list[Any]]:
    assert reply.status == 200, reply
    return [[hit["item"]["id"] for hit in one["found"]] for one in reply.json["results"]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "modality": "text"},
        {"k": 60, "modality": ["image", "text"], "where": {"tree": "oak"}},
        {"k": 5, "where": {"tree": ["oak", "elm"], "day": [1, None]}},
        {"k": 5, "where": {"tree": "none such"}},
    ],
)
def test_embeddings_find_what_the_index_finds(asking: Client, index: Index, options: Any) -> None:
    reply = asking.search({"embeddings": QUERIES.tolist(), **options})
    expected = index.search(QUERIES, **options)
    assert ids(reply) == expected.ids.tolist()
    for one, scores, numbers in zip(
        reply.json["results"], expected.scores.tolist(), expected.indices.tolist(), strict=True
    ):
        assert one["query"] is None
        assert [hit["score"] for hit in one["found"]] == scores
        assert [hit["number"] for hit in one["found"]] == numbers


def test_numbers_that_float32_would_lose_count(asking: Client, index: Index) -> None:
    small = QUERIES.double() * 1e-44
    assert ids(asking.search({"embeddings": small.tolist()})) == index.search(small).ids.tolist()


def test_items_find_their_neighbours_and_not_themselves(asking: Client, index: Index) -> None:
    reply = asking.search({"ids": ["i3", "t5"], "k": 59})
    rows = index.rows(index.find(["i3", "t5"]))
    for own, found, row in zip(["i3", "t5"], ids(reply), index.search(rows, 59).ids, strict=True):
        assert found == [one for one in row if one != own] and len(found) == 58
    first = reply.json["results"][0]["query"]
    assert first["item"] == {"id": "i3", "modality": "image", "tree": "elm"}
    assert first["number"] == 3 and not first["picture"]


def test_features_are_encoded_first(asking: Client, index: Index) -> None:
    features = QUERIES[:, :3]
    reply = asking.search({"features": {"image": features.tolist()}, "k": 4})
    assert ids(reply) == index.search(torch.cat([features, -features], dim=1), 4).ids.tolist()


def test_batched_requests_get_the_answers_of_single_ones(folder: Path) -> None:
    asked = [
        {"embeddings": QUERIES[n : n + 1 + n % 3].tolist(), "k": 1 + 5 * (n % 4)} for n in range(6)
    ]
    asked += [{"ids": [f"i{n}"], "k": 3} for n in range(6)]
    asked += [{**asked[n], "modality": "image"} for n in range(4)]
    asked.insert(4, {"embeddings": [[1.0]]})
    asked.insert(9, {"ids": ["nobody"]})
    asked.insert(14, {"embeddings": QUERIES[:1].tolist(), "modality": "smell"})
    with client(app.make_app(folder, limits=Limits(wait=0.3))) as one:
        together = one.together(map(search, asked))
        counted = one.get("/metrics").body.decode()
    with client(app.make_app(folder)) as one:
        alone = [one.search(value) for value in asked]
    assert "\ndrcl_batches_total 1\n" in counted and "\ndrcl_queries_total 28\n" in counted
    assert [a.status for a in together] == [a.status for a in alone]
    assert [a.status for a in together].count(200) == 16
    for one_of, other in zip(together, alone, strict=True):
        assert {**one_of.json, "version": ""} == {**other.json, "version": ""}


def test_the_size_of_a_batch_is_limited(folder: Path) -> None:
    with client(app.make_app(folder, limits=Limits(batch=3, wait=0.1))) as one:
        replies = one.together([search({"embeddings": QUERIES[:2].tolist()})] * 6)
        assert {reply.status for reply in replies} == {200}
        assert "\ndrcl_batches_total 3\n" in one.get("/metrics").body.decode()


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ({"embeddings": [[1, 2]]}, 400, "expected width 6, as the index has, got 2"),
        ({"embeddings": [[1] * 6, [1] * 5]}, 400, "rows of one width, got 6 and 5"),
        ({"embeddings": [[1] * 6] * 65}, 400, "a list of 1 to 64 queries, got a list of 65"),
        ({"embeddings": [[1, 2, 3, 4, 5, "6"]]}, 400, "lists of numbers"),
        ({"embeddings": [[1, 2, 3, 4, 5, True]]}, 400, "lists of numbers"),
        ({"embeddings": [[1e39] * 6]}, 400, "numbers within float32"),
        ({"embeddings": [[10**350] * 6]}, 400, "numbers within float32"),
        ({"embeddings": [[1e16] * 6]}, 400, "rows of length 1e+15 at most"),
        ({"embeddings": [[1] * 6], "k": 101}, 400, "k: expected an integer of 1 to 100, got 101"),
        ({"embeddings": [[1] * 6], "k": 0}, 400, "k: expected an integer of 1 to 100, got 0"),
        ({"embeddings": [[1] * 6], "path": "/etc"}, 400, "expected keys of embeddings"),
        ({"embeddings": [[1] * 6], "ids": ["i3"]}, 400, "expected one of embeddings, ids"),
        ({"embeddings": [[1] * 6], "where": {"age": 1}}, 400, "where: expected columns of"),
        ({"embeddings": [[1] * 6], "modality": "x"}, 400, "modality: expected one of"),
        ({"embeddings": [[1] * 6], "where": {"\ud800": 1}}, 400, "columns of ('tree', 'day'), got"),
        (
            {"embeddings": [[1] * 6], "where": {"picture": "x"}},
            400,
            "('tree', 'day'), got 'picture'",
        ),
        ({"embeddings": None}, 400, "queries, got null"),
        ({"embeddings": [[1] * 6], "k": True}, 400, "k: expected an integer of 1 to 100, got true"),
        ({"ids": [[None, False]]}, 400, "got [null, false]"),
        ({"ids": ["i7"]}, 404, "ids: expected ids of the index, got 'i7'"),
        ({"ids": [7]}, 404, "ids: expected ids of the index, got 7; all are strings"),
        ({"features": {"text": [[1]]}}, 400, "features: expected a modality of ('image',)"),
        ({"features": {"image": [[1]]}}, 400, "expected width 3, got 1"),
        ({"features": {"image": [[1, 2, 3e38]]}}, 400, "features: expected such as can be encoded"),
        ([1], 400, "expected a JSON object, got [1]"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(
    asking: Client, value: Any, status: int, words: str
) -> None:
    reply = asking.search(value)
    assert (reply.status, list(reply.json)) == (status, ["error"]) and words in reply.json["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"k": NaN}', "NaN is no number of JSON"),
        (b'{"k": 1, "k": 1}', "the key 'k' is there twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"k": ' + b"1" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"ids": ["\xff"]}', "expected JSON in UTF-8"),
        ('{"ids": ["é"]}'.encode("utf-16"), "expected JSON in UTF-8"),
        (b"", "expected JSON in UTF-8"),
    ],
)
def test_what_is_no_json_is_refused(asking: Client, body: bytes, words: str) -> None:
    reply = asking(Asked("POST", "/search", body, JSON))
    assert reply.status == 400 and words in reply.json["error"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(folder: Path) -> None:
    with client(app.make_app(folder, limits=Limits(body=1000))) as one:
        for told in ({"content-length": "1001"}, {"content-length": "10"}):  # the second lies
            reply = one(Asked("POST", "/search", b" " * 1001, {**JSON, **told}))
            assert reply.status == 413 and "1000 bytes at most" in reply.json["error"]


def test_a_missing_body_times_out_with_408(folder: Path) -> None:
    with client(app.make_app(folder, limits=Limits(patience=0.05))) as one:
        sent: list[Any] = []

        async def ask() -> None:
            scope = {"type": "http", "method": "POST", "path": "/search", "query_string": b""}
            headers = [(b"content-type", b"application/json")]

            async def send(message: Any) -> None:
                sent.append(message)

            await one.app({**scope, "headers": headers}, asyncio.Event().wait, send)

        one.loop.run_until_complete(asyncio.wait_for(ask(), 30))
        assert sent[0]["status"] == 408


def test_excess_requests_get_503_with_retry_after(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, real = threading.Event(), app.answer

    def slow(*arguments: Any) -> Any:
        assert going_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(app, "answer", slow)
    with client(app.make_app(folder, limits=Limits(waiting=3))) as one:
        threading.Timer(0.2, going_on.set).start()
        replies = one.together([search({"ids": ["i3"]})] * 7)
        assert sorted(reply.status for reply in replies) == [200] * 3 + [503] * 4
        busy = [reply for reply in replies if reply.status == 503]
        assert all(reply.headers["retry-after"] == "1" for reply in busy)
        assert one.search({"ids": ["i3"]}).status == 200


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Batches that wait to be let through, and the sizes of those that began."""
    one, real = Held([], threading.Event()), app.answer

    def slow(state: Any, requests: Any, encoders: Any) -> Any:
        one.began.append(len(requests))
        assert one.through.wait(30)
        return real(state, requests, encoders)

    monkeypatch.setattr(app, "answer", slow)
    yield one
    one.through.set()


async def begun(held: Held, batches: int) -> None:
    while len(held.began) < batches:
        await asyncio.sleep(0.001)


def test_requests_whose_client_has_gone_are_not_worked_on(folder: Path, held: Held) -> None:
    with client(app.make_app(folder, limits=Limits(waiting=9))) as one:

        async def leave() -> None:
            first = asyncio.create_task(one.answer(search({"ids": ["i3"]})))
            await begun(held, 1)
            gone = asyncio.Event()
            left = [one.answer(search({"ids": ["i3"]}), gone) for _ in range(8)]
            waiting = asyncio.gather(*left)
            await asyncio.sleep(0.05)
            assert (await one.answer(search({"ids": ["i3"]}))).status == 503
            gone.set()
            assert {reply.status for reply in await waiting} == {499}  # nobody gets it
            last = asyncio.create_task(one.answer(search({"ids": ["i3"]})))
            await asyncio.sleep(0.05)
            held.through.set()
            assert (await first).status == (await last).status == 200

        one.loop.run_until_complete(asyncio.wait_for(leave(), 30))
    assert held.began == [1, 1]


def test_a_request_past_its_deadline_gets_503(folder: Path, held: Held) -> None:
    with client(app.make_app(folder, limits=Limits(deadline=0.2))) as one:

        async def wait() -> None:
            first = asyncio.create_task(one.answer(search({"ids": ["i3"]})))
            await begun(held, 1)
            late = await one.answer(search({"ids": ["i3"]}))
            assert (late.status, late.headers["retry-after"]) == (503, "1")
            assert "not begun within 0.2 s" in late.json["error"]
            held.through.set()
            assert (await first).status == 200  # it was late too, but begun
            assert (await one.answer(search({"ids": ["i3"]}))).status == 200

        one.loop.run_until_complete(asyncio.wait_for(wait(), 30))
    assert held.began == [1, 1]


def test_half_sent_bodies_do_not_block_searches(folder: Path) -> None:
    async def half(sent: list[Any]) -> None:
        parts = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/search", "query_string": b""}
        headers = [(b"content-type", b"application/json")]
        await one.app({**scope, "headers": headers}, receive, send)

    with client(app.make_app(folder, limits=Limits(waiting=2, reading=6, patience=0.3))) as one:

        async def ask() -> None:
            replies: list[list[Any]] = [[] for _ in range(5)]
            halves = asyncio.gather(*map(half, replies))
            await asyncio.sleep(0.05)
            assert (await one.answer(search({"ids": ["i3"]}))).status == 200
            sent: list[Any] = []
            sixth = asyncio.create_task(half(sent))
            await asyncio.sleep(0.02)
            assert (await one.answer(search({"ids": ["i3"]}))).status == 503
            await asyncio.gather(halves, sixth)
            assert {reply[0]["status"] for reply in [*replies, sent]} == {408}
            assert (await one.answer(search({"ids": ["i3"]}))).status == 200

        one.loop.run_until_complete(asyncio.wait_for(ask(), 30))


def test_requests_cut_off_by_shutdown_get_503(folder: Path, held: Held) -> None:
    with client(app.make_app(folder)) as one:

        async def end() -> None:
            asking = asyncio.create_task(one.answer(search({"ids": ["i3"]})))
            await begun(held, 1)
            asking.cancel()
            reply = await asking
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert reply.json == {"error": "the server is ending"}

        one.loop.run_until_complete(asyncio.wait_for(end(), 30))
        held.through.set()


def test_server_errors_leak_no_details(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise OSError("/home/me/index: gone")

    with client(app.make_app(folder)) as one:
        monkeypatch.setattr(app, "answer", broken)
        reply = one.search({"ids": ["i3"]})
    assert reply.status == 503 and "/home" not in reply.body.decode()


def test_a_token_is_asked_for_everywhere_but_on_the_page(folder: Path) -> None:
    with client(app.make_app(folder, token=TOKEN)) as one:
        paths = ["/search", "/items", "/metrics", "/pictures/x/0", "/nowhere"]
        for bad in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "é"):
            for path in paths:
                method = "POST" if path == "/search" else "GET"
                given = {"authorization": bad} if bad else {}
                reply = one(Asked(method, path, headers={**JSON, **given}))
                assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
        assert one.get("/").status == one.get("/health").status == 200
        assert b"oak" not in one.get("/").body
        good = {"authorization": f"Bearer {TOKEN}"}
        asked = search({"ids": ["i3"]})
        assert one(Asked("POST", "/search", asked.body, {**JSON, **good})).status == 200
        assert one.get("/items", **good).status == 200


@pytest.mark.parametrize("token", ["", " " * 20, "ü" * 20, "a" * 16 + "\nb", "short", 7])
def test_weak_or_unsendable_tokens_are_refused(folder: Path, token: Any) -> None:
    with pytest.raises(ValueError, match=r"token: expected a token of 16"):
        app.make_app(folder, token=token)


def test_foreign_host_names_get_421(folder: Path) -> None:
    with client(app.make_app(folder)) as one:
        names = ("localhost", "127.0.0.1:8000", "[::1]:9", "LOCALHOST:1", "[::ffff:7f00:1]:80")
        for host in names:
            assert one.get("/health", host=host).status == 200
        for host in (
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0",
            "[::",
        ):
            reply = one.get("/items", host=host)
            assert reply.status == 421 and "this machine" in reply.json["error"]
    with client(app.make_app(folder, local=False)) as one:
        assert one.get("/health", host="search.example").status == 200


def test_a_page_elsewhere_cannot_search_unasked(asking: Client) -> None:
    """What a browser sends across origins without asking first is no JSON by its type."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        asked = Asked("POST", "/search", b'{"ids": ["i3"]}', {"content-type": kind})
        assert asking(asked).status == 415
    preflight = Asked("OPTIONS", "/search", headers={"origin": "https://evil.example"})
    assert asking(preflight).status == 405
    assert not any(name.startswith("access-control") for name in asking(preflight).headers)


def test_pictures_of_the_index_are_shown_and_nothing_else_is(asking: Client) -> None:
    found = asking.search({"ids": ["i0", "i1", "i2", "i3"], "k": 1}).json
    version = found["version"]
    assert [one["query"]["picture"] for one in found["results"]] == [True, True, True, False]
    reply = asking.get(f"/pictures/{version}/0")
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, PNG, "image/png")
    numbers = ("1", "2", "3", "45", "60", "-1", "1e1", "9" * 30, "9" * 5000, "%2e%2e", "a.png")
    for path in [f"/pictures/{version}/{number}" for number in numbers] + ["/pictures/other/0"]:
        assert asking.get(path).status == 404
    everything = [asking.search({"embeddings": QUERIES.tolist(), "k": 60}), asking.get("/items")]
    assert not any(b".png" in reply.body for reply in everything)


def test_a_picture_goes_with_its_item(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    index = Index().add(torch.eye(3), metadata={"picture": [str(tmp_path / "a.png")] * 3})
    folder = index.remove([1]).save(tmp_path / "index")
    with client(app.make_app(folder)) as one:
        version = one.get("/health").json["version"]
        found = [one.get(f"/pictures/{version}/{number}").status for number in range(4)]
    assert found == [200, 404, 200, 404]


def test_health_and_metrics(folder: Path) -> None:
    with client(app.make_app(folder)) as one:
        health = one.get("/health").json
        assert health.pop("version") and health == {"status": "ok", "items": 59}
        one.search({"ids": ["i3"]})
        one.search({"ids": ["i7"]})
        one.get("/nowhere")
        text = one.get("/metrics").body.decode()
        for line in (
            'drcl_answers_total{path="/search",status="200"} 1',
            'drcl_answers_total{path="/search",status="404"} 1',
            'drcl_answers_total{path="other",status="404"} 1',
            'drcl_search_seconds_bucket{le="+Inf"} 1',
            "drcl_search_seconds_count 1",
            "drcl_index_items 59",
            "drcl_index_stale 0",
        ):
            assert f"\n{line}\n" in text


def test_integers_that_javascript_would_round_are_strings(tmp_path: Path) -> None:
    large = 2**60 + 1
    folder = Index().add(torch.eye(3), ids=[large, -5, 7]).save(tmp_path / "index")
    with client(app.make_app(folder)) as one:
        assert ids(one.search({"embeddings": [[1, 1, 1]]})) == [[str(large), -5, 7]]
        for name in (str(large), large):
            query = one.search({"ids": [name], "k": 1}).json["results"][0]["query"]
            assert query["item"]["id"] == str(large)
        assert ids(one.search({"ids": ["-5", 7], "k": 1})) == [[str(large)]] * 2


def test_large_integers_of_the_metadata_are_strings_that_where_finds(tmp_path: Path) -> None:
    large = 2**53 + 1  # JavaScript would merge it with the one before it
    kinds = [large - 1, large, large - 1, large, -large, "7", str(large)]
    index = Index().add(torch.eye(7), metadata={"kind": [*kinds[:6], kinds[6]], "n": range(7)})
    folder = index.save(tmp_path / "index")
    everything = {"embeddings": [[1] * 7]}
    with client(app.make_app(folder)) as one:
        hits = one.search(everything).json["results"][0]["found"]
        shown = [hit["item"]["kind"] for hit in hits]
        assert shown == [str(kind) for kind in kinds]
        assert [hit["item"]["n"] for hit in hits] == list(range(7))
        for wanted, expected in (
            (str(large), [1, 3, 6]),
            (large, [1, 3]),
            ([str(large - 1), "7"], [0, 2, 5]),
            (str(-large), [4]),
            (7, []),
        ):
            assert ids(one.search({**everything, "where": {"kind": wanted}})) == [expected]
        assert ids(one.search({**everything, "where": {"n": "3"}})) == [[]]


def test_the_page_tells_large_integers_apart(tmp_path: Path) -> None:
    large = 2**53
    kinds = [large, large + 1] * 3
    folder = Index().add(torch.eye(6), metadata={"kind": kinds}).save(tmp_path / "index")
    with client(app.make_app(folder)) as one:
        known = one.get("/items").json
    assert known["classes"] == {"kind": [str(large), str(large + 1)]}
    assert [item["classes"] for item in known["items"]] == [[str(kind)] for kind in kinds]


def test_scores_of_a_shared_product_are_those_of_each_alone_up_to_rounding(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(5)
    rows, queries = (torch.randn(n, 48, generator=random) for n in (300, 40))
    folder = Index().add(rows).save(tmp_path / "index")
    with client(app.make_app(folder, limits=Limits(wait=0.2))) as one:
        asked = [
            search({"embeddings": [row], "k": 1 + n}) for n, row in enumerate(queries.tolist())
        ]
        replies = one.together(asked)
        assert "\ndrcl_batches_total 1\n" in one.get("/metrics").body.decode()
    exact = queries.double() @ rows.double().T
    for n, (reply, products) in enumerate(zip(replies, exact, strict=True)):
        found = reply.json["results"][0]["found"]
        scores = [hit["score"] for hit in found]
        assert len(found) == 1 + n and scores == sorted(scores, reverse=True)
        best = products.sort(descending=True).values[: 1 + n]
        assert scores == pytest.approx(best.tolist(), abs=2e-5)
        own = products[[hit["number"] for hit in found]]
        assert scores == pytest.approx(own.tolist(), abs=2e-5)


def test_features_are_refused_where_the_index_is_of_another_run(folder: Path) -> None:
    with client(app.make_app(folder, encoders=Encoders(("image",), encode, "other"))) as one:
        reply = one.search({"features": {"image": [[1, 2, 3]]}})
        assert reply.status == 409 and "another run" in reply.json["error"]
    with client(app.make_app(folder)) as one:
        reply = one.search({"features": {"image": [[1, 2, 3]]}})
        assert reply.status == 400 and "given no run" in reply.json["error"]


def test_an_index_without_a_run_takes_features_that_are_encoded_to_its_width(
    tmp_path: Path,
) -> None:
    made = Index(space="cosine").add(torch.eye(3)).save(tmp_path / "index")
    with client(app.make_app(made, encoders=Encoders(("image",), lambda *a: a[1], "p"))) as one:
        reply = one.search({"features": {"image": [[1, 2, 3]]}, "k": 1})
        assert reply.json["results"][0]["found"][0]["number"] == 2
        reply = one.search({"features": {"image": [[1, 2]]}})
        assert reply.status == 409 and "width 2, the index has 3" in reply.json["error"]


@pytest.mark.parametrize(
    "name", ["body", "rows", "k", "waiting", "reading", "batch", "wait", "patience", "deadline"]
)
def test_limits_are_positive(name: str) -> None:
    for value in (0, -1, np.nan, "many"):
        with pytest.raises((ValueError, TypeError), match=name):
            Limits(**{name: value})
