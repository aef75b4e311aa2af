"""drcl::column_products against float64: its error, and the same bits however it is computed."""

from __future__ import annotations

import pytest
import torch
from reruns import bits_by_width
from torch import Tensor

from drcl import backends
from drcl.native import reversible_consistency as native
from drcl.native.products import column_products

NATIVE = next(one for one in backends.probe_backends() if one.name == "native")
pytestmark = pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")


def products(rows: Tensor) -> Tensor:
    out = torch.full((rows.shape[1], rows.shape[1]), torch.nan)
    column_products(rows, out)
    return out


# Widths around the vectors of a panel, counts around the 256 rows of a sum and the 512 of a part.
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 17, 24, 25, 70, 129])
@pytest.mark.parametrize("count", [1, 5, 255, 257, 511, 512, 513, 1025, 1600])
def test_is_within_the_rounding_of_its_sums(count: int, width: int) -> None:
    rows = torch.randn(count, width)
    found, wide = products(rows), rows.double()
    steps = min(count, 256) + -(-count // 256)  # an entry's roundings, each off by half a unit
    bound = steps * 2.0**-24 * (wide.abs().T @ wide.abs())
    assert ((found.double() - wide.T @ wide).abs() <= 1.001 * bound).all()
    assert torch.equal(found, found.T)


def test_rows_from_anywhere_into_a_part_of_a_larger_matrix() -> None:
    wide = torch.randn(700, 60)
    rows = wide[:, 3:43]
    room = torch.full((50, 90), 0.5)
    column_products(rows, room[7:47, 11:51])
    assert torch.equal(room[7:47, 11:51], products(rows.clone()))
    room[7:47, 11:51] = 0.5
    assert (room == 0.5).all()


def test_of_no_rows_it_is_zero_and_of_no_columns_empty() -> None:
    assert (products(torch.empty(0, 30)) == 0).all()
    assert products(torch.empty(30, 0)).shape == (0, 0)


def test_values_that_are_not_finite_stay_in_their_products() -> None:
    rows = torch.randn(600, 30)
    expected = products(rows)
    rows[5, 3], rows[550, 27] = torch.nan, torch.inf
    found, exact = products(rows), rows.double().T @ rows.double()
    odd = [3, 27]
    assert torch.equal(found[odd].double().nan_to_num(), exact[odd].nan_to_num())
    assert torch.equal(found[:, odd].double().nan_to_num(), exact[:, odd].nan_to_num())
    found[odd], found[:, odd] = expected[odd], expected[:, odd]
    assert torch.equal(found, expected)


def test_the_same_bits_in_every_instruction_set_and_on_any_number_of_threads() -> None:
    draw = (
        "from drcl.native.products import column_products\n"
        "x, out = torch.randn(1100, width, generator=g), torch.empty(width, width)\n"
    )
    said = bits_by_width(draw, "column_products(x, out)\nfound = [out]")
    assert len(said) == 3, said


@pytest.mark.parametrize(
    ("rows", "out", "said"),
    [
        (torch.ones(4, 3).double(), torch.empty(3, 3), "rows: expected a matrix of float32"),
        (torch.ones(4, 6)[:, ::2], torch.empty(3, 3), "rows: expected rows that are contiguous"),
        (torch.ones(4, 3), torch.empty(3, 4), "out: expected a product of each column"),
        (torch.ones(4, 3), torch.empty(3, 3).double(), "out: expected a matrix of float32"),
    ],
)
def test_what_the_op_cannot_read_is_refused(rows: Tensor, out: Tensor, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        column_products(rows, out)


@pytest.mark.parametrize(
    ("others", "crossed", "said"),
    [
        (torch.ones(5, 2), torch.empty(2, 3), "others: expected 4 rows"),
        (torch.ones(4, 2), torch.empty(3, 3), "crossed: expected a product of each other column"),
        (torch.ones(4, 2), None, "crossed: expected with others"),
        (None, torch.empty(2, 3), "crossed: expected with others"),
    ],
)
def test_others_that_do_not_fit_are_refused(others, crossed, said) -> None:
    with pytest.raises(RuntimeError, match=said):
        column_products(torch.ones(4, 3), torch.empty(3, 3), others, crossed)


def test_the_op_passes_opcheck() -> None:
    op = torch.ops.drcl.column_products.default
    torch.library.opcheck(op, (torch.randn(20, 9), None, torch.empty(9, 9), None))
    more = torch.randn(20, 4), torch.empty(9, 9), torch.empty(4, 9)
    torch.library.opcheck(op, (torch.randn(20, 9), *more))


@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_takes_it_for_float32_where_panels_are_the_faster(
    panels: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "multiplies_panels", lambda: panels)
    h, outside = torch.randn(300, 12, dtype=dtype), torch.randn(300, 40, dtype=dtype)
    with torch.profiler.profile() as seen:
        found = native.by_features(h, outside)
    own = any(event.key == "drcl::column_products" for event in seen.key_averages())
    assert own == (panels and dtype == torch.float32)
    h, outside = h.double(), outside.double()
    expected = h.T @ h, h[:, 4:].T @ outside, (outside.T @ outside)[None]
    for one, exact in zip(found, expected, strict=True):
        assert (one.double() - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("more", [1, 20, 24, 25, 60])
@pytest.mark.parametrize(("count", "width"), [(1, 5), (300, 40), (1100, 70)])
def test_others_are_multiplied_in_the_same_pass(count: int, width: int, more: int) -> None:
    rows, others = torch.randn(count, width), torch.randn(count, 3 * more)[:, more : 2 * more]
    out, crossed = torch.full((width, width), torch.nan), torch.full((more, width), torch.nan)
    column_products(rows, out, others, crossed)
    assert torch.equal(out, products(rows))
    steps = min(count, 256) + -(-count // 256)
    exact = others.double().T @ rows.double()
    bound = steps * 2.0**-24 * (others.double().abs().T @ rows.double().abs())
    assert ((crossed.double() - exact).abs() <= 1.001 * bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [3, 6, 12, 30, 63, 192])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 600, 1100, 3000])
def test_the_inner_products_of_coordinates_are_summed_in_float64(
    count: int, columns: int, dtype: torch.dtype
) -> None:
    h = torch.randn(count, columns, dtype=dtype)
    found = torch.ops.drcl.reversible_inner(h)
    exact = h.double().T @ h.double()
    assert found.dtype == torch.float64 and torch.equal(found, found.T)
    assert ((found - exact).abs() <= 1e-13 * (h.double().abs().T @ h.double().abs())).all()


def test_inner_products_of_coordinates_have_the_same_bits_everywhere() -> None:
    draw = "x = torch.randn(3000, width, generator=g)\n"
    said = bits_by_width(draw, "found = [torch.ops.drcl.reversible_inner(x)]")
    assert len(said) == 3, said
