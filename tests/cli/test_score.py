"""``drcl score``: the numbers of the library, from files alone, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_cli import drcl_command, refused, snapshot, succeed

from drcl import metrics

LABELS = np.arange(60) % 5
NAMES = np.array(["ash", "birch", "cedar", "date palm", "elm"])[LABELS]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(5, 8))
    return {
        f"{system}{side}": centres[LABELS] + noise * draw.normal(size=(60, 8))
        for system, noise in (("", 1.5), ("poor_", 4.0))
        for side in ("image", "text")
    }


@pytest.fixture
def folder(arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, rows in arrays.items():
        np.save(tmp_path / f"{name}.npy", rows)
    lines = [f"{row}.jpg,{name}" for row, name in enumerate(NAMES)]
    (tmp_path / "captions.csv").write_text("\n".join(["file,class", *lines]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(arrays: dict[str, np.ndarray], **options: object) -> list[metrics.RetrievalMetrics]:
    sides = arrays["image"], arrays["text"]
    options = {"query_labels": LABELS, "gallery_labels": LABELS, "ndcg": True, **options}
    return [metrics.retrieval_metrics(x, y, **options) for x, y in (sides, sides[::-1])]


def rows_of(text: str) -> dict[str, list[str]]:
    """First column -> the other cells, which two blanks part at least."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return {line[0]: line[1:] for line in lines}


def test_it_prints_the_measures_of_the_library(folder, arrays):
    output = succeed("score", "image.npy", "text.npy", "--labels", "captions.csv:class")
    assert output.startswith("image: 60 rows, text: 60 rows\n\n")
    rows = rows_of(output)
    assert rows["measure"] == ["image → text", "text → image", "mean"]
    one, other = (found.summary() for found in expected(arrays, ks=(1, 5, 10, None)))
    assert set(one) - set(rows) == {"recall@all", "precision@all"}
    for name in set(one) & set(rows):
        mean = (one[name] + other[name]) / 2
        assert rows[name] == [f"{one[name]:.4f}", f"{other[name]:.4f}", f"{mean:.4f}"]
    assert list(folder.iterdir()) and not (folder / "scores").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("--k", 3, 7, "image.npy", "text.npy"),
        ("image.npy", "--k", 3, 7, "text.npy"),
        ("image.npy", "text.npy", "--k", 3, 7),
        ("image.npy", "text.npy", "--k", 3, "--k", 7),
        ("image.npy", "text.npy", "--k=3", "--k", 7),
    ],
)
def test_cutoffs_are_listed_in_any_place(folder, given):
    rows = rows_of(succeed("score", *given, "--labels", "captions.csv:class"))
    assert [name for name in rows if name.startswith("mAP")] == ["mAP@3", "mAP@7", "mAP@all"]


def test_pairs_of_rows_and_pairs_from_a_file_are_the_relevance(folder, arrays):
    np.save("same.npy", np.stack([np.arange(60)] * 2, axis=1)[::-1])
    np.save("next.npy", np.stack([np.arange(60), (np.arange(60) + 1) % 60], axis=1))
    sides = ("image.npy", "text.npy", "--k", 5)
    output = succeed("score", *sides, "--pairs", "rows")
    assert succeed("score", *sides, "--pairs", "same.npy") == output
    moved = rows_of(succeed("score", *sides, "--pairs", "next.npy"))
    pairs, ks = np.load("next.npy"), (5, None)
    one = metrics.retrieval_metrics(arrays["image"], arrays["text"], relevance=pairs, ks=ks)
    other = metrics.retrieval_metrics(
        arrays["text"], arrays["image"], relevance=pairs[:, ::-1].copy(), ks=ks
    )
    means = [f"{found.summary()['recall@5']:.4f}" for found in (one, other)]
    assert moved["recall@5"][:2] == means


def test_options_are_those_of_the_library(folder, arrays):
    np.save("text_labels.npy", LABELS + 1)
    given = ("--labels", "captions.csv:class", "--labels", "captions.csv:class")
    given += ("--metric", "euclidean", "--divisor", "min", "--ties", "average", "--k", 5)
    rows = rows_of(succeed("score", "image.npy", "text.npy", *given, "--exclude-self"))
    options = {"metric": "euclidean", "divisor": "min", "ties": "average", "exclude_self": True}
    one, _ = expected(arrays, ks=(5, None), **options)
    assert rows["mAP@5"][0] == f"{one.summary()['mAP@5']:.4f}"
    np.save("labels.npy", LABELS)
    shifted = ("--labels", "labels.npy", "--labels", "text_labels.npy", "--k", 5)
    rows = rows_of(succeed("score", "image.npy", "text.npy", *shifted))
    one, _ = expected(arrays, ks=(5, None), gallery_labels=LABELS + 1)
    assert rows["mAP@5"][0] == f"{one.summary()['mAP@5']:.4f}"


