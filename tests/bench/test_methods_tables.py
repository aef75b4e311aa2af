"""The tables of the study of methods."""

from __future__ import annotations

import json

from drcl.benchmarks.studies import consistency_tables, terms_tables
from drcl.benchmarks.studies.methods_tables import damaged, overview, tables


def stored(values: dict[str, tuple[float, ...]]) -> str:
    """A study's file: method -> mAP@all of seed 0, 1, …"""
    lines = [
        {
            "method": method,
            "seed": seed,
            "fingerprint": "0123456789ab",
            "mAP@all": {"mean": value},
            "seconds": 2.0,
        }
        for method, both in values.items()
        for seed, value in enumerate(both)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_the_overview_has_a_line_for_each_set_and_auto_stands_first(tmp_path):
    values = {"ridge": (0.4, 0.5), "logistic": (0.6, 0.6), "cca": (0.1, 0.1), "auto": (0.5, 0.7)}
    folder = tmp_path / "methods" / "all labels"
    folder.mkdir(parents=True)
    (folder / "pictures.jsonl").write_text(stored(values))
    line = "| pictures | 2 | .600 ± .141 | .600 ± .000 | – | ridge regression, .450 ± .071 |"
    assert line in overview(tmp_path).splitlines()
    found = tables(tmp_path)
    rows = [line for line in found.splitlines() if line.startswith(("| drcl.auto", "| ridge"))]
    assert rows[0].startswith("| drcl.auto | 0.6000 ± 0.1414 | 2 |  |")
    assert rows[1].startswith("| ridge regression | 0.4500 ± 0.0707 | 2 | +0.1500 | too few |")


def test_damaged_labels_have_a_line_for_each_kind_and_set(tmp_path):
    values = {"auto": (0.5, 0.7), "svm": (0.4, 0.4), "logistic": (0.3, 0.3), "drcl": (0.2, 0.2)}
    for labels in ("all labels", "symmetric noise 0.4"):
        folder = tmp_path / "methods" / labels
        folder.mkdir(parents=True)
        (folder / "pictures.jsonl").write_text(stored(values))
    (line,) = damaged(tmp_path).splitlines()[2:]
    rest = ".600 ± .141 | .400 ± .000 | .300 ± .000 | .200 ± .000"
    assert line == f"| symmetric noise 0.4 | pictures | 2 | {rest} |"


def test_without_results_the_page_says_so(tmp_path):
    assert tables(tmp_path) == overview(tmp_path) == damaged(tmp_path) == "*Not measured yet.*"


def test_the_worth_of_j_d_is_the_paired_gain_over_no_weight(tmp_path):
    values = {"0 cosine": (0.4, 0.5), "0.1 cosine": (0.5, 0.5), "2 cosine": (0.5, 0.8)}
    values |= {name.replace("cosine", "posterior"): (0.6, 0.6) for name in values}
    folder = tmp_path / "consistency" / "labels per class 5"
    folder.mkdir(parents=True)
    (folder / "pictures.jsonl").write_text(stored(values))
    cosine, posterior = consistency_tables.table(tmp_path).splitlines()[2:]
    assert cosine == (
        "| labels per class 5 | pictures | cosine | 2 | .450 | .500 | .650 | +0.2000 | too few |"
    )
    assert posterior.endswith("| .600 | .600 | .600 | +0.0000 | too few |")


def test_each_variant_of_the_recipe_stands_beside_the_whole(tmp_path):
    values = dict.fromkeys(terms_tables.CHANGES, (0.5, 0.6))
    values |= {"no J_D": (0.4, 0.4), "random prior": (0.5, 0.65)}
    folder = tmp_path / "terms" / "unseen classes 1"
    folder.mkdir(parents=True)
    (folder / "pictures.jsonl").write_text(stored(values))
    head, _, line = terms_tables.table(tmp_path).splitlines()
    found = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert found["full"] == ".550 ± .071"
    assert (found["no J_D"], found["random prior"], found["neither"]) == (
        "\N{MINUS SIGN}.150",
        "+.025",
        ".000",
    )
