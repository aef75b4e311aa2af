"""Equal rows of a gallery: all of them found, whatever their numbers look like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drcl.metrics.duplicates import equal_rows, row_hashes

KINDS = {
    "signs": torch.randint(0, 2, (64, 24)).double() * 2 - 1,
    "powers": 2.0 ** torch.randint(-3, 4, (64, 24)).double(),
    "any": torch.randn(64, 24, dtype=torch.float64),
}


def first_equal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """By comparing every row with all that come before it."""
    same = (rows[:, None] == rows[None]).all(dim=2)
    first = same.float().argmax(dim=1)
    copies = (first < torch.arange(len(rows))).nonzero()[:, 0]
    return copies, first[copies]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_all_are_found(kind: str, dtype: torch.dtype) -> None:
    """Of signs a hash by products of bits alone would have two values."""
    rows = KINDS[kind][torch.randint(64, (300,))].to(dtype)
    found = equal_rows(
        lambda start, stop: rows[start:stop], lambda at: rows[at], len(rows), rows.shape[1]
    )
    expected = first_equal(rows)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_rows_that_share_a_hash_with_others_than_their_copies_are_found() -> None:
    """A hash of a few columns: here these are the same in all rows."""
    rows = torch.zeros(40, 24)
    rows[:, 1] = torch.arange(40) % 7  # no column of the hash
    hashes = row_hashes(lambda start, stop: rows[start:stop], len(rows), rows.shape[1])
    assert len(hashes.unique()) == 1
    found = equal_rows(
        lambda start, stop: rows[start:stop], lambda at: rows[at], len(rows), rows.shape[1]
    )
    expected = first_equal(rows)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
