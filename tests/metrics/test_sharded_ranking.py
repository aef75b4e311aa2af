"""A gallery in pieces over ranks against one process that holds all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks, process_group
from torch import Tensor

from drcl.metrics import retrieval_metrics, retrieval_report
from drcl.metrics.measures import MEASURES

ITEMS = 100
# Where the pieces begin and end: uneven, one of them a single item.
PIECES = {2: (0, 61, 100), 4: (0, 11, 12, 60, 100)}


def _random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rows(count: int, seed: int, ties: bool) -> Tensor:
    """Whole numbers, whose products tie often, also across the pieces; or real ones."""
    return _random(count, 3, seed=seed).mul(5).floor() - 2 if ties else _random(count, 6, seed=seed)


def _two_sets(ties: bool) -> dict[str, Any]:
    return {
        "query": _rows(40, 0, ties),
        "gallery": _rows(ITEMS, 1, ties),
        "metric": "dot" if ties else "cosine",
        "ks": (5, None, 300),
        "ndcg": True,
    }


def _labels(*unlabelled: int) -> dict[str, Any]:
    query, gallery = ((_random(n, seed=n) * 5).long() for n in (40, ITEMS))
    gallery[:11] = 2  # a piece without most classes
    gallery[list(unlabelled)] = query[3] = -1
    return {"query_labels": query, "gallery_labels": gallery}


def _signs(*zeros: int) -> dict[str, Any]:
    """Two classes −1 and 1, unless any piece has a third: then −1 means unlabelled in all."""
    query, gallery = (_random(n, seed=n).sub(0.5).sign().long() for n in (40, ITEMS))
    gallery[list(zeros)] = 0
    return {"query_labels": query, "gallery_labels": gallery}


def _gains() -> Tensor:
    """Grades of 0 to 3; nothing is relevant in the last pieces, and all of a row is."""
    gains = (_random(40, ITEMS, seed=5) * 4).long() * (_random(40, ITEMS, seed=6) < 0.3)
    gains[:, 60:] = 0
    gains[7] = 1
    return gains


# One query group without items, and one whose items are all in one piece.
GROUPS = {"query_groups": torch.arange(40) % 5, "gallery_groups": torch.arange(ITEMS) % 3}
GROUPS["gallery_groups"][11] = 3


def _one_set(ties: bool) -> dict[str, Any]:
    x, labels = _rows(ITEMS, 1, ties), (_random(ITEMS, seed=8) * 5).long()
    labels[[5, 70]] = -1
    sets = {"query": x, "gallery": x, "query_labels": labels, "gallery_labels": labels}
    return {**_two_sets(ties), **sets, "exclude_self": True}


def _groups_of_one_set() -> dict[str, Any]:
    groups = torch.arange(ITEMS) % 7
    groups[99] = 50  # alone: it ranks nothing
    return {"query_groups": groups, "gallery_groups": groups}


def _far() -> dict[str, Any]:
    """Rows so long that their products leave float32: the piece that has them takes float64."""
    query, gallery = _rows(40, 0, True).float(), _rows(ITEMS, 1, True).float()
    gallery[-30:] *= 2.0**55
    return {**_two_sets(True), **_labels(), "query": query, "gallery": gallery}


def _multi() -> dict[str, Any]:
    return {
        "query_labels": _random(40, 70, seed=3) < 0.05,
        "gallery_labels": _random(ITEMS, 70, seed=4) < 0.05,
    }


CASES: dict[str, dict[str, Any]] = {
    "labels": {**_two_sets(True), **_labels(50), "recall_levels": 6},
    "real scores": {**_two_sets(False), **_labels(), "recall_levels": 6},
    "euclidean": {**_two_sets(False), **_labels(), "metric": "euclidean"},
    "a piece without labels": {**_two_sets(True), **_labels(*range(12)), "no_relevant": "skip"},
    "multi-label": {**_two_sets(True), **_multi()},
    "top": {**_two_sets(True), **_labels(), "ks": (3, 7), "divisor": "min"},
    "small blocks": {**_two_sets(True), **_labels(), "max_bytes": 2**20},
    "two dtypes": _far(),
    "minus one and one": {**_two_sets(True), **_signs()},
    "minus one and one, and one other": {**_two_sets(True), **_signs(99)},
    "pairs": {**_two_sets(True), "relevance": "pairs"},
    "sparse": {**_two_sets(False), "relevance": "sparse"},
    "function": {**_two_sets(True), "relevance": "function", "divisor": "relevant"},
    "groups": {**_two_sets(True), **_labels(), **GROUPS},
    "groups of pairs": {**_two_sets(True), "relevance": "pairs", **GROUPS},
    "one set": {**_one_set(True), "recall_levels": 5},
    "one set, real scores": _one_set(False),
    "one set in groups": {**_one_set(True), **_groups_of_one_set()},
    "measures": {**_two_sets(True), **_labels(50), "measures": tuple(MEASURES), "recall_levels": 6},
    "measures of a part": {**_two_sets(True), **_labels(), "ks": (3,), "measures": ("rbp", "f1")},
    "measures of grades": {
        **_two_sets(True),
        "relevance": "function",
        "measures": tuple(MEASURES),
    },
    "measures of real gains": {
        **_two_sets(True),
        "relevance": "real",
        "measures": tuple(MEASURES),
        "ndcg": True,
    },
    "measures of grades, averaged ties": {
        **_two_sets(True),
        "relevance": "real",
        "measures": tuple(MEASURES),
        "ties": "average",
        "ndcg": True,
    },
    "excluded": {
        **_two_sets(True),
        **_labels(),
        "excluded": _random(40, ITEMS, seed=9) < 0.3,
        "excluded_groups": (torch.arange(40) % 5, torch.arange(ITEMS) % 3),
        "measures": ("fall_out", "bpref"),
    },
    "queries of the gallery": {
        **_two_sets(True),
        **_labels(),
        "exclude_self": torch.arange(40) * 2,
        "measures": ("auroc",),
    },
    "averaged ties": {**_two_sets(True), **_labels(), "ties": "average"},
    "averaged ties by min": {**_two_sets(True), **_labels(), "ties": "average", "divisor": "min"},
    "averaged ties of grades": {**_two_sets(True), "relevance": "function", "ties": "average"},
    "averaged ties in groups": {
        **_one_set(True),
        **_groups_of_one_set(),
        "ties": "average",
        "ks": (4,),
    },
}


# Queries of two modalities, of one of them fewer than there are ranks, some without a label.
REPORT = {
    "image": (_rows(3, 11, False), torch.tensor([2, -1, 1])),
    "text": (_rows(41, 12, False), (_random(41, seed=13) * 5).long() - 1),
}


def _evaluate(case: str, mine: slice, **options: Any) -> list[Tensor]:
    """Everything that is found with this piece of the gallery."""
    arguments = dict(CASES[case])
    for name in ("gallery", "gallery_labels", "gallery_groups"):
        if name in arguments:
            arguments[name] = arguments[name][mine]
    if "excluded" in arguments:
        query_groups, gallery_groups = arguments["excluded_groups"]
        arguments["excluded"] = arguments["excluded"][:, mine]
        arguments["excluded_groups"] = query_groups, gallery_groups[mine]
    gains = _gains()[:, mine]
    if arguments.get("relevance") == "pairs":
        arguments["relevance"] = torch.cat([gains.nonzero(), gains[gains > 0][:, None]], dim=1)
    elif arguments.get("relevance") == "sparse":
        import scipy.sparse

        arguments["relevance"] = scipy.sparse.coo_matrix(gains.numpy())
    elif arguments.get("relevance") == "real":  # whole on the first rank of two
        arguments["relevance"] = torch.where(torch.arange(ITEMS)[mine] < 61, 1.0, 0.3) * gains
    elif arguments.get("relevance") == "function":
        arguments["relevance"] = lambda rows: gains[rows]
    found = retrieval_metrics(**arguments, **options)
    curves = [found.interpolated, found.raw] if found.interpolated else []
    measures = [value for value in vars(found).values() if isinstance(value, Tensor)]
    measures += found.measures.values()
    return [*measures, *(curve.precision for curve in curves)]


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1 + rank % 2)
    with process_group(rank, world, folder):
        mine = slice(*PIECES[world][rank : rank + 2])
        group = torch.distributed.group.WORLD
        found = {case: _evaluate(case, mine, process_group=group) for case in CASES}
        torch.save(found, f"{folder}/{rank}.pt")
        Path(folder, f"{rank}.json").write_text(
            json.dumps(retrieval_report(REPORT, process_group=group))
        )
        messages = []
        x, ids = torch.ones(4, 2), torch.arange(4)
        for arguments in (
            {"query": x[: 3 + rank % 2], "query_labels": ids[: 3 + rank % 2]},
            {"exclude_self": True},
            {"gallery_labels": -torch.ones(4)},
            {
                "query_labels": None,
                "gallery_labels": None,
                "relevance": torch.full((4, 4), 0.5) if rank else lambda rows: torch.ones(4, 4) > 0,
            },
        ):
            whole = {"query": x, "gallery": x, "query_labels": ids, "gallery_labels": ids}
            try:
                retrieval_metrics(**{**whole, **arguments}, process_group=group)  # type: ignore[arg-type]
            except ValueError as error:
                messages.append(str(error))
        Path(folder, f"{rank}.txt").write_text("\n".join(messages))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every rank found; the processes are started once for all cases."""
    pytest.importorskip("scipy.sparse")
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    on_ranks(_rank, world, world, str(folder))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_pieces_are_one_gallery(ranks: Path, case: str) -> None:
    expected = _evaluate(case, slice(0, ITEMS))
    found = [torch.load(file, weights_only=True)[case] for file in sorted(ranks.glob("*.pt"))]
    assert bool(expected[0].nansum() > 0)
    for values in found:
        for ours, whole in zip(values, expected, strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12, equal_nan=True)
        for ours, first in zip(values, found[0], strict=True):  # bit for bit, NaN like NaN
            assert torch.equal(ours.view(torch.int64), first.view(torch.int64))


def test_a_report_shares_out_the_queries(ranks: Path) -> None:
    expected, files = retrieval_report(REPORT), list(ranks.glob("*.json"))
    assert len(files) in PIECES
    for file in files:
        found = json.loads(file.read_text())
        assert list(found) == list(expected)
        for name, pairs in expected.items():
            assert found[name] == pytest.approx(pairs, rel=1e-12)


def test_refusals_are_the_same_on_every_rank(ranks: Path) -> None:
    files = list(ranks.glob("*.txt"))
    for file in files:
        queries, one_set, labels, gains = file.read_text().splitlines()
        assert "query: expected all queries on every rank of process_group, got [3, 4" in queries
        assert (
            f"expected one set as query and gallery, got 4 queries and {4 * len(files)} items"
            in one_set
        )
        assert f"expected a labelled item, got −1 for all {4 * len(files)} items" in labels
        assert gains == (
            "relevance: expected pairs or a matrix on every rank where gains are not whole"
        )
