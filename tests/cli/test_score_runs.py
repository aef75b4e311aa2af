"""``drcl score --run --qrels``: files of TREC, and what ``--explain`` says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import refused, snapshot, succeed
from test_score import rows_of

from drcl import metrics
from drcl.metrics import trec
from drcl.metrics.definitions import explained

QRELS = {f"q{q}": {f"d{(q * 7 + j) % 30}": j % 3 for j in range(9)} for q in range(12)}
RUN = {q: {f"d{j}": (j * 11 + i) % 17 / 3 for j in range(20)} for i, q in enumerate(QRELS)}
OTHER = {q: {item: -score for item, score in items.items()} for q, items in RUN.items()}
OTHER.pop("q3")
GIVEN = ("score", "--run", "mine.trec", "--qrels", "qrels.txt")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    trec.write_run("mine.trec", RUN)
    trec.write_run("other.trec", OTHER)
    trec.write_run("third.trec", RUN)
    trec.write_qrels("qrels.txt", QRELS)
    return tmp_path


def expected(run: trec.Run, **options: object) -> metrics.RetrievalMetrics:
    return trec.run_metrics(run, QRELS, adaptive_k=False, **options)


def test_the_table_is_of_the_librarys_numbers():
    output = succeed(*GIVEN, "--k", 5, 30)
    assert output.startswith("mine.trec: 12 judged queries, 240 items\n\n")
    rows = rows_of(output.split("\n\n", 1)[1])
    assert rows.pop("measure") == ["mine", "mean"]
    means = expected(RUN, ks=(5, 30, None)).summary()
    assert {name: cells[0] for name, cells in rows.items()} == {
        name: f"{mean:.4f}" for name, mean in means.items()
    }
    assert rows["precision@30"] != rows["precision@all"]  # over 30, as trec_eval, and over 20
    chosen = rows_of(succeed(*GIVEN, "--divisor", "min", "--k", 5))["mAP@5"]
    assert chosen[0] == f"{expected(RUN, ks=(5,), divisor='min').summary()['mAP@5']:.4f}"


def test_runs_are_compared_and_written_as_embeddings_are(folder):
    against = (
        "--against",
        "other.trec",
        "--against",
        "third.trec",
        "--k",
        5,
        "--measure",
        "nDCG@5",
    )
    output = succeed(*GIVEN, *against, "--out", "scores")
    out = folder / "scores"
    assert sorted(path.name for path in out.iterdir()) == [
        *("pr.pdf", "scores.json", "scores.md", "scores.tex")
    ]
    assert (out / "pr.pdf").read_bytes().startswith(b"%PDF")
    record = json.loads((out / "scores.json").read_text())
    assert (record["run"], record["qrels"]) == ("mine.trec", "qrels.txt")
    one = metrics.compare(*(expected(run, ks=(5,)) for run in (RUN, OTHER)), measure="nDCG@5")
    other, same = record["compared"]["with"]
    assert [other[name] for name in ("against", "difference", "low", "high")] == [
        *("other.trec", one.difference, one.low, one.high)
    ]
    assert other["p"] == pytest.approx(min(1, 2 * one.p))  # Holm's, of two
    assert (same["difference"], same["p"]) == (0, 1)
    assert (
        f"{one.difference:+.4f}" in output
        and f"{one.difference:+.4f}" in (out / "scores.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "mine.trec"), "expected --run and --qrels together"),
        (("--qrels", "qrels.txt"), "expected --run and --qrels together"),
        ((*GIVEN[1:], "mine.trec"), "image: expected none with --run and --qrels"),
        ((*GIVEN[1:], "--metric", "dot"), "metric: expected none with --run and --qrels"),
        ((*GIVEN[1:], "--pairs", "rows"), "pairs: expected none with --run and --qrels"),
        (("--run", "bad.trec", "--qrels", "qrels.txt"), "bad.trec, line 2: expected 6 fields"),
        (("--run", "mine.trec", "--qrels", "mine.trec"), "mine.trec, line 1: expected 4 fields"),
        (
            (*GIVEN[1:], "--against", "no.trec"),
            "run: expected a file that can be read, got no.trec",
        ),
        (
            ("--run", "no.trec", "--qrels", "qrels.txt"),
            "run: expected a file that can be read, got no.trec",
        ),
        (
            ("--run", "mine.trec", "--qrels", "no.txt"),
            "qrels: expected a file that can be read, got no.txt",
        ),
        (
            ("--run", "latin.trec", "--qrels", "qrels.txt"),
            "latin.trec, line 2: expected text in UTF",
        ),
        (
            ("--run", "far.trec", "--qrels", "qrels.txt"),
            "far.trec: expected a query that qrels.txt",
        ),
        ((*GIVEN[1:], "--measure", "F1"), "measure: expected one of mAP@1"),
        (("a.npy", "b.npy", "--explain"), "--explain: expected no file or option beside it, got"),
        (("--explain", "MRR", "a.npy"), "beside it, got image, --out"),
        (("--explain", "MRR", "--k", "5", "--run", "run.txt"), "beside it, got --run, --k, --out"),
        ((), "expected IMAGE and TEXT, --scores, or --run and --qrels"),
    ],
)
def test_what_it_cannot_score_is_refused_in_one_line(folder, arguments, message):
    Path("bad.trec").write_text("q1 Q0 d1 1 2.0 t\nq1 Q0 d2\n")
    Path("latin.trec").write_bytes(b"q1 Q0 d1 1 2.0 t\nq1 Q0 \xe9 2 1.0 t\n")
    Path("far.trec").write_text("moon Q0 d1 1 2.0 t\n")
    before = snapshot(folder)
    measured = ("--against", "third.trec") if "--measure" in arguments else ()
    error = refused("score", *arguments, *measured, "--out", "scores")
    assert message in error and len(error.strip().splitlines()) == 1
    assert snapshot(folder) == before


def test_one_query_and_one_item_are_not_called_several(folder):
    trec.write_run("one.trec", {"q": {"d": 1.0}})
    trec.write_qrels("one.txt", {"q": {"d": 1}})
    output = succeed("score", "--run", "one.trec", "--qrels", "one.txt")
    assert output.startswith("one.trec: 1 judged query, 1 item\n\n")


def test_further_measures_of_a_run(folder):
    rows = rows_of(succeed(*GIVEN, "--k", 5, "--measures", "bpref,hit"))
    found = expected(RUN, ks=(5, None), measures=("bpref", "hit")).summary()
    for name in ("bpref", "hit@5"):
        assert rows[name][0] == f"{found[name]:.4f}"
    assert "measures: expected none of a whole gallery, got auroc" in refused(
        *GIVEN, "--measures", "auroc"
    )


@pytest.mark.parametrize("label", ["recall@10", "mAP@50", "R@1", "fall_out", "ap_at_r", "MRR@all"])
def test_what_is_printed_can_be_explained(label):
    assert "formula" in succeed("score", "--explain", label)


def test_explain_says_definitions_and_scores_nothing():
    assert succeed("score", "--explain") == explained() + "\n"
    assert succeed("score", "--explain", "MRR") == explained("mrr") + "\n"
    assert "expected a part of a name such as mAP@k" in refused("score", "--explain", "zebra")
    assert "MRR@k\n  formula  1/ρ₁ if ρ₁ ≤ k, else 0\n" in explained("mrr")
