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


def test_the_op_passes_opcheck() -> None:
    op = torch.ops.drcl.column_products.default
    torch.library.opcheck(op, (torch.randn(20, 9), torch.empty(9, 9)))


@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_takes_it_for_float32_where_panels_are_the_faster(
    panels: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "multiplies_panels", lambda: panels)
    outside = torch.randn(300, 40, dtype=dtype)
    with torch.profiler.profile() as seen:
        found = native.gram(outside)
    own = any(event.key == "drcl::column_products" for event in seen.key_averages())
    assert own == (panels and dtype == torch.float32)
    exact = outside.double().T @ outside.double()
    assert (found[0].double() - exact).norm() <= 1e-6 * exact.norm()
