"""``drcl score --scores``: the numbers of the library, of a matrix that is there already."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_cli import refused, succeed
from test_score import rows_of

from drcl import metrics

QUERY_LABELS, ITEM_LABELS = np.arange(20) % 4, np.arange(50) % 4


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    same = QUERY_LABELS[:, None] == ITEM_LABELS
    found = (same + draw.normal(size=same.shape)).astype(np.float32)
    np.save("cross.npy", found)
    np.save("queries.npy", QUERY_LABELS)
    np.save("items.npy", ITEM_LABELS)
    return found


LABELS = ("--labels", "queries.npy", "--labels", "items.npy")


@pytest.mark.parametrize(
    "file", ["cross.npy", "cross.npz", "cross.npz:c", "cross.safetensors", "cross.csv"]
)
def test_it_prints_the_measures_of_the_library(scores: np.ndarray, file: str) -> None:
    np.savez("cross.npz", c=scores)
    save_file({"c": torch.from_numpy(scores)}, "cross.safetensors")
    np.savetxt("cross.csv", scores, delimiter=",", fmt="%.9g")
    output = succeed("score", "--scores", file, *LABELS, "--k", 1, 10)
    assert output.startswith(f"{file}: 20 queries, 50 items\n\n")
    rows = rows_of(output)
    of_library = metrics.score_metrics(
        scores, QUERY_LABELS, ITEM_LABELS, ks=(1, 10, None), ndcg=True
    ).summary()
    for name in ("mAP@all", "mAP@10", "recall@1", "nDCG@10"):
        assert rows[name][0] == f"{of_library[name]:.4f}"


def test_one_file_of_labels_serves_a_square_matrix_and_a_query_need_not_find_itself(
    scores: np.ndarray,
) -> None:
    square = scores[:, :20]
    np.save("square.npy", square)
    given = ("--labels", "queries.npy", "--exclude-self", "--ties", "average", "--divisor", "min")
    rows = rows_of(succeed("score", "--scores", "square.npy", *given))
    of_library = metrics.score_metrics(
        square,
        QUERY_LABELS,
        QUERY_LABELS,
        exclude_self=True,
        ties="average",
        divisor="min",
        ks=(5,),
    )
    assert rows["mAP@5"][0] == f"{of_library.summary()['mAP@5']:.4f}"


def test_pairs_and_rows_are_the_relevance(scores: np.ndarray) -> None:
    pairs = np.stack([np.arange(20), np.arange(20) + 30], axis=1)
    np.save("pairs.npy", pairs)
    rows = rows_of(succeed("score", "--scores", "cross.npy", "--pairs", "pairs.npy"))
    of_library = metrics.score_metrics(scores, relevance=pairs, ks=(10,))
    assert rows["recall@10"][0] == f"{of_library.summary()['recall@10']:.4f}"
    np.save("square.npy", scores[:, :20])
    rows = rows_of(succeed("score", "--scores", "square.npy", "--pairs", "rows"))
    of_library = metrics.score_metrics(scores[:, :20], relevance=np.eye(20, dtype=bool), ks=(10,))
    assert rows["recall@10"][0] == f"{of_library.summary()['recall@10']:.4f}"


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_pairs_of_a_gallery_of_two_are_no_matrix(scores: np.ndarray, queries: int) -> None:
    pairs = np.array([[0, 1], [1, 0], [2, 0]])[:queries]
    matrix = np.zeros((queries, 2), bool)
    matrix[pairs[:, 0], pairs[:, 1]] = True
    np.save("two.npy", scores[:queries, :2])
    np.save("pairs.npy", pairs)
    output = rows_of(succeed("score", "--scores", "two.npy", "--pairs", "pairs.npy"))
    right = metrics.score_metrics(scores[:queries, :2], relevance=matrix).summary()["mAP@all"]
    assert output["mAP@all"][0] == f"{right:.4f}"
    left, items = scores[:queries, :5], scores[10:12, :5]
    np.savez("rows.npz", left=left, items=items)
    output = rows_of(succeed("score", "rows.npz:left", "rows.npz:items", "--pairs", "pairs.npy"))
    both = (left, items, matrix), (items, left, matrix.T)
    found = [metrics.retrieval_metrics(x, y, relevance=m).summary()["mAP@all"] for x, y, m in both]
    assert output["mAP@all"][:2] == [f"{value:.4f}" for value in found]


def test_systems_are_compared_and_written(scores: np.ndarray) -> None:
    np.save("worse.npy", scores + 5 * np.random.default_rng(1).normal(size=scores.shape))
    output = succeed(
        "score", "--scores", "cross.npy", *LABELS, "--against", "worse.npy", "--out", "out"
    )
    assert "worse.npy" in output
    record = json.loads(Path("out/scores.json").read_text())
    assert record["scores"] == "cross.npy" and "metric" not in record["options"]
    systems = [
        metrics.score_metrics(np.load(name), QUERY_LABELS, ITEM_LABELS)
        for name in ("cross.npy", "worse.npy")
    ]
    one, other = (found.summary()["mAP@all"] for found in systems)
    (compared,) = record["compared"]["with"]
    assert compared["against"] == "worse.npy"
    assert compared["difference"] == pytest.approx(one - other)
    assert Path("out/pr.pdf").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--scores", "none.npy", *LABELS), "none.npy"),
        (("--scores", "queries.npy", *LABELS), r"queries.npy: expected scores \(Q, N\).*\(20,\)"),
        (("--scores", "nan.npy", *LABELS), "nan.npy: row 3 holds NaN"),
        (("--scores", "names.npy", *LABELS), r"names.npy: expected scores \(Q, N\).* \(20, 50\)"),
        (("--scores", "empty.npy", *LABELS), r"empty.npy: expected scores .* \(20, 0\)"),
        (("--scores", "cross.npy"), "--labels once or twice, or --pairs"),
        (
            ("--scores", "cross.npy", "--labels", "queries.npy"),
            r"queries.npy: expected --labels twice, for the rows of cross.npy .* \(20, 50\)",
        ),
        (
            ("--scores", "cross.npy", *LABELS[2:], *LABELS[:2]),
            r"items.npy: .*\(20, 50\).*save the transpose of cross.npy",
        ),
        (
            ("--scores", "cross.npy", *LABELS, "--against", "turned.npy"),
            r"turned.npy: expected scores \(20, 50\), as in cross.npy, got \(50, 20\)",
        ),
        (("--scores", "cross.npy", "--pairs", "rows"), "as many rows on both sides"),
        (("--scores", "cross.npy", *LABELS, "--metric", "dot"), "metric: expected none with"),
        (("cross.npy", "--scores", "cross.npy", *LABELS), "image: expected none with --scores"),
        (("--scores", "cross.npy", "--run", "a", "--qrels", "b"), "scores: expected none with"),
    ],
)
def test_what_does_not_fit_is_refused(
    scores: np.ndarray, given: tuple[str, ...], message: str
) -> None:
    bad = scores.copy()
    bad[3, 7] = np.nan
    np.save("nan.npy", bad)
    np.save("names.npy", scores.astype(str))
    np.save("empty.npy", scores[:, :0])
    np.save("turned.npy", scores.T)
    assert re.search(message, refused("score", *given), re.DOTALL)