def test_further_measures_are_those_of_the_library(folder, arrays):
    names = ("hit", "ap_at_r", "reciprocal_rank")
    given = (
        "--labels",
        "captions.csv:class",
        "--k",
        5,
        "--measures",
        "hit, ap_at_r,reciprocal_rank",
    )
    rows = rows_of(succeed("score", "image.npy", "text.npy", *given, "--out", "scores"))
    one, other = (found.summary() for found in expected(arrays, ks=(5, None), measures=names))
    for name in ("hit@5", "mAP@R", "MRR@5", "MRR"):
        assert rows[name][:2] == [f"{one[name]:.4f}", f"{other[name]:.4f}"]
    record = json.loads((folder / "scores" / "scores.json").read_text())
    assert record["options"]["measures"] == list(names)
    assert record["measures"]["mAP@R"]["image->text"] == one["mAP@R"]


def test_files_hold_the_same_numbers(folder, arrays):
    sides = ("score", "image.npy", "text.npy", "--labels", "captions.csv:class", "--k", 1)
    output = succeed(*sides, "--interval", 0.9, "--seed", 4, "--out", "a/scores")
    out = folder / "a" / "scores"
    assert sorted(path.name for path in out.iterdir()) == [
        *("pr.pdf", "scores.json", "scores.md", "scores.tex")
    ]
    assert (out / "pr.pdf").read_bytes().startswith(b"%PDF")
    record = json.loads((out / "scores.json").read_text())
    one, other = expected(arrays, ks=(1, None))
    estimates = one.summary(interval=0.9, seed=4), other.summary(interval=0.9, seed=4)
    assert list(record["measures"]) == list(estimates[0])
    for name, values in record["measures"].items():
        pairs = [found[name]._asdict() for found in estimates]
        assert [values["image->text"], values["text->image"]] == pairs
        assert values["mean"] == pytest.approx((pairs[0]["mean"] + pairs[1]["mean"]) / 2)
    mean, low, high = estimates[0]["mAP@1"]
    cell = f"{mean:.4f} [{low:.4f}, {high:.4f}]"
    for text in (output, *((out / name).read_text() for name in ("scores.md", "scores.tex"))):
        assert cell in text
    before = snapshot(out)
    succeed(*sides, "--interval", 0.9, "--seed", 4, "--out", "a/scores")
    assert snapshot(out) == before


def test_other_systems_are_tested_in_both_directions(folder, arrays):
    given = ("--labels", "captions.csv:class", "--k", 5, "--out", "scores", "--measure", "MRR")
    against = ("--against", "poor_image.npy", "poor_text.npy", "--against", "image.npy", "text.npy")
    output = succeed("score", "image.npy", "text.npy", *given, *against)
    found = json.loads((folder / "scores" / "scores.json").read_text())["compared"]
    assert (found["measure"], found["test"]) == ("MRR", "permutation")
    results = {(one["against"], one["pair"]): one for one in found["with"]}
    assert len(results) == 4
    own = expected(arrays, ks=(5, None))
    poor = expected({"image": arrays["poor_image"], "text": arrays["poor_text"]}, ks=(5, None))
    alone = [metrics.compare(a, b, measure="MRR") for a, b in zip(own, poor, strict=True)]
    smallest = min(alone, key=lambda one: one.p)
    corrected = {}
    for pair, one in zip(("image->text", "text->image"), alone, strict=True):
        result = results["poor_image.npy, poor_text.npy", pair]
        assert [result[name] for name in ("difference", "low", "high")] == list(one[:3])
        corrected[one] = result["p"]
        same = results["image.npy, text.npy", pair]
        assert (same["difference"], same["p"]) == (0.0, 1.0)
    assert corrected[smallest] == pytest.approx(4 * smallest.p)
    assert f"{alone[0].difference:+.4f}" in output
    assert (folder / "scores" / "scores.md").read_text().count("poor_image.npy, poor_text.npy") == 2


def test_averages_over_ties_have_no_curve(folder):
    given = ("--pairs", "rows", "--ties", "average", "--out", "scores")
    output = succeed("score", "image.npy", "text.npy", *given)
    written, _, left_out = output.rpartition("\nno pr.pdf: ")
    assert left_out == "averages over ties have no precision–recall curves\n"
    assert "pr.pdf" not in written and not (folder / "scores" / "pr.pdf").exists()


def test_a_set_can_be_searched_with_itself(folder, arrays):
    sides = ("image.npy", "image.npy", "--labels", "captions.csv:class", "--k", 5)
    rows = rows_of(succeed("score", *sides, "--exclude-self", "--out", "scores"))
    assert rows["measure"] == ["image → image", "mean"]
    same = {"image": arrays["image"], "text": arrays["image"]}
    one, _ = expected(same, ks=(5, None), exclude_self=True)
    assert rows["mAP@5"] == [f"{one.summary()['mAP@5']:.4f}"] * 2


