"""drcl::inner_products against float64: its error, and the same bits however it is computed."""

from __future__ import annotations

import pytest
import torch
from reruns import bits_by_width
from torch import Tensor

from drcl import Index, backends, use_backend
from drcl.native import products as native
from drcl.ops import inner_products as op
from drcl.ops.inner_products import FEW, FEWER, WIDE, Form

NATIVE = next(one for one in backends.probe_backends() if one.name == "native")
pytestmark = pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
OURS = pytest.mark.parametrize("form", [Form.FEW, Form.PANELS])


def products(query: Tensor, gallery: Tensor, form: Form) -> Tensor:
    out = query.new_empty(len(query), len(gallery))
    op.inner_products(query, gallery, out, form)
    return out


# Widths around the 16 entries of a step and the 256 of a sum, row counts around the four readers
# and a block, queries around the vectors of a panel.
WIDTHS = (1, 7, 15, 16, 17, 31, 32, 33, 129, 256, 257, 600)
COUNTS = (1, 2, 3, 5, 7, 8, 71, 73, 503)
QUERIES = {Form.FEW: (1, 2, FEW), Form.PANELS: (1, 7, 8, 9, 16, 17, 24, 25, 49)}


@OURS
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", COUNTS)
def test_is_within_the_rounding_of_its_sums(width: int, rows: int, form: Form) -> None:
    for queries in QUERIES[form]:
        query, gallery = torch.randn(queries, width), torch.randn(rows, width)
        found = products(query, gallery, form)
        exact = query.double() @ gallery.double().T
        # Roundings that an entry goes through, each off by half a unit at most.
        few = width // 16 + 4 + width % 16 + 1
        steps = few if form == Form.FEW else min(width, 256) + -(-width // 256)
        bound = steps * 2.0**-24 * (query.double().abs() @ gallery.double().abs().T)
        assert found.dtype == torch.float32
        assert ((found.double() - exact).abs() <= 1.001 * bound).all()


FLOATS = torch.ones(4, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        *(FLOATS.to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.int8)),
        FLOATS[0],
        FLOATS[:, None],
        FLOATS.T,
        torch.ones(4, 64)[:, ::2],
    ],
    ids=lambda one: f"{one.dtype}-{tuple(one.shape)}",
)
@pytest.mark.parametrize("side", ["query", "gallery", "out"])
def test_what_the_op_cannot_read_is_refused(side: str, wrong: Tensor) -> None:
    given = {"query": FLOATS, "gallery": FLOATS, "out": torch.ones(4, 4), side: wrong}
    with pytest.raises(RuntimeError, match=r"expected (a matrix of float32|rows|a product of)"):
        torch.ops.drcl.inner_products(**given, few=False)


def test_sides_that_do_not_fit_are_refused() -> None:
    out = torch.empty(2, 4)
    with pytest.raises(RuntimeError, match="gallery: expected a device like that of query, cpu"):
        torch.ops.drcl.inner_products(FLOATS[:2], FLOATS.to("meta"), out, False)
    with pytest.raises(RuntimeError, match="gallery: expected rows of width 16"):
        torch.ops.drcl.inner_products(torch.ones(2, 16), FLOATS, out, False)
    with pytest.raises(RuntimeError, match="out: expected a product of each query and row"):
        torch.ops.drcl.inner_products(FLOATS, FLOATS, out, False)


@OURS
def test_rows_from_anywhere(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "_TILE", 1000)  # of 25 rows
    query, gallery = torch.randn(10, 40), torch.randn(110, 80)
    expected = products(query, gallery[:, ::2].contiguous(), form)
    assert torch.equal(products(query, gallery[:, ::2], form), expected)
    by_column = gallery[:, ::2].T.contiguous().T
    assert torch.equal(products(query.T.contiguous().T, by_column, form), expected)
    found = products(query, gallery[7:, :40], form)
    assert torch.equal(found, products(query, gallery[7:, :40].clone(), form))
    shifted = torch.empty(110 * 40 + 1)[1:].view(110, 40).copy_(gallery[:, ::2])
    assert torch.equal(products(query, shifted, form), expected)
    assert products(query, gallery[:0, :40], form).shape == (10, 0)
    assert products(query[:0], gallery[:, :40], form).shape == (0, 110)


