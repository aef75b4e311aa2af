"""Files of TREC, and the measures of ranked lists by trec_eval's definitions, by hand."""

from __future__ import annotations

import codecs
import math
import re
from functools import partial

import numpy as np
import pytest
import torch

from drcl import metrics
from drcl.metrics import measures, trec

RUN = {"q1": {"a": 3.0, "b": 2.0, "c": 2.0, "d": 0.1}, "q2": {"a": -1.5}, "extra": {"a": 1.0}}
QRELS = {"q1": {"a": 0, "b": 2, "c": 1, "e": 1}, "q2": {"a": 1}, "q3": {"z": 1}, "q4": {"z": -1}}


def test_files_are_read_as_they_were_written(tmp_path):
    trec.write_run(tmp_path / "run.txt", RUN)
    trec.write_qrels(tmp_path / "qrels.txt", QRELS)
    assert trec.read_run(tmp_path / "run.txt") == RUN
    assert trec.read_qrels(tmp_path / "qrels.txt") == QRELS
    lines = (tmp_path / "run.txt").read_text().splitlines()
    # equal scores by falling name: c before b
    assert lines[:4] == [
        *("q1 Q0 a 1 3.0 drcl", "q1 Q0 c 2 2.0 drcl", "q1 Q0 b 3 2.0 drcl", "q1 Q0 d 4 0.1 drcl")
    ]


