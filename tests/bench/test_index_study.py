"""The study of what an index costs, on tiny sizes, and its tables."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drcl.benchmarks.studies import index as study
from drcl.benchmarks.studies import index_tables
from drcl.benchmarks.suite.results import NOT_MEASURED

TINY = ("--rows", "3000", "--width", "16", "--queries", "20", "--items", "600", "--rounds", "2")
PEERS = [name for name in ("faiss", "usearch") if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    out = folder / "results" / "a-machine" / "index.json"
    study.main([str(out), "--folder", str(folder), *TINY])
    assert [path.name for path in folder.iterdir()] == ["results"]  # nothing else is left
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_every_part_is_measured_as_often_as_asked(measured: Path) -> None:
    parts = read(measured)["parts"]
    assert list(parts) == ["one_query", "batch", "write", "load", "memory", "engines"]
    for part, names in (
        ("one_query", ("search", "read")),
        ("batch", ("search", "product")),
        ("write", ("add", "add and save", "raw")),
        ("load", ("load",)),
    ):
        for name in names:
            assert len(parts[part][name]) == 2 and min(parts[part][name]) > 0
    assert parts["write"]["bytes"] > 3000 * 16 * 4
    memory = parts["memory"]
    grown = {name: memory["after"][name] - memory["before"][name] for name in memory["after"]}
    assert grown["RssFile"] >= 3000 * 16 * 4  # the rows were mapped, and read
    for part in parts.values():
        assert part["about"]["threads"] == torch.get_num_threads()


def test_missing_engines_are_skipped_with_a_reason(measured: Path) -> None:
    engines = read(measured)["parts"]["engines"]
    names = [study.name_of(line) for line in engines["lines"]]
    assert names[0] == "exact" and len(set(names)) == len(names)
    for peer in ("faiss", "usearch"):
        assert (peer in PEERS) == any(name.startswith(peer) for name in names)
        assert (peer in PEERS) == (peer not in engines["skipped"])
    for line in engines["lines"]:
        assert len(line["seconds"]) == 2 and 0 < line["recall"] <= 1
        assert line["engine"] != "faiss flat" or line["recall"] > 0.99


def test_a_second_run_measures_only_what_is_missing(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, record = tmp_path / "index.json", read(measured)
    kept = record["parts"]["batch"]
    del record["parts"]["load"]
    out.write_text(json.dumps(record))
    study.main([str(out), "--folder", str(tmp_path), *TINY])
    assert read(out)["parts"]["batch"] == kept and len(read(out)["parts"]["load"]["load"]) == 2
    assert capsys.readouterr().out.count("there already") == 5
    with pytest.raises(SystemExit, match=r"index\.json: has other sizes"):
        study.main([str(out), "--folder", str(tmp_path), *TINY, "--rows", "4000"])


def test_engines_are_measured_again_once_a_missing_one_is_installed() -> None:
    assert not study.is_done(None) and study.is_done({"load": []})
    assert study.is_done({"skipped": {"no_such_module": "it is not installed"}})
    assert study.is_done({"skipped": {"faiss ivfpq": "it needs 256 rows"}})
    assert not study.is_done({"skipped": {"torch": "torch is not installed"}})


def test_wrong_answers_are_not_timed() -> None:
    rows, queries = study.unit(50, 8, 0), study.unit(3, 8, 1)
    exact = (queries @ rows.T).topk(5).indices
    study.check_exact(exact, rows, queries)
    wrong = exact.clone()
    wrong[1, 4] = (queries[1] @ rows.T).argmin()
    with pytest.raises(AssertionError):
        study.check_exact(wrong, rows, queries)
    with pytest.raises(AssertionError, match="twice"):
        study.check_exact(exact[:, [0, 0, 1, 2, 3]], rows, queries)


def test_the_tables_say_what_was_measured(tmp_path: Path) -> None:
    assert index_tables.exact(tmp_path) == index_tables.engines(tmp_path) == NOT_MEASURED
    about = {"device": "a-machine", "threads": 2, "torch": "2", "date": "2026-01-02", "others": 0.1}
    sizes = {"rows": 1_000_000, "width": 256, "queries": 1000, "items": 50_000, "rounds": 3}
    before = {"RssAnon": 100e6, "RssFile": 50e6}
    after = {"RssAnon": 130e6, "RssFile": 1090e6}
    graph = {"engine": "faiss hnsw", "made": {"links": 16}, "build": 9.0, "bytes": 60e6}
    lines = [
        {"engine": "exact", "made": {}, "set": {}, "recall": 1.0, "seconds": [1, 2, 9]},
        {**graph, "set": {"ef_search": 16}, "recall": 0.9, "seconds": [0.1, 0.1, 0.1]},
        {**graph, "set": {"ef_search": 64}, "recall": 0.96, "seconds": [0.5, 0.4, 0.6]},
        {
            "engine": "faiss ivfpq",
            "made": {},
            "set": {"probes": 4},
            "recall": 0.5,
            "build": 5.0,
            "bytes": 5.12e6,
            "seconds": [0.2, 0.2, 0.2],
        },
    ]
    skipped = {"usearch": "usearch is not installed"}
    parts: dict[str, Any] = {
        "one_query": {"search": [0.1, 0.13, 0.2], "read": [0.1, 0.1, 0.3]},
        "write": {"add": [1, 2, 0.75], "add and save": [2, 2, 2], "raw": [1, 1.5, 3]},
        "load": {"load": [0.001]},
        "memory": {"before": before, "after": after},
        "engines": {"queries": 500, "lines": lines, "skipped": skipped},
    }
    for part in parts.values():
        part["about"] = about
    (tmp_path / "a-machine").mkdir()
    path = tmp_path / "a-machine" / "index.json"
    path.write_text(json.dumps({"sizes": sizes, "k": 10, "parts": parts}))
    exact = index_tables.exact(tmp_path)
    assert "| search of one query | 130.0 ms | reading the matrix once | 100.0 ms | 1.30 |" in exact
    assert "| `add` | 1,000.0 ms | writing as many bytes | 1,500.0 ms | 0.67 |" in exact
    assert "| `add` and `save` | 2,000.0 ms | writing as many bytes | 1,500.0 ms | 1.33 |" in exact
    assert "| `load` | 1.0 ms |" in exact and "product" not in exact
    assert "+30 MB" in exact and "130 MB" in exact and "1,040 MB" in exact
    engines = index_tables.engines(tmp_path)
    assert '| `to_faiss("hnsw", links=16, ef_search=64)` | 0.960 | 1,000 | 9.0 | 60.0 |' in engines
    assert "| `index.search` | 1.000 | 250 | 0.0 | 51.2 |" in engines
    assert "| usearch | usearch is not installed |" in engines
    assert 'more, `to_faiss("hnsw", links=16, ef_search=64)` answers most: 4.0 times' in engines
    small = '`to_faiss("ivfpq", probes=4)` takes the least memory, 10% of what the rows take'
    assert f"{small}, and finds 50%" in engines
    for line in lines[1:]:
        line["recall"] = 0.9
    path.write_text(json.dumps({"sizes": sizes, "k": 10, "parts": parts}))
    assert "found 95%: keep `index.search`" in index_tables.engines(tmp_path)
