"""The published definitions: each formula's value is that of the option that is said to give it."""

from __future__ import annotations

from functools import partial
from math import log2

import pytest
import torch

from drcl import metrics
from drcl.metrics.definitions import DEFINITIONS, Definition, explained
from drcl.metrics.measures import err, rbp
from drcl.metrics.names import MEASURES


@pytest.mark.parametrize("one", DEFINITIONS, ids=lambda one: one.called)
def test_the_worked_example_is_what_the_option_gives(one: Definition) -> None:
    """Relevant items at ranks 1, 3, 4 and 5 of ten, k = 3."""
    angles = torch.linspace(0, 1, 10).double()
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    relevant = torch.zeros(1, 10, dtype=torch.bool)
    relevant[0, [0, 2, 3, 4]] = True
    found = metrics.retrieval_metrics(
        gallery[:1], gallery, relevance=relevant, ks=(3, None), **one.options
    )
    expected = eval(one.worked, {"log2": log2, "min": min})
    assert found.summary()[one.measure.replace("@k", "@3")] == pytest.approx(expected, abs=1e-12)


def test_every_named_measure_is_defined() -> None:
    defined = {one.options.get("measures", ("",))[0] for one in DEFINITIONS}
    assert set(MEASURES) <= defined


def test_explanations_fit_a_terminal_and_have_all_parts() -> None:
    text = explained()
    assert max(map(len, text.splitlines())) <= 80
    for one in DEFINITIONS:
        flat = " ".join(explained(one.called).split())
        for part in (one.called, one.formula, one.used_by, one.here):
            assert " ".join(part.split()) in flat


def test_a_name_of_any_library_finds_its_definition() -> None:
    assert explained("RetrievalMAP(TOP_K").startswith("mAP@k over the hits found\n")
    assert explained("map_cut").startswith("mAP@k over R\n")
    assert explained("calc_map_k").count("formula") == 1
    with pytest.raises(ValueError, match="explain: expected a part of a name such as mAP@k"):
        explained("zebra")


def test_every_label_and_every_name_is_explained() -> None:
    x, y = torch.eye(3), torch.tensor([0, 1, 0])
    asked = (*MEASURES, partial(rbp, p=0.95), partial(err, max_gain=4))
    found = metrics.retrieval_metrics(x, x, y, y, ks=(1, 25, None), ndcg=True, measures=asked)
    for label in (*found.tables(), *MEASURES, "R@1"):
        assert "formula" in explained(label), label
    assert explained("recall@25").startswith("recall@k: the share of the relevant items\n")
    assert explained("ap_at_r") == explained("mAP@R")
    assert explained("ERR(max_gain=4)@25") == explained("ERR@k")
    assert explained("mAP@all").startswith("mAP\n")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("mAP@R", "; mAP@R is 'ap_at_r'"),
        ("r-precision", "; R-precision is 'r_precision'"),
        ("hit@10", "; hit@10 is 'hit', with its cut-off among ks"),
        ("MRR@10", "; MRR@10 is 'reciprocal_rank', with its cut-off among ks"),
        ("recall@5", "; recall@5 is found without being asked for, with its cut-off among ks"),
        (
            "nDCG@5",
            "; nDCG@5 is found with ndcg=True, of runs and by drcl score always, with its cut-off "
            "among ks",
        ),
        (
            "ndcg",
            "; ndcg is found with ndcg=True, of runs and by drcl score always, with its cut-off "
            "among ks",
        ),
        ("Hit", "; did you mean 'hit' or 'hits'?"),
        ("ap-at-r", "; did you mean 'ap_at_r'?"),
        ("MRR", "; MRR is 'reciprocal_rank'"),
        ("zebra", ""),
    ],
)
def test_a_label_that_is_no_name_is_refused_with_the_name(asked: str, hint: str) -> None:
    x, y = torch.eye(2), torch.arange(2)
    for call in (
        lambda: metrics.retrieval_metrics(x, x, y, y, measures=(asked,)),
        lambda: metrics.RetrievalMetric(measures=(asked,)),
        lambda: metrics.trec.run_metrics({}, {"q": {"a": 1}}, measures=(asked,)),
    ):
        with pytest.raises(ValueError, match="measures: expected functions or names") as info:
            call()
        assert str(info.value).endswith(f"got {asked!r}{hint}")


def test_precision_beyond_the_gallery_is_divided_by_either() -> None:
    x, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
    for ties in ("index", "average"):
        options = {"ks": (2, 8, None), "ties": ties, "exclude_self": True}
        over_items = metrics.retrieval_metrics(x, x, y, y, **options).precision
        over_k = metrics.retrieval_metrics(x, x, y, y, **options, adaptive_k=False).precision
        torch.testing.assert_close(over_k[:, [0, 2]], over_items[:, [0, 2]])
        assert over_items[:, 1].tolist() == pytest.approx([1 / 3] * 4)
        assert over_k[:, 1].tolist() == pytest.approx([1 / 8] * 4)
    f1 = metrics.retrieval_metrics(
        x, x, y, y, ks=(8, None), measures=("f1", "fall_out"), adaptive_k=False
    ).summary()
    assert f1["F1@8"] == pytest.approx(2 * 2 / (8 + 2))
    assert f1["F1@all"] == pytest.approx(2 * 2 / (4 + 2)) and f1["fall-out@8"] == 1


def test_any_average_of_the_values_that_count() -> None:
    x, y = torch.eye(5), torch.tensor([0, 0, 1, 1, 2])
    found = metrics.retrieval_metrics(x, x, y, y, exclude_self=True, no_relevant="skip")
    values = found.reciprocal_rank[:4]
    assert found.reciprocal_rank[4].isnan() and len(values.unique()) > 1
    assert found.summary(torch.amin)["MRR"] == values.min()
    assert found.summary(lambda v: v.log().mean().exp())["MRR"] == pytest.approx(
        float(values.prod()) ** (1 / 4), abs=1e-12
    )
    with pytest.raises(ValueError, match="average: expected one of"):
        found.summary("min")
