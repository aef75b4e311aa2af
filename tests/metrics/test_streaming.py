"""The metric that is fed batch by batch: the function's numbers to the bit, in bounded memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks, process_group
from torch import Tensor

from drcl import metrics
from drcl.metrics import RetrievalMetric, streaming

ROWS, WIDTH = 90, 24
NAMES = ("ant", "bee", "cicada", "dragonfly")


def rows(side: str, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(len(side))
    return torch.randn(ROWS, WIDTH, generator=draw).round(decimals=1).to(dtype)


def labels(kind: str) -> Any:
    ids = (torch.arange(ROWS) * 7) % 5 - 1
    if kind == "names":
        return [NAMES[i] if i >= 0 else None for i in ids.tolist()]
    if kind == "rows":
        return torch.nn.functional.one_hot(ids.clamp(min=0), 4) | torch.eye(4).long()[ids % 3]
    return ids if kind == "ids" else ids.double().masked_fill(ids < 0, float("nan"))


def bits(found: metrics.RetrievalMetrics) -> list[Tensor]:
    tables = [value for value in vars(found).values() if isinstance(value, Tensor)]
    curves = [found.interpolated, found.raw] if found.interpolated else []
    return [part.view(torch.int64) for part in (*tables, *(c.precision for c in curves))]


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(bits(found), bits(expected), strict=True):
        assert torch.equal(one, other)
    assert found.ks == expected.ks


def batches(*sizes: int) -> list[slice]:
    ends = np.cumsum([0, *sizes, ROWS - sum(sizes)])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("block_bytes", [1, 1000, streaming.BLOCK_BYTES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["ids", "names", "rows", "nan"])
def test_batches_give_the_numbers_of_the_function(kind, dtype, block_bytes, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", block_bytes)
    query, gallery, y = rows("query", dtype), rows("gallery", dtype), labels(kind)
    options = {"ks": (1, 5, None), "ndcg": True, "recall_levels": 11}
    metric = RetrievalMetric(**options)
    for part in batches(1, 40):
        metric.update(query[part], y[part], side="query")
    for part in batches(0, 30, 30):
        metric.update(gallery[part], y[part], side="gallery")
    expected = metrics.retrieval_metrics(query, gallery, y, y, **options)
    assert_same(metric.compute(), expected)
    metric.update(query[:7], y[:7], side="gallery")
    more, labels_of_all = torch.cat([gallery, query[:7]]), [*y, *y[:7]]
    if kind != "names":
        labels_of_all = torch.stack(labels_of_all)
    expected = metrics.retrieval_metrics(query, more, y, labels_of_all, **options)
    assert_same(metric.compute(), expected)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 3,000 bytes, of which the options would not let users speak: the least is 2²⁰."""
    original = RetrievalMetric.__init__

    def initialise(self: RetrievalMetric, **options: Any) -> None:
        original(self, **options)
        self._max_bytes = 3000

    monkeypatch.setattr(RetrievalMetric, "__init__", initialise)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("with_ids", [False, True])
def test_what_is_spilled_gives_the_same_bits(with_ids):
    query, gallery, y = rows("query"), rows("gallery"), labels("ids")
    order = torch.randperm(ROWS)
    metric = RetrievalMetric(ks=(3, None))
    for part in batches(10, 10, 10, 50):
        given = {"ids": order[part] + 1000} if with_ids else {}
        metric.update(query[part], y[part], side="query", **given)
        metric.update(gallery[part], y[part], side="gallery", **given)
        assert sum(side.bytes_in_memory for side in metric._sides.values()) <= 3000
    place = order.argsort() if with_ids else torch.arange(ROWS)
    whole = (query[place], gallery[place], y[place], y[place])
    for _ in range(2):  # computing changes nothing, and rows may follow
        assert_same(metric.compute(), metrics.retrieval_metrics(*whole, ks=(3, None)))
    more = {"ids": torch.arange(5)} if with_ids else {}
    metric.update(query[:5], y[:5], side="gallery", **more)
    parts = (query[:5], gallery[place]) if with_ids else (gallery, query[:5])
    known = (y[:5], y[place]) if with_ids else (y, y[:5])
    longer = (query[place], torch.cat(parts), y[place], torch.cat(known))
    assert_same(metric.compute(), metrics.retrieval_metrics(*longer, ks=(3, None)))


