"""Exact search by rounded products first: what it finds, its bound, and when it gives up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from drcl import Index, backends
from drcl.metrics import nearest, screening, search
from drcl.metrics.screening import RoundedRows, Screen

NATIVE = next(one for one in backends.probe_backends() if one.name == "native")
pytestmark = pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")


DTYPES = [torch.bfloat16, torch.int16]


@pytest.fixture(params=DTYPES)
def taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Screens of all sizes on any processor, in narrow tiles; what each tile's came to."""
    monkeypatch.setattr(screening, "FEWEST", 1)
    monkeypatch.setattr(screening, "NARROWEST", 1)
    monkeypatch.setattr(screening, "multiplies_bfloat16", lambda: request.param == torch.bfloat16)
    monkeypatch.setattr(screening, "multiplies_int16", lambda: True)
    made, take = search.Search.__init__, Screen.take
    results: list[bool] = []

    def narrow(self: search.Search, *given: object, **more: object) -> None:
        made(self, *given, **more)  # type: ignore[arg-type]
        self._tile = self._wide_tile = 64

    def noted(self: Screen, *given: object) -> bool:
        results.append(take(self, *given))  # type: ignore[arg-type]
        return results[-1]

    monkeypatch.setattr(search.Search, "__init__", narrow)
    monkeypatch.setattr(Screen, "take", noted)
    return results


def by_sorting(query: Tensor, gallery: Tensor, k: int) -> Tensor:
    scores = query.double() @ gallery.double().T
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


@pytest.mark.parametrize("width", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_screened_search_equals_a_full_sort(width: int, k: int, taken: list[bool]) -> None:
    """Whole numbers, of nine bits: float32 adds them up exactly, bfloat16 has to round them."""
    query = torch.randint(-500, 500, (9, width)).float()
    gallery = torch.randint(-500, 500, (700, width)).float()
    assert torch.equal(
        nearest(query, gallery, k, metric="dot").indices, by_sorting(query, gallery, k)
    )
    assert bool(taken) == (screening.AFTER * k < 700)


def test_many_ties_and_equal_rows(taken: list[bool]) -> None:
    query, gallery = torch.randint(-1, 2, (5, 4)).float(), torch.randint(-1, 2, (900, 4)).float()
    gallery[::2] *= 257.0  # which bfloat16 takes for 256
    found = nearest(query, gallery, 20, metric="dot")
    assert torch.equal(found.indices, by_sorting(query, gallery, 20))


def test_queries_and_items_that_lie_column_by_column(taken: list[bool]) -> None:
    query, gallery = torch.randint(-500, 500, (9, 5)).T.float(), torch.randn(9, 700).T
    expected = by_sorting(query, gallery.round(decimals=1) * 8, 2)
    found = nearest(query, gallery.round(decimals=1) * 8, 2, metric="dot")
    assert torch.equal(found.indices, expected) and any(taken)


def test_by_cosine_with_lengths_far_apart(taken: list[bool]) -> None:
    query, gallery = torch.randn(8, 40), torch.randn(800, 40)
    lengths = 10.0 ** torch.linspace(-12, 12, 800)[torch.randperm(800)]
    found = nearest(query, gallery * lengths[:, None], 5)
    unit = torch.nn.functional.normalize(gallery.double())
    assert torch.equal(found.indices, by_sorting(query, unit, 5))
    assert any(taken)


def test_of_an_index_some_rows_only(taken: list[bool]) -> None:
    rows = torch.randint(-500, 500, (600, 20)).float()
    query = torch.randint(-500, 500, (9, 20)).float()
    index = Index()
    for part in rows.split(250):
        index.add(part)
    index.remove(range(0, 600, 3))
    left = torch.tensor([row for row in range(600) if row % 3])
    assert torch.equal(index.search(query, 4).indices, left[by_sorting(query, rows[left], 4)])
    assert any(taken)


def products(x: RoundedRows, rows: RoundedRows) -> Tensor:
    """Of rounded rows, in float64."""
    one, other = (
        r.rows.double() * (1.0 if r.steps is None else r.steps[:, None].double()) for r in (x, rows)
    )
    return one @ other.T


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [2.0**-49, 1.0, 2.0**49])
def test_no_score_is_farther_away_than_the_bound(sign: float, size: float) -> None:
    """Entries that lose as much as an entry can: half of the last place of bfloat16."""
    x = torch.full((1, 300), 1.0 + 2.0**-8 - 2.0**-20) * size
    rows = sign * torch.cat([x, x + 2.0**-16 * size, 0.75 * x])
    rounded = RoundedRows.of(rows, None, torch.bfloat16)
    screened = (x.bfloat16() @ rounded.rows.T).double()
    exact = x.double() @ rows.double().T
    slack = Screen(x, torch.bfloat16).slack(rounded)
    away = (screened - exact).abs()
    # The product itself is rounded once more, which the op allows for.
    assert (away <= slack.double() + 2.0**-8 * exact.abs()).all()
    assert (away > 0.4 * slack.double()).any()  # it is no bound that is never come near


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [2.0**-49, 1.0, 2.0**49])
@pytest.mark.parametrize("width", [1, 2, 3, 63, 300, 4096])
def test_no_score_is_farther_from_whole_steps_than_the_bound(
    width: int, size: float, sign: float
) -> None:
    """Entries that lose nearly half of a step, all in one direction, and others."""
    steps = torch.randint(2, 100, (width,)) + 0.499
    x = torch.stack([steps, -steps, torch.randn(width), torch.eye(width)[0], 0 * steps]) * size
    rows = torch.cat([sign * x, torch.randn(20, width) * 1e-12, torch.randn(20, width) * 1e12])
    x[:2] *= 46000 / x.norm(dim=1, keepdim=True)[:2] * 2.0**-20
    for some in (rows[:5], rows[:25], rows):
        rounded = RoundedRows.of(some, None, torch.int16)
        screen = Screen(x, torch.int16)
        away = (products(screen._rounded, rounded) - x.double() @ some.double().T).abs()
        assert (away <= screen.slack(rounded).double()[:, None]).all()


