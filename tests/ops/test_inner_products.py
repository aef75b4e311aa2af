"""drcl::inner_products against float64: its error, and the same bits however it is computed."""

from __future__ import annotations

import pytest
import torch
from reruns import bits_by_width
from torch import Tensor

from drcl import Index, backends, use_backend
from drcl.ops.inner_products import FEW, WIDE, inner_products

NATIVE = next(one for one in backends.probe_backends() if one.name == "native")
pytestmark = pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")

# Widths around the 16 entries of a step, row counts around the four readers.
WIDTHS = (1, 7, 15, 16, 17, 31, 32, 33, 129, 256)
COUNTS = (1, 2, 3, 4, 5, 7, 8, 4003)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", COUNTS)
def test_is_within_the_rounding_of_its_sums(width: int, rows: int) -> None:
    for queries in (1, 2, FEW):
        query, gallery = torch.randn(queries, width), torch.randn(rows, width)
        found = inner_products(query, gallery, backend="native")
        exact = query.double() @ gallery.double().T
        # Additions and one product that an entry goes through, each off by half a unit at most.
        steps = width // 16 + 4 + width % 16 + 1
        bound = steps * 2.0**-24 * (query.double().abs() @ gallery.double().abs().T)
        assert found.shape == (queries, rows) and found.dtype == torch.float32
        assert ((found.double() - exact).abs() <= 1.001 * bound).all()


FLOATS = torch.ones(4, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        *(FLOATS.to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.int8)),
        FLOATS[0],
        FLOATS[:, None],
        FLOATS.T,
        FLOATS[:, ::2],
    ],
    ids=lambda one: f"{one.dtype}-{tuple(one.shape)}",
)
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_what_the_op_cannot_read_is_refused(side: str, wrong: Tensor) -> None:
    given = {"query": FLOATS, "gallery": FLOATS, side: wrong}
    with pytest.raises(RuntimeError, match=f"{side}: expected (a matrix of float32|contiguous)"):
        torch.ops.drcl.inner_products(**given)


def test_sides_of_different_widths_or_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="gallery: expected a device like that of query, cpu"):
        torch.ops.drcl.inner_products(FLOATS, FLOATS.to("meta"))
    with pytest.raises(RuntimeError, match="gallery: expected rows of width 16"):
        torch.ops.drcl.inner_products(torch.ones(2, 16), FLOATS)


def test_rows_from_anywhere() -> None:
    query, gallery = torch.randn(2, 40), torch.randn(100, 80)
    expected = inner_products(query, gallery[:, ::2].contiguous(), backend="native")
    assert torch.equal(inner_products(query, gallery[:, ::2], backend="native"), expected)
    found = inner_products(query, gallery[7:, :40], backend="native")
    assert torch.equal(found, inner_products(query, gallery[7:, :40].clone(), backend="native"))
    shifted = torch.empty(100 * 40 + 1)[1:].view(100, 40).copy_(gallery[:, ::2])
    assert torch.equal(inner_products(query, shifted, backend="native"), expected)
    assert inner_products(query, gallery[:0, :40], backend="native").shape == (2, 0)


def test_each_product_is_the_same_number_beside_any_rows() -> None:
    query, gallery = torch.randn(3, 77), torch.randn(1000, 77)
    every = inner_products(query, gallery, backend="native")
    for start, stop in ((0, 1), (1, 6), (3, 999), (500, 503)):
        part = inner_products(query, gallery[start:stop], backend="native")
        assert torch.equal(part, every[:, start:stop])
    for one in range(3):
        assert torch.equal(
            inner_products(query[one, None], gallery, backend="native")[0], every[one]
        )


def test_the_same_bits_in_every_instruction_set_and_on_any_number_of_threads() -> None:
    draw = (
        "from drcl.ops.inner_products import inner_products\n"
        "q, x = torch.randn(3, width, generator=g), torch.randn(20011, width, generator=g)\n"
    )
    said = bits_by_width(draw, "found = [inner_products(q, x, backend='native')]")
    assert len(said) == 3, said


def test_the_op_passes_opcheck() -> None:
    arguments = torch.randn(2, 20), torch.randn(9, 20)
    torch.library.opcheck(torch.ops.drcl.inner_products.default, arguments)


@pytest.mark.parametrize("queries", [1, FEW, FEW + 1])
def test_an_index_finds_the_same_with_it_and_without(
    queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact products, rows that are equal, several segments, some of them removed."""
    calls = []

    def counted(x: Tensor, piece: Tensor, *, backend: str) -> Tensor:
        calls.append(len(piece))
        return inner_products(x, piece, backend=backend)

    monkeypatch.setattr("drcl.metrics.search.inner_products", counted)
    generator = torch.Generator().manual_seed(queries)
    rows = torch.randint(-2, 3, (900, WIDE + 3), generator=generator).float()
    query = torch.randint(-2, 3, (queries, WIDE + 3), generator=generator).float()
    index = Index()
    for part in rows.split(250):
        index.add(part)
    for change in (lambda: None, lambda: index.remove(range(0, 900, 7))):
        change()
        found = index.search(query, 40)
        with use_backend("eager"):
            expected = index.search(query, 40)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.scores, expected.scores)
        allowed = torch.tensor([row % 7 > 0 or len(index) == 900 for row in range(900)])
        scores = query.double() @ rows.double().T
        scores[:, ~allowed] = -torch.inf
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :40]
        assert torch.equal(found.indices, order)
    assert calls == ([250, 250, 250, 150] * 2 if queries <= FEW else [])