def test_rows_may_be_both_sides():
    x, y = rows("query"), labels("ids")
    metric = RetrievalMetric(metric="dot", ties="average", no_relevant="skip")
    for part in batches(45):
        metric.update(x[part].numpy(), y[part].numpy())
    options = {"metric": "dot", "ties": "average", "no_relevant": "skip"}
    assert_same(metric.compute(), metrics.retrieval_metrics(x, x, y, y, **options))


def test_modalities_give_the_report():
    sides = {name: (rows(name), labels("names")) for name in ("image", "text", "sound")}
    metric = RetrievalMetric(ks=(5,))
    for part in batches(20, 33):
        for name, (x, y) in sides.items():
            metric.update(x[part], y[part], modality=name)
    found = metric.compute()
    assert found == metrics.retrieval_report(sides, ks=(5,))
    assert type(found) is metrics.RetrievalReport


@pytest.mark.parametrize("kind", ["ids", "names"])
def test_batches_without_labels_go_with_any(kind):
    x, y = rows("query"), list(labels(kind))
    y[:10] = y[30:35] = [None] * 15
    y[10:15] = y[35:40]
    y = [one if one is None or isinstance(one, str) else int(one) for one in y[:ROWS]]
    metric = RetrievalMetric()
    for part in batches(10, 20, 5):
        metric.update(x[part], y[part])
    assert_same(metric.compute(), metrics.retrieval_metrics(x, x, y, y))


def test_the_caller_may_overwrite_a_batch():
    x, y = rows("query"), labels("ids")
    metric, buffer, known = RetrievalMetric(), torch.empty(45, WIDTH), np.empty(45, np.int64)
    for part in batches(45):
        buffer.copy_(x[part])
        known[:] = y[part]
        metric.update(buffer, known)
    buffer.zero_()
    known[:] = 0
    assert_same(metric.compute(), metrics.retrieval_metrics(x, x, y, y))


def test_the_first_row_of_an_id_counts():
    x, y = rows("query"), labels("ids")
    ids = torch.arange(ROWS) * 3
    metric = RetrievalMetric(ks=(1, None))
    metric.update(x, y, ids=ids)
    metric.update(x[:7] + 1, y[:7], ids=ids[:7].int())
    assert_same(metric.compute(), metrics.retrieval_metrics(x, x, y, y, ks=(1, None)))