@OURS
def test_into_a_part_of_a_larger_matrix(form: Form) -> None:
    query, gallery = torch.randn(27, 40), torch.randn(101, 40)
    room = torch.full((29, 201), 0.5)
    op.inner_products(query, gallery, room[1:28, 33:134], form)
    assert torch.equal(room[1:28, 33:134], products(query, gallery, form))
    room[1:28, 33:134] = 0.5
    assert (room == 0.5).all()


@OURS
@pytest.mark.parametrize("width", [77, 700])
def test_each_product_is_the_same_number_beside_any_others(width: int, form: Form) -> None:
    query, gallery = torch.randn(51, width), torch.randn(1000, width)
    every = products(query, gallery, form)
    for start, stop in ((0, 1), (1, 6), (3, 999), (500, 503)):
        assert torch.equal(products(query, gallery[start:stop], form), every[:, start:stop])
    for start, stop in ((0, 1), (50, 51), (3, 12), (20, 37), (1, 50)):
        assert torch.equal(products(query[start:stop], gallery, form), every[start:stop])


def test_panels_beyond_the_memory_for_them() -> None:
    query, gallery = torch.randn(50, 2**16), torch.randn(5, 2**16)  # three, of 6 MiB each
    every = products(query, gallery, Form.PANELS)
    one_by_one = torch.cat([products(row[None], gallery, Form.PANELS) for row in query])
    assert torch.equal(every, one_by_one)
    bound = (256 + 256) * 2.0**-24 * (query.double().abs() @ gallery.double().abs().T)
    assert ((every.double() - query.double() @ gallery.double().T).abs() <= bound).all()


@OURS
def test_equal_rows_have_equal_products_with_either_zero(form: Form) -> None:
    query = torch.randn(30, 300)
    query[::2] *= 2.0**-140  # products that are lost, of either sign
    gallery = torch.randn(200, 300) * 2.0**-10
    gallery[:, ::3] = 0.0
    gallery[100:] = gallery[:100].flip(0)
    gallery[100:, ::3] = -0.0
    found = products(query, gallery, form)
    assert torch.equal(found[:, :100], found[:, 100:].flip(1))


@OURS
def test_values_that_are_not_finite_stay_in_their_products(form: Form) -> None:
    query, gallery = torch.randn(9, 40), torch.randn(90, 40)
    expected = products(query, gallery, form)
    gallery[5, 3], gallery[17, 2], gallery[30, :2] = torch.nan, torch.inf, torch.tensor(torch.inf)
    found, exact = products(query, gallery, form), query.double() @ gallery.double().T
    odd = [5, 17, 30]
    assert torch.equal(found[:, odd].double().nan_to_num(), exact[:, odd].nan_to_num())
    found[:, odd] = expected[:, odd]
    assert torch.equal(found, expected)


@OURS
def test_the_same_bits_in_every_instruction_set_and_on_any_number_of_threads(form: Form) -> None:
    draw = (
        "from drcl.ops.inner_products import Form, inner_products\n"
        "q, x = torch.randn(11, width, generator=g), torch.randn(5011, width, generator=g)\n"
        "out = torch.empty(11, 5011)\n"
    )
    said = bits_by_width(draw, f"inner_products(q, x, out, {form})\nfound = [out]")
    assert len(said) == 3, said


@pytest.mark.parametrize(("count", "width"), [(1, 3), (24, 8), (100, 70), (301, 129), (90, 0)])
def test_one_triangle_of_products_has_the_bits_of_the_whole(count: int, width: int) -> None:
    rows = torch.randn(count, width + 3)[:, :width]  # rows that lie apart
    whole, out = torch.empty(count, count), torch.full((count, count), torch.nan)
    torch.ops.drcl.inner_products(rows, rows, whole, False)
    torch.ops.drcl.upper_products(rows, out)
    assert torch.equal(out.triu(), whole.triu())
    exact = rows.double() @ rows.double().T
    lengths = rows.double().norm(dim=1)
    assert ((whole.double() - exact).abs() <= 1e-6 * torch.outer(lengths, lengths)).all()