def test_whole_steps_that_all_lose_nearly_a_half_in_one_direction() -> None:
    """The bound is what is lost, but for what is added to it for sums in float32."""
    count = next(n for n in range(50, 200) if 0.47 < 46000 / n**0.5 % 1 < 0.499)
    x = torch.full((1, count), 3.0)
    rounded, screen = RoundedRows.of(x, None, torch.int16), Screen(x, torch.int16)
    away = (products(screen._rounded, rounded) - x.double() @ x.double().T).abs()
    slack = screen.slack(rounded).double()
    assert 0.8 * slack < away < slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["any", "whole", "one large", "one lossy"])
def test_the_bound_is_that_of_what_is_lost(kind: str, dtype: torch.dtype) -> None:
    """Before the product is rounded itself: in float64, of the rounded rows."""
    x, rows = torch.randn(20, 100), torch.randn(300, 100)
    if kind == "whole":  # nothing is lost
        x, rows = x.sign(), rows.sign() * 128
    elif kind == "one large":
        rows[7] *= 1e6
    elif kind == "one lossy":
        x, rows = x.sign(), rows.sign()
        rows[7, 3] = 1.0 + 2.0**-8
    rounded, screen = RoundedRows.of(rows, None, dtype), Screen(x, dtype)
    away = (products(screen._rounded, rounded) - x.double() @ rows.double().T).abs()
    slack = screen.slack(rounded).double()
    assert (away.amax(dim=1) <= slack).all()
    lengths = x.double().norm(dim=1) * rows.double().norm(dim=1).max()
    if kind == "whole":
        assert (slack < 1e-4 * lengths).all() or dtype == torch.int16  # whose steps are others
    elif kind == "any":  # half of what entries of any digits could lose
        most = 2.0**-8 if dtype == torch.bfloat16 else 100**0.5 / 46000
        assert (slack < most * lengths).all()


def test_the_screen_gives_up_where_scores_are_too_close(taken: list[bool]) -> None:
    """All items of one class, as networks see them that have been trained for long."""
    gallery = torch.ones(640, 32) + 2.0**-16 * torch.randint(-32, 32, (640, 32))
    found = nearest(torch.ones(4, 32), gallery, 5, metric="dot")
    assert torch.equal(found.indices, by_sorting(torch.ones(4, 32), gallery, 5))
    assert taken == [False]  # it is asked once


def nothing(scores: Tensor) -> None:
    """Leave no item out."""


def no_room(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_screen_that_gives_up_has_changed_nothing(dtype: torch.dtype) -> None:
    rows, values = torch.ones(64, 32), torch.zeros(4, 5)
    indices = torch.arange(5).repeat(4, 1)
    leave_out: Callable[[Tensor], None] = nothing
    rest = no_room, 100, leave_out, values, indices
    screen = Screen(torch.ones(4, 32), dtype)
    assert not screen.take(rows, None, RoundedRows.of(rows, None, dtype), *rest)
    assert (values == 0).all() and torch.equal(indices, torch.arange(5).repeat(4, 1))
    assert screen.take(-rows, None, RoundedRows.of(-rows, None, dtype), *rest)
    assert (values == 0).all()


def test_screening_is_used_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    size = screening.FEWEST, screening.NARROWEST
    for bfloat16, int16, expected in (
        (True, True, torch.bfloat16),
        (True, False, torch.bfloat16),
        (False, True, torch.int16),
        (False, False, None),
    ):
        monkeypatch.setattr(screening, "multiplies_bfloat16", lambda one=bfloat16: one)
        monkeypatch.setattr(screening, "multiplies_int16", lambda one=int16: one)
        assert Screen.that_pays(*size, torch.float32) == expected
        assert Screen.that_pays(size[0], screening.WIDEST, torch.float32) == expected
        assert Screen.that_pays(size[0] - 1, size[1], torch.float32) is None
        assert Screen.that_pays(size[0], size[1] - 1, torch.float32) is None
        assert Screen.that_pays(size[0], screening.WIDEST + 1, torch.float32) is None
        assert Screen.that_pays(*size, torch.float64) is None


@pytest.mark.parametrize(
    ("limit", "expected"), [("default", "False"), ("avx2", None), ("avx512", None)]
)
def test_int16_where_the_instructions_end_with_avx2(limit: str, expected: str | None) -> None:
    """As the environment holds the processor back."""
    asked = "from drcl.ops.top_k import multiplies_int16 as one, multiplies_bfloat16 as other\n"
    ran = subprocess.run(
        [sys.executable, "-c", asked + "print(one(), one() and other())"],
        env={**os.environ, "DRCL_CPU_CAPABILITY": limit},
        capture_output=True,
        text=True,
        check=True,
    )
    one, both = ran.stdout.split()
    assert both == "False"
    capability = torch.backends.cpu.get_cpu_capability()
    if limit == "avx2":
        expected = str(capability in ("AVX2", "AVX512"))
    elif limit == "avx512":
        expected = str(capability == "AVX2")
    assert one == expected