@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_further_measures_and_packed_codes_are_those_of_the_function(metric):
    codes = torch.randint(0, 256, (30, 4), generator=torch.manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(30) % 3
    options = {"ks": (3,), "measures": ("hit", "auroc"), "metric": metric}
    found = metrics.RetrievalMetric(**options)
    for part in torch.arange(30).split(7):
        found.update(codes[part], labels[part])
    expected = metrics.retrieval_metrics(codes, codes, labels, labels, **options)
    assert found.compute().summary() == expected.summary()


def test_measures_are_refused_with_modalities():
    found = metrics.RetrievalMetric(measures=("hit",))
    with pytest.raises(ValueError, match="measures: expected none with modalities"):
        found.update(torch.eye(2), [0, 1], modality="image")
    with pytest.raises(ValueError, match="measures: expected functions or names"):
        metrics.RetrievalMetric(measures=("hit_rate",))


def test_reset_forgets_all():
    metric = RetrievalMetric(ks=())
    metric.update(rows("query"), labels("names"), modality="image")
    metric.reset()
    with pytest.raises(ValueError, match="expected rows of each, got none of query, gallery"):
        metric.compute()
    metric.update(rows("text", torch.float64), labels("ids"))
    x, y = rows("text", torch.float64), labels("ids")
    assert_same(metric.compute(), metrics.retrieval_metrics(x, x, y, y, ks=()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"side": "left"}, "side: expected one of"),
        ({"side": "query", "modality": "image"}, "side: expected none beside a modality"),
        ({"modality": "image"}, "modality: expected in every update or in none"),
        ({"labels": [0, 1]}, "labels: expected 3 ids"),
        (
            {"labels": ["a", "b", "c"]},
            "query: expected width 24, torch.float32, without ids, class ids",
        ),
        ({"embeddings": torch.ones(3, 23)}, "query: expected width 24, .* got width 23"),
        ({"embeddings": torch.ones(3, 24).double()}, "query: .* got width 24, torch.float64"),
        ({"embeddings": torch.ones(3)}, "embeddings: expected"),
        ({"ids": [1, 2, 3]}, "query: expected .* without ids, .* as before, got .* with ids"),
        ({"ids": [1, 2]}, "ids: expected 3 integers"),
        ({"ids": [1.0, 2.0, 3.0]}, "ids: expected 3 integers"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(call, message):
    x, y = rows("query"), labels("ids")
    metric = RetrievalMetric()
    metric.update(x, y)
    given = {"embeddings": x[:3], "labels": y[:3], **call}
    with pytest.raises(ValueError, match=message):
        metric.update(given.pop("embeddings"), given.pop("labels"), **given)
    assert_same(metric.compute(), metrics.retrieval_metrics(x, x, y, y))


SIDES = {
    "sides": ({"side": "query"}, {"side": "gallery"}, "gallery", "query"),
    "modalities": ({"modality": "image"}, {"modality": "text"}, "text", "image"),
}


@pytest.mark.parametrize("kind", SIDES)
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("ids", (23, "ids"), r"expected rows \(n, 24\), as of {}, got \(90, 23\)"),
        ("ids", (24, "names"), "expected class ids, as of {}, got class names"),
        ("names", (24, "nan"), "expected class names, as of {}, got class ids"),
        ("ids", (24, "rows"), "expected class ids, as of {}, got rows of 4 labels"),
        ("rows", (24, "ids"), "expected rows of 4 labels, as of {}, got class ids"),
        ("rows", (24, "none"), "expected rows of 4 labels, as of {}, got no labels"),
        ("none", (24, "rows"), "expected no labels, as of {}, got rows of 4 labels"),
        ("rows", (24, "wide"), "expected rows of 4 labels, as of {}, got rows of 5 labels"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused_at_once(kind, first, second, message):
    one, other, name, before = SIDES[kind]
    width, second = second
    known = {"none": [None] * ROWS, "wide": torch.ones(ROWS, 5).long()}
    known |= {each: labels(each) for each in ("ids", "names", "nan", "rows")}
    metric = RetrievalMetric(ks=())
    metric.update(rows("query"), known[first], **one)
    with pytest.raises(ValueError, match=f"^{name}: {message.format(before)}"):
        metric.update(rows("gallery")[:, :width], known[second], **other)
    if first != "none":  # and what was there before can go on
        metric.update(rows("gallery"), known[first], **other)
        assert metric.compute()


@pytest.mark.parametrize("kind", ["ids", "names", "minus"])
def test_a_side_without_labels_goes_with_ids_and_names(kind):
    """Whatever the functions take; −1 alone says nothing of the kind."""
    y = torch.full((ROWS,), -1) if kind == "minus" else labels(kind)
    for one, other in ((y, [None] * ROWS), (torch.full((ROWS,), -1), y)):
        metric = RetrievalMetric(on_empty="nan")
        metric.update(rows("query"), one, side="query")
        metric.update(rows("gallery"), other, side="gallery")
        expected = metrics.retrieval_metrics(
            rows("query"), rows("gallery"), one, other, on_empty="nan"
        )
        assert_same(metric.compute(), expected)


def test_rows_that_are_no_codes_are_refused_at_once():
    metric = RetrievalMetric(metric="hamming")
    with pytest.raises(ValueError, match=r"embeddings: expected codes .* got torch\.float32"):
        metric.update(rows("query"), labels("ids"))


def test_what_a_report_does_not_take_is_refused_with_the_first_modality():
    for options, message in (
        ({}, r"ks: expected cut-offs beside the whole gallery, got \(None,\)"),
        ({"ks": (1,), "ndcg": True}, "ndcg: expected no such option here"),
    ):
        metric = RetrievalMetric(**options)
        with pytest.raises((ValueError, TypeError), match=message):
            metric.update(rows("query"), labels("ids"), modality="image")
        metric.update(rows("query"), labels("ids"))


def test_options_are_checked_at_once():
    with pytest.raises(TypeError, match="exclude_self: expected no such option"):
        RetrievalMetric(exclude_self=True)
    with pytest.raises(TypeError, match="level: expected one of the options"):
        RetrievalMetric(level=3)
    with pytest.raises(ValueError, match="ks: expected a sequence"):
        RetrievalMetric(ks=5)
    with pytest.raises(ValueError, match="max_bytes: expected an integer >= 1048576, got 5"):
        RetrievalMetric(max_bytes=5)


def share(rank: int, world: int) -> Tensor:
    """The rows of a rank as a DistributedSampler shares and pads them: every world-th, as many."""
    padded = torch.arange(-(-ROWS // world) * world) % ROWS
    return padded[rank::world]


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1 + rank % 2)
    with process_group(rank, world, folder):
        group = torch.distributed.group.WORLD
        mine, tables = share(rank, world), {}
        for limit in (2**20, 3000):
            for kind in ("ids", "names", "rows"):
                y = labels(kind)
                known = [y[i] for i in mine] if kind == "names" else y[mine]
                metric = RetrievalMetric(ks=(1, None), process_group=group)
                metric._max_bytes = limit
                half = len(mine) // 2
                for part in (slice(0, half), slice(half, None)):
                    for side in ("query", "gallery"):
                        x = rows(side)[mine]
                        metric.update(x[part], known[part], side=side, ids=mine[part])
                tables[f"{kind} {limit}"] = bits(metric.compute())
        in_order = RetrievalMetric(process_group=group)
        in_order.update(rows("query")[rank::world], labels("ids")[rank::world])
        tables["in order"] = bits(in_order.compute())
        torch.save(tables, f"{folder}/{rank}.pt")
        report = RetrievalMetric(ks=(5,), process_group=group)
        for name in ("image", "text") if rank else ("text", "image"):
            report.update(rows(name)[mine], labels("ids")[mine], modality=name, ids=mine)
        Path(folder, f"{rank}.json").write_text(report.compute().to_json())
        messages = []
        for width, side in ((WIDTH - rank, "both"), (WIDTH, "both" if rank else "query")):
            metric = RetrievalMetric(process_group=group)
            metric.update(torch.ones(3, width), [0, 1, 2], side=side)
            try:
                metric.compute()
            except Exception as error:
                messages.append(f"{type(error).__name__}: {error}")
        Path(folder, f"{rank}.txt").write_text("\n".join(messages))


@pytest.mark.parametrize("world", [2, 3, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_find_together_what_one_process_finds(world, tmp_path):
    on_ranks(_rank, world, world, str(tmp_path))
    x, g = rows("query"), rows("gallery")
    order = torch.cat([torch.arange(ROWS)[rank::world] for rank in range(world)])
    y = labels("ids")[order]
    expected = {"in order": bits(metrics.retrieval_metrics(x[order], x[order], y, y))}
    for kind in ("ids", "names", "rows"):
        whole = metrics.retrieval_metrics(x, g, labels(kind), labels(kind), ks=(1, None))
        expected |= {f"{kind} {limit}": bits(whole) for limit in (2**20, 3000)}
    sides = {name: (rows(name), labels("ids")) for name in ("text", "image")}
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for case, tables in expected.items():
            assert all(map(torch.equal, found[case], tables)), case
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        assert report == metrics.retrieval_report(sides, ks=(5,))
        kinds, missing = (tmp_path / f"{rank}.txt").read_text().splitlines()
        assert kinds.startswith(
            "ValueError: process_group: expected rows of one kind on every rank"
        )
        named = "ValueError: query, gallery: expected rows of each, got none of gallery"
        assert missing == named if rank == 0 else missing.startswith("RankFailed: rank 0 failed")


@pytest.mark.parametrize(("limit", "width"), [(32, 64), (256, 128)])
def test_a_million_rows_stay_within_the_limit(limit, width):
    """Of 256 or 512 MB of embeddings; counted by the system, as memory that no file holds.

    Every batch is a new one, and what the last one took must be used again.
    """
    code = f"""
import torch
from drcl import metrics

def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

torch.set_num_threads(1)
metric = metrics.RetrievalMetric(ks=(10,), max_bytes={limit} * 2**20)
metric.update(torch.randn(10, {width}), torch.arange(10), side="query")
before = peak = memory()
for number in range(100):
    x = torch.randn(10_000, {width})
    metric.update(x, torch.arange(10_000) % 1000, side="gallery")
    peak = max(peak, memory())
del x
print(peak - before, memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, after = map(float, done.stdout.split())
    # 9 bytes a row of labels, the caller's two batches and as much for one update, the rest
    others = 9 + 4 * 10_000 * width * 4 / 2**20 + 4
    assert peak < limit + others
    assert after < limit  # what went to the file is no longer in memory