def test_any_blanks_part_fields_and_ranks_are_not_looked_at(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("q1\tQ0\ta  9 1e-3 x\n\nq1 Q0 b 1 5 x\n")
    assert trec.read_run(path) == {"q1": {"a": 0.001, "b": 5.0}}
    assert trec.ranked(trec.read_run(path)["q1"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (trec.read_run, "q1 Q0 a 1 2.0\n", "line 1: expected 6 fields, got 5"),
        (trec.read_run, "q1 Q0 a 1 x t\n", "line 1: expected a finite number, got 'x'"),
        (trec.read_run, "q1 Q0 a 1 nan t\n", "line 1: expected a finite number, got 'nan'"),
        (trec.read_run, "q1 Q0 a 1 1_0 t\n", "line 1: expected a finite number, got '1_0'"),
        (trec.read_run, "q1 Q0 a 1 ٣ t\n", "line 1: expected a finite number, got"),
        (trec.read_run, "q Q0 a 1 2 t\nq Q0 a 2 1 t\n", "line 2: expected 'a' once, got it twice"),
        (trec.read_qrels, "q1 0 a\n", "line 1: expected 4 fields, got 3"),
        (trec.read_qrels, "q1 0 a 0.5\n", "line 1: expected a whole number, got '0.5'"),
        (trec.read_qrels, "q1 0 a 1\nq1 0 b 1_0\n", "line 2: expected a whole number, got '1_0'"),
        (trec.read_qrels, "q1 0 a 1\n\ufeffq2 0 b 1\n", "line 2: expected no byte order mark"),
    ],
)
def test_malformed_lines_are_refused(tmp_path, reader, text, message):
    (tmp_path / "file.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        reader(tmp_path / "file.txt")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, ends):
    lines = {"run": "q1 Q0 a 1 2.0 t\nq2 Q0 b 1 1.0 t\n", "qrels": "q1 0 a 1\nq2 0 b 2\n"}
    for name, text in lines.items():
        content = codecs.BOM_UTF8 + text.replace("\n", ends).encode()
        (tmp_path / name).write_bytes(content)
    assert trec.read_run(tmp_path / "run") == {"q1": {"a": 2.0}, "q2": {"b": 1.0}}
    assert trec.read_qrels(tmp_path / "qrels") == {"q1": {"a": 1}, "q2": {"b": 2}}


@pytest.mark.parametrize(("reader", "name"), [(trec.read_run, "run"), (trec.read_qrels, "qrels")])
def test_files_that_cannot_be_read_are_named(tmp_path, reader, name):
    path = tmp_path / "file.txt"
    with pytest.raises(FileNotFoundError) as missing:
        reader(path)
    assert str(missing.value).startswith(f"{name}: expected a file that can be read, got {path} (")
    with pytest.raises(IsADirectoryError, match=f"^{name}: expected a file that can be read"):
        reader(tmp_path)
    fields = b"q 0 a 1\nq\xe9 0 b 1\n" if name == "qrels" else b"q Q0 a 1 1 t\nq\xe9 Q0 b 2 1 t\n"
    for mark in (b"", codecs.BOM_UTF8):
        path.write_bytes(mark + fields)
        with pytest.raises(ValueError) as undecoded:
            reader(path)
        assert str(undecoded.value).startswith(f"{path}, line 2: expected text in UTF-8")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_numbers_that_are_not_finite_are_neither_written_nor_scored(tmp_path, value):
    bad = {"q1": {"a": 1, "b": value}}
    message = f"expected finite numbers, got {value} of 'b' for 'q1'"
    for name, call in {
        "run": lambda: trec.write_run(tmp_path / "file.txt", bad),
        "qrels": lambda: trec.write_qrels(tmp_path / "file.txt", bad),
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            call()
    with pytest.raises(ValueError, match=f"run: {message}"):
        trec.run_metrics(bad, QRELS)
    with pytest.raises(ValueError, match=f"qrels: {message}"):
        trec.run_metrics(RUN, bad)
    assert not (tmp_path / "file.txt").exists()
    with pytest.raises(ValueError, match="qrels: expected relevance below 2³¹, got 2147483648"):
        trec.run_metrics(RUN, {"q1": {"a": 2**31}})


@pytest.mark.parametrize("value", [0.9, 1.5, -0.5, np.float32(2.25)])
def test_judgements_are_whole_numbers(tmp_path, value):
    bad = {"q1": {"b": 1, "a": value}}
    message = f"qrels: expected whole numbers, got {value} of 'a' for 'q1'"
    with pytest.raises(ValueError, match=re.escape(message)):
        trec.write_qrels(tmp_path / "qrels.txt", bad)
    with pytest.raises(ValueError, match=re.escape(message)):
        trec.run_metrics(RUN, bad)
    assert not (tmp_path / "qrels.txt").exists()


def test_whole_numbers_of_any_type_are_judgements(tmp_path):
    given = {"q1": {"a": np.float32(2.0), "b": True}}
    found, same = (trec.run_metrics(RUN, one) for one in (given, {"q1": {"a": 2, "b": 1}}))
    assert torch.equal(found.ndcg, same.ndcg)
    trec.write_qrels(tmp_path / "qrels.txt", given)
    assert trec.read_qrels(tmp_path / "qrels.txt") == {"q1": {"a": 2, "b": 1}}


def test_names_with_blanks_are_not_written(tmp_path):
    for name in ("a b", "", " a", "a\n", "\ufeffa"):
        with pytest.raises(ValueError, match="name: expected one without blanks"):
            trec.write_qrels(tmp_path / "qrels.txt", {"q": {name: 1}})
    assert not (tmp_path / "qrels.txt").exists()


def test_measures_by_hand():
    """q1 ranks a c b d: hits at 2 (gain 1) and 3 (gain 2), one of three is not in the list."""
    found = trec.run_metrics(RUN, QRELS, ks=(1, 3, None))
    ap = (1 / 2 + 2 / 3) / 3
    assert found.average_precision.tolist() == pytest.approx(
        np.array([[0, ap, ap], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    )
    assert found.recall[0].tolist() == pytest.approx([0, 2 / 3, 2 / 3])
    assert found.precision[0].tolist() == pytest.approx([0, 2 / 3, 2 / 4])
    best = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    dcg = 1 / math.log2(3) + 2 / math.log2(4)
    assert found.ndcg[0].tolist() == pytest.approx([0, dcg / best, dcg / best])
    assert found.reciprocal_rank.tolist() == [0.5, 1, 0, 0]
    assert found.relevant.tolist() == [3, 1, 1, 0]
    assert found.summary()["mAP@all"] == pytest.approx((ap + 1) / 4)


@pytest.mark.parametrize("divisor", ["hits", "min", "relevant"])
def test_complete_lists_are_scored_as_embeddings_are(divisor):
    draw = np.random.default_rng(0)
    query, gallery = draw.normal(size=(15, 4)), draw.normal(size=(30, 4))
    relevance = draw.integers(0, 3, (15, 30)) * (draw.random((15, 30)) < 0.3)
    scores = query @ gallery.T
    run = {f"q{q}": {f"d{d}": s for d, s in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {
        f"q{q}": {f"d{d}": int(r) for d, r in enumerate(row)} for q, row in enumerate(relevance)
    }
    options = {"ks": (7, 1, None), "divisor": divisor}
    found = trec.run_metrics(run, qrels, **options)
    whole = metrics.retrieval_metrics(
        query, gallery, relevance=relevance, metric="dot", ndcg=True, **options
    )
    for name, values in whole.tables().items():
        torch.testing.assert_close(found.tables()[name], values, rtol=1e-12, atol=1e-13)


def test_runs_are_compared_as_other_systems():
    other = {"q1": {"b": 1.0}, "q2": {"a": 1.0}, "q3": {"z": 1.0}}
    one, two = (trec.run_metrics(run, QRELS) for run in (RUN, other))
    found = metrics.compare(two, one)
    assert found.difference == pytest.approx(two.summary()["mAP@all"] - one.summary()["mAP@all"])


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="qrels: expected a query, got none"):
        trec.run_metrics(RUN, {})
    with pytest.raises(ValueError, match="divisor: expected one of"):
        trec.run_metrics(RUN, QRELS, divisor="R")


def test_further_measures_by_hand():
    """q1 ranks a c b d; a is judged irrelevant, d not judged, e relevant and not in the list."""
    names = ("hit", "r_precision", "bpref", "f1", "reciprocal_rank")
    found = trec.run_metrics(RUN, QRELS, ks=(1, 3), measures=names).measures
    assert found["hit"].tolist() == [[0, 1], [1, 1], [0, 0], [0, 0]]
    assert found["r_precision"].tolist() == pytest.approx([2 / 3, 1, 0, 0])
    assert found["f1"][0].tolist() == pytest.approx([0, 2 * 2 / (3 + 3)])
    assert found["reciprocal_rank"][0].tolist() == [0, 1 / 2]
    # one irrelevant item, a, is before both hits, and one is judged irrelevant in all
    assert found["bpref"].tolist() == pytest.approx([0, 1, 0, 0])
    more = {"q1": QRELS["q1"] | {"f": 0, "g": 0, "h": -1}}
    found = trec.run_metrics(RUN, more, measures=("bpref",)).measures
    assert found["bpref"].tolist() == pytest.approx([2 * (1 - 1 / 3) / 3])


def test_the_rules_are_those_asked_for():
    options = {"ks": (3, 8), "recall_levels": 5}
    found = trec.run_metrics(RUN, QRELS, **options, adaptive_k=False, no_relevant="skip")
    assert found.precision[:3].tolist() == [[2 / 3, 2 / 8], [1 / 3, 1 / 8], [0, 0]]
    assert found.precision[3].isnan().all() and found.reciprocal_rank[3].isnan()
    # q1's hits, two of three, are at precision 1/2 and 2/3; q2 has 1 and q3 0 throughout
    assert found.raw.precision.tolist() == pytest.approx(
        [(1 + of_q1) / 3 for of_q1 in (1 / 2, 1 / 2, 2 / 3, 0, 0)]
    )
    assert found.interpolated.precision.tolist() == pytest.approx(
        [(1 + of_q1) / 3 for of_q1 in (2 / 3, 2 / 3, 2 / 3, 0, 0)]
    )
    judged = trec.run_metrics(RUN, {"q1": {"c": 1, "d": 1}}, judged_only=True)
    assert judged.average_precision.item() == judged.precision.item() == 1
    graded = trec.run_metrics(RUN, QRELS, relevance_level=2)
    assert graded.relevant.tolist() == [1, 0, 0, 0]
    assert graded.reciprocal_rank.tolist() == pytest.approx([1 / 3, 0, 0, 0])


def test_measures_of_a_whole_gallery_are_refused():
    with pytest.raises(ValueError, match="measures: expected none of a whole gallery, got auroc"):
        trec.run_metrics(RUN, QRELS, measures=("hit", "auroc"))
    at_some_rates = partial(measures.auroc, max_fpr=0.5)
    with pytest.raises(ValueError, match=r"of a whole gallery, got AUROC\(max_fpr=0.5\)"):
        trec.run_metrics(RUN, QRELS, measures=(at_some_rates,))


def test_at_level_0_precision_is_the_share_of_judged_items():
    run, qrels = {"q": list("abcd")}, {"q": {"a": 0, "c": 2, "d": -1, "e": 0}}
    found = trec.run_metrics(run, qrels, ks=(1, 3, None), relevance_level=0)
    assert found.precision.tolist() == [[1.0, pytest.approx(2 / 3), 0.5]]
    with pytest.raises(ValueError, match="relevance_level: expected an integer >= 0, got -1"):
        trec.run_metrics(run, qrels, relevance_level=-1)


def test_numbers_of_a_list_are_those_of_trec_eval():
    """Sums over queries; what was not judged is no judged irrelevant item."""
    names = ("num_q", "num_rel", "num_ret", "num_nonrel")
    run, qrels = (
        {"p": ["a"], "q": list("abc")},
        {"p": {"b": 1}, "q": {"a": 0, "c": 2}, "r": {"a": 1}},
    )
    for judged_only, nonrel, ret, queries in ((False, 3, 4, 2), (True, 1, 2, 1)):
        found = trec.run_metrics(run, qrels, measures=names, judged_only=judged_only)
        sums = found.summary(torch.Tensor.sum)
        assert [sums[name] for name in names[:3]] == [queries, 3, ret]
        assert sums["num_nonrel@all"] == nonrel


def test_the_best_ranking_has_what_a_list_lacks():
    """One of four relevant items found: the ideal of nDCG, and min(R, k), are not the list's."""
    run, qrels = {"q": {"a": 1.0}}, {"q": dict.fromkeys("abcd", 1)}
    found = trec.run_metrics(
        run, qrels, ks=(3, 9, None), divisor="min", measures=("ndcg_exponential",)
    )
    ideal = [sum(1 / math.log2(rank + 1) for rank in range(1, best + 1)) for best in (3, 4, 4)]
    expected = pytest.approx([1 / one for one in ideal])
    assert found.ndcg[0].tolist() == expected
    assert found.measures["ndcg_exponential"][0].tolist() == expected
    assert found.average_precision[0].tolist() == pytest.approx([1 / 3, 1 / 4, 1 / 4])
    assert found.precision[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("on_empty", "value"), [("zero", 0.0), ("nan", math.nan)])
def test_a_mean_over_no_query_is_as_asked_for(on_empty, value):
    nothing = {"q1": {"a": 0}}
    with pytest.raises(ValueError, match=r"^qrels: expected a query with relevant items, got none"):
        trec.run_metrics(RUN, nothing, no_relevant="skip").summary()
    found = trec.run_metrics(RUN, nothing, no_relevant="skip", on_empty=on_empty)
    np.testing.assert_array_equal(list(found.summary().values()), value)
    # a query without a list has found nothing, which is no empty gallery
    assert trec.run_metrics({}, {"q1": {"a": 1}}, on_empty=on_empty).summary()["mAP@all"] == 0.0


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_lists_are_ranked_as_they_stand(kind, tmp_path):
    """Not by name, as equal scores would be."""
    lists = {"q1": kind(["d", "a", "e", "b"]), "q2": kind([]), "extra": kind(["z"])}
    scores = {"q1": {"d": 4.0, "a": 3.0, "e": 2.0, "b": 1.0}, "extra": {"z": 1.0}}
    options = {"ks": (1, 2, None), "measures": ("hit", "bpref")}
    for judged_only in (False, True):
        found = trec.run_metrics(lists, QRELS, **options, judged_only=judged_only)
        expected = trec.run_metrics(scores, QRELS, **options, judged_only=judged_only)
        for name, column in expected.tables().items():
            assert torch.equal(found.tables()[name], column), name
    # relevant are b, c and e: the third and the fourth of four
    assert trec.run_metrics(lists, QRELS).average_precision[0] == pytest.approx((1 / 3 + 2 / 4) / 3)
    trec.write_run(tmp_path / "run.txt", lists)
    assert trec.read_run(tmp_path / "run.txt") == scores


def test_items_of_a_list_may_be_numbers_beside_a_run_of_scores():
    found = trec.run_metrics(
        {"q1": np.array([7, 5]), "q2": {5: 0.5, 7: 0.1}}, {"q1": {5: 1}, "q2": {5: 1}}
    )
    assert found.first_rank.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("call", [trec.write_run, lambda _, run: trec.run_metrics(run, QRELS)])
@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (["a", "b", "a"], ValueError, "run: expected 'a' once for 'q1', got it twice"),
        ("abc", TypeError, "run: expected scores or a list of items, got str for 'q1'"),
        (None, TypeError, "run: expected scores or a list of items, got NoneType for 'q1'"),
        ({"a", "b"}, TypeError, "run: expected scores or a list of items, got set for 'q1'"),
        (b"abc", TypeError, "run: expected scores or a list of items, got bytes for 'q1'"),
        (
            [("a", 1.0), ("b", 0.5)],
            TypeError,
            r"run: expected a list of items, or item -> score, got \('a', 1.0\) in the .* for 'q1'",
        ),
        (["a", ["b"]], TypeError, r"or item -> score, got \['b'\] in the list for 'q1'"),
        ({"a": "1"}, TypeError, "run: expected numbers, got '1' of 'a' for 'q1'"),
        ({"a": None}, TypeError, "run: expected numbers, got None of 'a' for 'q1'"),
    ],
)
def test_what_is_no_ranked_list_is_refused(call, items, error, message, tmp_path):
    with pytest.raises(error, match=message):
        call(tmp_path / "run.txt", {"q1": items})


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        ([["a"]], QRELS, "run: expected query -> item -> score, or .* got list"),
        (None, QRELS, "run: expected query -> item -> score, or .* got NoneType"),
        (RUN, {"q": ["a"]}, "qrels: expected item -> relevance, got list for 'q'"),
        (RUN, ["a"], "qrels: expected query -> item -> relevance, got list"),
        (RUN, {"q": {"a": "1"}}, "qrels: expected numbers, got '1' of 'a' for 'q'"),
    ],
)
def test_what_is_no_mapping_is_refused_by_name(run, qrels, message):
    with pytest.raises(TypeError, match=message):
        trec.run_metrics(run, qrels)


def test_judgements_that_are_none_are_not_written(tmp_path):
    with pytest.raises(TypeError, match="qrels: expected item -> relevance, got list for 'q'"):
        trec.write_qrels(tmp_path / "qrels.txt", {"q": ["a"]})
    assert not list(tmp_path.iterdir())