@pytest.mark.parametrize("count", [15, 16, 128, 129])
def test_a_product_by_a_wide_matrix(count: int) -> None:
    """By panels where these are the faster, which leave its columns where they lie."""
    by = torch.randn(1030, 1024)
    for rows, matrix, suits in (
        (torch.randn(count, 1024), by.T, 16 <= count <= 128),
        (torch.randn(count, 2048)[:, ::2], by.T, 16 <= count <= 128),
        (torch.randn(count, 1030), by, False),
        (torch.randn(count, 1024).double(), by.T.double(), False),
        (torch.randn(count, 1024), by[:120].T, False),  # of fewer entries
    ):
        found = native.product(rows, matrix)
        exact = rows.double() @ matrix.double()
        assert (found.double() - exact).norm() <= 1e-6 * exact.norm()
        if suits and native.multiplies_panels():
            panels = torch.empty_like(found)
            torch.ops.drcl.inner_products(rows.contiguous(), matrix.T, panels, False)
            assert torch.equal(found, panels)


@pytest.mark.parametrize(
    ("rows", "matrix", "out"),
    [
        (torch.ones(6, 7), torch.ones(7, 5).T, torch.empty(6, 5)),
        (torch.ones(6, 7), torch.ones(5, 1).expand(5, 7), torch.empty(6, 5)),
        (torch.ones(6, 7), torch.ones(5, 8), torch.empty(6, 5)),
        (torch.ones(6, 7), torch.ones(5, 7), torch.empty(5, 6)),
        (torch.ones(6, 7).double(), torch.ones(5, 7), torch.empty(6, 5)),
    ],
)
def test_a_transposed_product_refuses_what_it_would_misread(rows, matrix, out) -> None:
    with pytest.raises(RuntimeError, match="expected another dtype, shape or layout"):
        torch.ops.drcl.transposed_product(rows, matrix, out)


def test_the_op_passes_opcheck() -> None:
    torch.library.opcheck(
        torch.ops.drcl.upper_products.default, (torch.randn(9, 20), torch.empty(9, 9))
    )
    for few in (True, False):
        arguments = torch.randn(2, 20), torch.randn(9, 20), torch.empty(2, 9), few
        torch.library.opcheck(torch.ops.drcl.inner_products.default, arguments)


@pytest.mark.parametrize(
    ("panels", "expected"),
    [
        (False, {1: Form.FEW, FEW: Form.FEW, FEW + 1: Form.MATRICES}),
        (True, {1: Form.FEW, FEWER: Form.FEW, FEWER + 1: Form.PANELS}),
    ],
)
def test_which_form_is_taken(
    panels: bool, expected: dict[int, Form], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "multiplies_panels", lambda: panels)
    cpu = torch.device("cpu")
    assert {queries: Form.of(queries, WIDE, cpu) for queries in expected} == expected
    assert Form.of(1, WIDE - 1, cpu) == (Form.FEW if panels else Form.MATRICES)
    assert Form.of(2, WIDE - 1, cpu) == (Form.PANELS if panels else Form.MATRICES)
    assert Form.of(1, WIDE, torch.device("meta")) == Form.MATRICES
    with use_backend("eager"):
        assert Form.of(1, WIDE, cpu) == Form.MATRICES


@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize("queries", [1, FEW, FEW + 1])
def test_an_index_finds_the_same_with_it_and_without(
    queries: int, panels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact products, rows that are equal, several segments, some of them removed."""
    calls = []

    def counted(x: Tensor, piece: Tensor, out: Tensor, form: Form) -> None:
        calls.append(len(piece))
        op.inner_products(x, piece, out, form)

    monkeypatch.setattr("drcl.metrics.search.inner_products", counted)
    monkeypatch.setattr(op, "multiplies_panels", lambda: panels)
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
    assert calls == ([250, 250, 250, 150] * 2 if panels or queries <= FEW else [])