def test_sides_are_called_by_key_or_file(folder, arrays):
    np.savez("both.npz", left=arrays["image"], right=arrays["text"])
    rows = rows_of(succeed("score", "both.npz:left", "both.npz:right", "--pairs", "rows"))
    assert rows["measure"][:2] == ["left → right", "right → left"]
    (folder / "b").mkdir()
    np.save("b/image.npy", arrays["text"])
    output = succeed("score", "image.npy", "b/image.npy", "--pairs", "rows")
    assert rows_of(output)["measure"][0] == "image.npy → b/image.npy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --labels once or twice, or --pairs"),
        (("--labels", "captions.csv:class", "--pairs", "rows"), "expected --labels once or twice"),
        (("--labels", "captions.csv:kind"), "captions.csv: expected one of its columns"),
        (("--labels", "nothing.csv"), "no such file: nothing.csv"),
        (("--labels", "short.npy"), "short.npy: expected 60 ids, names or rows, got shape (7,)"),
        (("--pairs", "image.npy"), "image.npy: expected pairs (P, 2) of row numbers, got float64"),
        (("--pairs", "far.npy"), "relevance: expected item positions in 0..59, got 0..60"),
        (("--pairs", "rows", "--measures", "mAP@R"), "got 'mAP@R'; mAP@R is 'ap_at_r'"),
        (("--pairs", "rows", "--measures", "Hit"), "got 'Hit'; did you mean 'hit' or 'hits'?"),
        (("--pairs", "rows", "--measures", "hit,"), "names parted by single commas, hit,ap_at_r"),
        (("--pairs", "rows", "--measures", ",hit"), "hit,ap_at_r, got ',hit'"),
        (("--pairs", "rows", "--measures", ""), "hit,ap_at_r, got ''"),
        (("--pairs", "rows", "--k", 0), "0 is not in the range x>=1"),
        (("--pairs", "rows", "--interval", 95), "interval: expected a level between 0 and 1"),
        (("--pairs", "rows", "--interval", 0), "interval: expected a level between 0 and 1"),
        (
            ("--pairs", "rows", "--against", "image.npy", "short_rows.npy"),
            "image.npy and short_rows.npy: expected 60 and 60 rows, as in image.npy and text.npy, "
            "got 60 and 7",
        ),
        (
            ("--pairs", "rows", "--against", "image.npy", "text.npy", "--measure", "F1"),
            "measure: expected one of mAP@1",
        ),
    ],
)
def test_what_it_cannot_score_is_refused_in_one_line(folder, arguments, message):
    np.save("short.npy", np.zeros(7))
    np.save("short_rows.npy", np.zeros((7, 8)))
    np.save("far.npy", np.array([[0, 0], [1, 60], [2, 3]]))
    before = snapshot(folder)
    error = refused("score", "image.npy", "text.npy", *arguments, "--out", "scores")
    assert message in error and len(error.strip().splitlines()) == 1
    assert snapshot(folder) == before


def test_files_that_are_no_rows_of_one_width_are_refused(folder):
    np.save("wide.npy", np.zeros((60, 9)))
    assert "expected rows of numbers (N, d), got" in refused(
        "score", "image.npy", "captions.csv:file", "--pairs", "rows"
    )
    assert "image.npy and wide.npy: expected one width, got 8 and 9" in refused(
        "score", "image.npy", "wide.npy", "--pairs", "rows"
    )
    np.save("few.npy", np.zeros((7, 8)))
    assert "Option '--against' requires 2 arguments" in refused(
        "score", "image.npy", "text.npy", "--pairs", "rows", "--against", "image.npy"
    )
    assert "pairs: expected as many rows on both sides, got [60, 7]" in refused(
        "score", "image.npy", "few.npy", "--pairs", "rows"
    )


@pytest.mark.parametrize("spoilt", ["image", "text", "poor_image", "poor_text"])
def test_a_row_that_is_not_finite_is_named_with_its_file(folder, arrays, spoilt):
    rows = arrays[spoilt].copy()
    rows[4, 2] = np.nan
    np.save(f"{spoilt}.npy", rows)
    against = "--against", "poor_image.npy", "poor_text.npy"
    error = refused("score", "image.npy", "text.npy", "--pairs", "rows", *against)
    assert error.strip() == f"{spoilt}.npy: row 4 holds NaN or infinite values"


def test_bytes_that_may_be_packed_codes_are_noted(folder):
    bits = np.random.default_rng(0).integers(2, size=(2, 60, 16))
    for name, codes in zip("ab", np.packbits(bits, axis=2), strict=True):
        np.save(f"{name}.npy", codes)
    note = (
        "note: a.npy and b.npy: uint8 rows, ranked by their cosine; for packed binary codes: "
        "--metric hamming\n"
    )
    for files, metric, expected in (
        (("a.npy", "b.npy"), (), note),
        (("a.npy", "b.npy"), ("--metric", "hamming"), ""),
        (("a.npy", "b.npy"), ("--metric", "cosine"), ""),
        (("image.npy", "text.npy"), (), ""),
    ):
        result = drcl_command("score", *files, "--pairs", "rows", *metric)
        assert result.exit_code == 0
        assert result.stderr == expected


def test_an_interval_without_bounds_is_null_in_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(3))
    np.save("y.npy", np.array([0, 1, 0]))
    succeed(
        "score",
        "x.npy",
        "x.npy",
        "--labels",
        "y.npy",
        "--against",
        "x.npy",
        "x.npy",
        "--out",
        "out",
    )
    text = Path("out/scores.json").read_text()
    (one, *_) = json.loads(text, parse_constant=pytest.fail)["compared"]["with"]
    assert one["low"] is None and one["high"] is None
