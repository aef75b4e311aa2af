"""The grid of sizes: which points come when, what is kept of them, and what is made of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from drcl.benchmarks.suite import grid, grid_map
from drcl.benchmarks.suite.measure import measure
from drcl.benchmarks.suite.registry import Entry
from drcl.benchmarks.suite.results import NOT_MEASURED, Row, read
from drcl.benchmarks.workloads import loss
from drcl.cli import main

CPU = torch.device("cpu")


@pytest.mark.parametrize("op", grid.GRIDS)
def test_points_are_sizes_and_back(op: str) -> None:
    found = grid.points(op)
    assert len(set(found)) == len(found) > 800
    for point in found[::50]:
        assert grid.point_of(op, grid.sizes_at(op, point)) == point


@pytest.mark.parametrize("op", grid.GRIDS)
def test_any_number_of_points_is_spread_over_the_grid(op: str) -> None:
    """The next one is never nearer to those before than some other point is."""
    every = np.array(grid.points(op))
    every = every / np.array([max(2, len(axis) - 1) for axis in grid.GRIDS[op].axes.values()])
    index = {point: place for place, point in enumerate(grid.points(op))}
    chosen = [index[point] for point in itertools.islice(grid.order(op, [], []), 40)]
    for count in (1, 10, 39):
        away = np.linalg.norm(every[:, None] - every[chosen[:count]], axis=2).min(axis=1)
        assert away[chosen[count]] == pytest.approx(away.max())


def test_every_point_comes_once() -> None:
    every = list(grid.order("prior_similarity", [], []))
    assert sorted(every) == sorted(grid.points("prior_similarity"))
    rest = list(grid.order("prior_similarity", every[:900], every[:3]))
    assert sorted(rest + every[:900]) == sorted(every)


def test_every_other_point_is_beside_one_that_was_lost() -> None:
    order = grid.order("prior_similarity", [(3, 3, 3)], [(3, 3, 3)])
    found = [next(order) for _ in range(12)]
    steps = [sum(abs(place - 3) for place in point) for point in found]
    assert steps[::2] == [1] * 6 and min(steps[1::2]) > 3
    far = order.send(False), order.send(False)  # there is nothing left beside that one
    assert min(sum(abs(place - 3) for place in point) for point in far) > 1
    beside = order.send(True)
    assert sum(abs(a - b) for a, b in zip(far[1], beside, strict=True)) == 1


def rows(entry: Entry, ratio: float = 2.0, others: float = 0.0) -> list[Row]:
    names = "drcl native", "drcl eager", "literal"
    figures = zip(names, (1.0, 0.5, ratio), strict=True)
    sizes = dict(entry.sizes)
    return [
        Row(entry.op, sizes, "", name, p50_ms=3.0 * r, ratio=r, floor_share=0.4, others=others)
        for name, r in figures
    ]


def test_it_resumes_and_remeasures_noisy_points(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[tuple[str, bool]] = []
    others = 0.0

    def measured(entry: Entry, *unused: object) -> list[Row]:
        return rows(entry, 0.5 if len(told) == 1 else 2.0, others)

    def tell(entry: Entry, found: list[Row]) -> None:
        told.append((entry.name, grid.is_lost(found)))

    def some(count: int) -> None:
        left = iter([0.0] * (count + 1) + [2.0])
        monkeypatch.setattr(grid, "time", SimpleNamespace(monotonic=lambda: next(left)))
        grid.run(["map", "loss"], 1.0, CPU, tmp_path, tell)

    monkeypatch.setattr(grid, "measure", measured)
    some(4)
    assert [name.split()[0] for name, _ in told] == ["map", "loss", "map", "loss"]
    assert [lost for _, lost in told] == [False, True, False, False]
    others = 0.5
    some(2)
    others = 0.0
    some(2)
    names = [name for name, _ in told]
    assert len(set(names[:6])) == 6 and set(names[6:]) == set(names[4:6])
    (path,) = tmp_path.glob(f"*/{grid.file_name()}.json")
    kept = read(path.parent, path.stem)
    assert len(grid.by_point(kept)) == 6 and all(row.device for row in kept)

    text = grid_map.tables(tmp_path)
    assert "| loss | 3 | 1 | 0.50× | 2.00× | 40% |" in text
    assert "Where ours is behind, the farthest first.\n" in text
    assert f"| {names[1]} | 3.0 ms | 0.50× | literal | 40% |" in text
    grid_map.draw(kept, path.with_suffix(".svg"))
    assert list(grid_map.maps(tmp_path)) == [f"{grid.file_name()}_{path.parent.name}"]
    assert f"(../figures/{grid.file_name()}_{path.parent.name}.svg)" in grid_map.tables(tmp_path)


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert grid_map.tables(tmp_path) == NOT_MEASURED


@pytest.mark.parametrize("mixed", [0, 1])
@pytest.mark.parametrize("label_rows", [0, 1])
@pytest.mark.parametrize("forward", [0, 1])
def test_every_form_of_the_loss_passes_its_gate(mixed: int, label_rows: int, forward: int) -> None:
    sizes = {"B": 48, "D": 16, "C": 5, "rows": label_rows, "mixed": mixed, "forward": forward}
    problem = loss.build(sizes, CPU)
    expected = problem.oracle()
    assert len(expected) == 2 - forward
    plain = loss.build({"B": 48, "D": 16, "C": 5}, CPU).oracle()[0]
    assert torch.equal(expected[0], plain) == (not mixed and not label_rows)
    for name in ("drcl native", "drcl eager", "literal"):
        contender = problem.contenders[name]
        if not isinstance(contender, str):
            for found, exact in zip(contender.run(), expected, strict=True):
                assert float((found - exact).norm() / exact.norm()) < problem.tolerance


@pytest.mark.parametrize("more", [{"k": 5}, {"ties": 1}, {"k": 5, "ties": 1}])
def test_a_point_is_measured_as_a_workload_of_the_suite(more: dict[str, int]) -> None:
    entry = grid.GRIDS["map"].at({"Q": 16, "N": 101, "D": 8, "C": 4} | more, "")
    found = measure(entry, CPU, 0.0)
    assert any(row.ratio == 1.0 and row.ours for row in found)


@pytest.mark.parametrize("more", [["--list"], ["--quick"], ["--compare", "HEAD"]])
def test_the_command_refuses_what_a_grid_has_not(more: list[str]) -> None:
    done = CliRunner().invoke(main, ["bench", "--grid", "1", *more])
    assert done.exit_code == 2 and "--grid: expected without --list" in done.output


def test_the_command_refuses_other_ops() -> None:
    done = CliRunner().invoke(main, ["bench", "--grid", "1", "--only", "nonsense"])
    assert done.exit_code == 1
    assert "only: expected one of" in done.output and "prior_similarity" in done.output
