"""Timing and memory of the benchmarks, what is kept of them, and what is made of it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drcl.benchmarks.suite import measure, publish, results, timing
from drcl.benchmarks.suite.registry import Contender, Work, entries
from drcl.benchmarks.suite.results import Row

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def row(contender: str, b: int = 1024, **values: object) -> Row:
    sizes = {"B": b, "D": 2048, "C": 10}
    figures = {"p20_ms": 1.0, "p50_ms": 60.0, "p80_ms": 3.0, "floor_share": 0.5, "memory_MB": 23.4}
    about = {"device": "a-chip", "threads": 2, "date": "2026-01-02", "versions": "drcl 1, torch 2"}
    return Row("loss", sizes, "", contender, **{"ratio": 1.0, **figures, **about, **values})


def test_all_take_turns_and_slow_ones_fewer() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = timing.in_turns(calls, {"a": 6, "b": 6, "c": 2}, CPU)
    assert {name: len(values) for name, values in found.items()} == {"a": 6, "b": 6, "c": 2}
    assert order == [name for name in "abbacababbacab" for _ in range(3)]  # two of them untimed


def test_threads_that_still_run_are_waited_for() -> None:
    end = time.monotonic() + 0.1

    def spin() -> None:
        while time.monotonic() < end:
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    timing.rest()
    assert not thread.is_alive()


def test_what_is_far_slower_than_ours_may_be_timed_once() -> None:
    seconds = {"drcl native": 1e-3, "peer": 2e-2}
    contenders = {name: Contender(lambda s=s: time.sleep(s)) for name, s in seconds.items()}
    rows = {name: Row("loss", {}, "", name) for name in contenders}
    measure.in_rounds(Work(1.0, 1.0, (8, 8, 8)), contenders, rows, CPU, 0.01)
    assert rows["peer"].rounds == 1 and rows["drcl native"].rounds > 3
    assert rows["peer"].p20_ms == rows["peer"].p50_ms == rows["peer"].p80_ms > 20


def test_time_of_a_call_and_of_one_that_measures_itself() -> None:
    assert timing.seconds_of(lambda: time.sleep(0.02), CPU) >= 0.02
    assert timing.seconds_of(lambda: 12.5, CPU) == 12.5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux's /proc")
def test_peak_memory_is_the_system_s_count() -> None:
    with timing.PeakMemory() as used:
        block = torch.ones(2**24)  # 64 MiB, gone again before the end
        del block
    assert 0.98 * 2**26 < used.bytes < 1.3 * 2**26
    with timing.PeakMemory() as used:
        pass
    assert used.bytes < 2**22


def test_others_is_a_share() -> None:
    with timing.Others() as others:
        sum(range(10**6))
    assert 0.0 <= others.share <= 1.0


def test_rows_of_a_workload_are_replaced_and_others_stay(tmp_path: Path) -> None:
    results.keep([row("drcl eager"), row("literal", ratio=3.0)], tmp_path)
    results.keep([row("drcl eager", b=64)], tmp_path)
    folder = results.keep([row("drcl eager", p50_ms=50.0)], tmp_path)
    assert folder == tmp_path / "a-chip"
    kept = results.read(folder)
    assert [(r.contender, r.sizes["B"], r.p50_ms) for r in kept] == [
        ("drcl eager", 64, 60.0),
        ("drcl eager", 1024, 50.0),
    ]
    table = list(csv.DictReader(io.StringIO((folder / "suite.csv").read_text())))
    assert [line["B"] for line in table] == ["64", "1024"]
    assert table[1]["p50_ms"] == "50.0" and table[1]["versions"] == "drcl 1, torch 2"
    assert len(json.loads((folder / "suite.json").read_text())) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["suite.csv", "suite.json"]


def test_results_that_name_the_eager_backend_as_before_are_read(tmp_path: Path) -> None:
    folder = results.keep([row("drcl eager")], tmp_path)
    path = folder / "suite.json"
    path.write_text(path.read_text().replace("drcl eager", "drcl torch"))
    assert [one.contender for one in results.read(folder)] == ["drcl eager"]


def test_rows_say_what_they_were_measured_on() -> None:
    (signed,) = results.signed([replace(row("drcl eager"), device="", versions="")], CPU)
    assert signed.device == timing.processor_name()
    assert signed.threads == torch.get_num_threads()
    assert f"torch {torch.__version__}" in signed.versions
    assert len(signed.date) == 10


def test_table_is_made_of_rows() -> None:
    rows = [
        row("drcl eager"),
        row("literal", ratio=3.44),
        row("literal, torch.compile", status="skipped", p50_ms=None, ratio=None),
        row("drcl eager", b=4096, p50_ms=1353.0, memory_MB=None),
        row("drcl eager", b=77),  # not one of those shown
    ]
    assert publish.table(rows).splitlines()[2:] == [
        "| loss, batch 1,024 | 60.0 ms | 50% | 23.4 MB | literal 3.4× |",
        "| loss, batch 4,096 | 1.4 s | 50% | – MB | – |",
    ]


def test_what_the_readme_shows_is_in_the_registry() -> None:
    known = [(entry.op, dict(entry.sizes)) for entry in entries(CPU)]
    for op, sizes, _ in publish.SHOWN:
        assert (op, sizes) in known


def test_plot_is_the_same_from_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    rows = [row(name, b=b, floor_ms=9.0) for b in (64, 128) for name in ("drcl eager", "literal")]
    for name in ("one.svg", "two.svg"):
        publish.plot(rows, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert len((tmp_path / "one.svg").read_text()) > 5000


def test_markers_are_needed_once() -> None:
    text = f"a {publish.BEGIN} old {publish.END} b"
    assert publish.with_section(text, "new\n") == f"a {publish.BEGIN}\nnew\n{publish.END} b"
    with pytest.raises(ValueError, match=r"README.md: expected .* once"):
        publish.with_section("no markers", "new")


def test_readme_shows_what_the_results_say() -> None:
    readme = (ROOT / "README.md").read_text()
    assert publish.published(readme) == readme, (
        "README.md differs from the stored results: run python -m drcl.benchmarks.suite.publish"
    )


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/kernels/index.md"])
def test_no_measured_figure_is_typed(page: str) -> None:
    """Outside what is generated, and code: no time, size, share, speed-up or mAP."""
    text = (ROOT / page).read_text()
    text = re.sub(r"<!-- \w+: begin, generated -->.*?<!-- \w+: end -->", "", text, flags=re.S)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    typed = re.findall(r"[\d.,]+ ?(?:ms|MB|GB|GiB|×|%|s)(?![\w\d])|(?<![\d\w])\.\d{3}\b", text)
    assert not typed


def test_stored_rows_are_complete() -> None:
    names = {entry.name for entry in entries(CPU)} | {
        entry.name for entry in entries(torch.device("cuda"))
    }
    for path in (ROOT / "benchmarks" / "results").glob("*/suite.json"):
        for stored in results.read(path.parent):
            assert stored.device == path.parent.name
            assert stored.date and stored.versions and stored.threads
            assert (stored.p50_ms is not None) == (stored.status == "measured")
            tf32 = " tf32" if stored.precision == "high" else ""
            training = stored.op.startswith("training")
            assert training or f"{stored.op} {stored.workload}{tf32}" in names


def gpu_run(folder: Path, *steps: str) -> subprocess.CompletedProcess[str]:
    """The script with a Python that notes what it is asked for, and knows no GPU."""
    python = folder / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> "$OUT.calls"\ncase "$*" in *is_available*) exit 1; esac'
    )
    python.chmod(0o755)
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu_run.sh"), *steps],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "OUT": str(folder / "out")},
    )


def test_gpu_run_goes_as_far_as_the_first_step_that_needs_a_gpu(tmp_path: Path) -> None:
    ran = gpu_run(tmp_path)
    assert ran.returncode == 2
    assert "no CUDA device here; stopped before 'tests'. failed: none" in ran.stderr
    first, build, info, *asked = (tmp_path / "out.calls").read_text().splitlines()
    assert build == "setup.py build_ext --inplace" and info == "-m drcl info"
    assert len(asked) == 1 and "is_available" in first and "is_available" in asked[0]
    assert (tmp_path / "out" / "build.log").is_file()
    unknown = gpu_run(tmp_path, "polish")
    assert unknown.returncode == 2
    assert "no step 'polish'; there are: build tests loss" in unknown.stderr


def test_gpu_run_keeps_its_results_where_they_are_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = (ROOT / "benchmarks" / "gpu_run.sh").read_text()
    assert "bench --device cuda --out benchmarks/results " in script
    assert (ROOT / "benchmarks" / "results").samefile(timing.RESULTS) and publish.ROOT == ROOT
    for line in script.splitlines():  # studies of their own write only if they are asked to
        assert "drcl.benchmarks.workloads.training" not in line or " --out " in line
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: "NVIDIA Fake 80GB X")
    assert results.folder_name(torch.device("cuda")) == timing.device_name() == "fake-80gb-x"


def test_gpu_run_measures_every_workload_in_one_step() -> None:
    script = (ROOT / "benchmarks" / "gpu_run.sh").read_text()
    texts = [quoted or word for quoted, word in re.findall(r'--only (?:"([^"]+)"|(\w+))', script)]
    for entry in entries(torch.device("cuda")):
        matching = [text for text in texts if text in f"{entry.name} ({entry.note})"]
        assert len(matching) == 1, (entry.name, matching)


def test_gpu_run_names_tests_that_are_there() -> None:
    script = (ROOT / "benchmarks" / "gpu_run.sh").read_text()
    files = []
    for before, names, after in re.findall(r"tests/([\w/]+)(?:\{([\w,]+)\})?(\.py)", script):
        files += [before + name + after for name in names.split(",")]
    assert len(files) == 10 and all((ROOT / "tests" / file).is_file() for file in files)
