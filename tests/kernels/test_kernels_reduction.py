"""Sums of partials and products in fours, against float64."""

from __future__ import annotations

import pytest
import torch
from kernel_testing import DEVICE, poisoned  # noqa: F401

from drcl.kernels.product import fours, product
from drcl.kernels.reduction import LONGEST, sum_partials


@pytest.mark.parametrize("count", [1, LONGEST, LONGEST + 1, 3 * LONGEST - 5])
@pytest.mark.parametrize("width", [3, 4])
def test_partials_are_added_in_float64(count, width):
    """One program up to LONGEST, and one more launch beyond: no rounding but the last."""
    partials = torch.rand(count, width, device=DEVICE)
    out = sum_partials(partials, partials.new_empty(width))
    expected = partials.double().sum(0)
    torch.testing.assert_close(out.double(), expected, rtol=2**-24, atol=0)
    assert torch.equal(out, sum_partials(partials, partials.new_empty(width)))


@pytest.mark.parametrize("a_along, b_along", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("m, n, k", [(20, 68, 36), (68, 12, 4), (36, 20, 100)])
def test_products_of_rows_in_fours(m, n, k, a_along, b_along):
    a = torch.randn(m, k, device=DEVICE) if a_along else torch.randn(k, m, device=DEVICE).T
    b = torch.randn(k, n, device=DEVICE) if b_along else torch.randn(n, k, device=DEVICE).T
    assert (fours(a), fours(b)) == (a_along, b_along)
    exact = a.double() @ b.double()
    torch.testing.assert_close(product(a, b).double(), exact, rtol=1e-5, atol=1e-5)


def test_fours_are_claimed_only_where_they_are():
    """A length or a pitch that 4 does not divide; and what 16 divides needs no telling."""
    assert fours(torch.empty(8, 12)) == 1 and fours(torch.empty(8, 12).T) == 0
    assert fours(torch.empty(8, 30)[:, :12]) is None  # the pitch
    assert fours(torch.empty(8, 32)[:, :10]) is None  # the length
    assert fours(torch.empty(64, 32)) is None
    assert fours(torch.empty(8, 24)[:, ::2]) is None
