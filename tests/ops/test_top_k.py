"""drcl::top_k: the k highest of all tiles, as one sort of all scores finds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reruns import bits_by_width
from torch import Tensor

from drcl import backends
from drcl.ops.top_k import (
    integer_rows,
    rounded_rows,
    top_k,
    top_k_by_integers,
    top_k_screened,
)

NATIVE = next(one for one in backends.probe_backends() if one.name == "native")
BACKENDS = [
    "eager",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}"),
    ),
]


def kept(scores: Tensor, k: int, tiles: list[int], backend: str) -> tuple[Tensor, Tensor]:
    """What is kept of tiles of these widths, one after the other."""
    values = scores.new_full((len(scores), k), -torch.inf)
    indices = torch.zeros_like(values, dtype=torch.int64)
    begin = 0
    for tile in scores.split(tiles, dim=1):
        top_k(tile, begin, values, indices, backend=backend)
        begin += tile.shape[1]
    return values, indices


# Around the 64 scores that are compared at once; one tile, many, and one narrower than k.
@pytest.mark.parametrize("tiles", [[1], [63], [64], [65], [64, 64], [3, 200, 1, 128, 65], [1000]])
@pytest.mark.parametrize("k", [1, 2, 10, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["any", "ties", "rising", "equal"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_as_a_stable_sort_of_all_scores(
    tiles: list[int], k: int, dtype: torch.dtype, kind: str, backend: str
) -> None:
    count = sum(tiles)
    scores = {
        "any": torch.randn(5, count),
        "ties": torch.randint(-2, 3, (5, count)),
        "rising": torch.arange(count).expand(5, -1),
        "equal": torch.zeros(5, count),
    }[kind].to(dtype)
    values, indices = kept(scores, k, tiles, backend)
    expected = scores.sort(dim=1, descending=True, stable=True)
    there = min(k, count)
    assert torch.equal(values[:, :there], expected.values[:, :k])
    assert torch.equal(indices[:, :there], expected.indices[:, :k])
    assert (values[:, there:] == -torch.inf).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_items_without_a_score_are_never_kept(backend: str) -> None:
    scores = torch.full((2, 300), -torch.inf)
    scores[1, 299] = -1.0
    values, indices = kept(scores, 3, [100, 200], backend)
    assert values.tolist() == [[-torch.inf] * 3, [-1.0, -torch.inf, -torch.inf]]
    assert indices[1, 0] == 299


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_queries_and_no_items(backend: str) -> None:
    assert kept(torch.empty(0, 70), 3, [70], backend)[0].shape == (0, 3)
    if backend == "native":
        values, indices = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64)
        top_k(torch.empty(2, 0), 0, values, indices, backend=backend)
        assert values.tolist() == [[0.0] * 3] * 2 and indices.tolist() == [[1] * 3] * 2


RIGHT = {
    "scores": torch.ones(2, 5),
    "begin": 0,
    "values": torch.zeros(2, 3),
    "indices": torch.zeros(2, 3, dtype=torch.int64),
}


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("scores", torch.ones(5)),
        ("scores", torch.ones(2, 5).half()),
        ("scores", torch.ones(5, 2).T),
        ("values", torch.zeros(2, 3).double()),
        ("values", torch.zeros(3, 3)),
        ("values", torch.zeros(3, 2).T),
        ("indices", torch.zeros(2, 3)),
        ("indices", torch.zeros(2, 4, dtype=torch.int64)),
        ("indices", torch.zeros(1, 3, dtype=torch.int64)),
    ],
)
def test_what_the_op_cannot_read_is_refused(name: str, wrong: Tensor) -> None:
    with pytest.raises(RuntimeError, match=f"{name}: expected"):
        torch.ops.drcl.top_k(**{**RIGHT, name: wrong})


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
def test_the_op_passes_opcheck() -> None:
    arguments = torch.randn(2, 100), 7, torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)
    torch.library.opcheck(torch.ops.drcl.top_k.default, arguments)


def screened(queries: Tensor, rows: Tensor) -> dict[str, Any]:
    """Arguments of the op, with a slack that bfloat16 keeps within."""
    return {
        "screen": (queries.bfloat16() @ rows.bfloat16().T),
        "slack": 0.01 * queries.norm(dim=1) * rows.norm(dim=1).max(),
        "queries": queries,
        "rows": rows,
        "scale": None,
        "begin": 7,
        "limit": queries.shape[0] * rows.shape[0],
        "values": torch.full((len(queries), 3), -torch.inf),
        "indices": torch.zeros(len(queries), 3, dtype=torch.int64),
    }


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
class TestScreened:
    @pytest.mark.parametrize("scale", [None, torch.rand(200)])
    def test_finds_what_all_scores_find(self, scale: Tensor | None) -> None:
        queries, rows = torch.randn(5, 33), torch.randn(200, 33)
        given = {**screened(queries, rows), "scale": scale}
        scores = queries @ rows.T
        if scale is not None:
            scores *= scale
            given["screen"] = queries.bfloat16() @ (rows * scale[:, None]).bfloat16().T
        given["values"][:] = scores[:, :3].sort(dim=1, descending=True).values
        given["indices"][:] = scores[:, :3].sort(dim=1, descending=True).indices
        given["begin"] = 0
        given["screen"][:, :3] = -torch.inf
        computed = top_k_screened(**given)
        best = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(given["indices"], best.indices[:, :3])
        torch.testing.assert_close(given["values"], best.values[:, :3])
        assert 0 < computed < 5 * 197  # all that were left

    @pytest.mark.parametrize("count", [3, 50, 64, 65, 1000])
    @pytest.mark.parametrize("k", [1, 3, 40])
    @pytest.mark.parametrize("kind", ["any", "rising", "ties", "left out"])
    def test_of_the_first_tile_only_what_may_be_among_the_highest(
        self, count: int, k: int, kind: str
    ) -> None:
        queries, rows = torch.randn(5, 33), torch.randn(count, 33)
        if kind == "rising":
            rows = rows[(queries.sum(dim=0) @ rows.T).argsort()]
        elif kind == "ties":
            queries, rows = queries.sign(), rows.sign()
        given = screened(queries, rows)
        scores = queries @ rows.T
        if kind == "left out":
            given["screen"][:, ::2] = scores[:, ::2] = -torch.inf
        given["values"] = torch.full((5, k), -torch.inf)
        given["indices"] = torch.zeros(5, k, dtype=torch.int64)
        computed = top_k_screened(**given)
        best = scores.sort(dim=1, descending=True, stable=True)
        there = min(k, int(scores[0].isfinite().sum()))
        assert torch.equal(given["indices"][:, :there], best.indices[:, :there] + given["begin"])
        torch.testing.assert_close(given["values"][:, :there], best.values[:, :there])
        assert (given["values"][:, there:] == -torch.inf).all()
        if count == 1000 and k < 40 and kind != "ties":
            assert computed < 5 * 50  # of 1,000 each

    def test_more_than_the_limit_changes_nothing(self) -> None:
        """Of rows so alike that bfloat16 cannot tell which is the nearest."""
        rows = 1 + 1e-4 * torch.randn(100, 8)
        given = {**screened(torch.ones(2, 8), rows), "limit": 199}
        assert top_k_screened(**given) == -1
        assert (given["values"] == -torch.inf).all() and (given["indices"] == 0).all()
        assert top_k_screened(**{**given, "limit": 200}) == 200

    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("screen", torch.ones(2, 5)),
            ("screen", torch.ones(2, 4).bfloat16()),
            ("slack", torch.ones(3)),
            ("slack", torch.ones(2).double()),
            ("queries", torch.ones(2, 8).double()),
            ("rows", torch.ones(5, 7)),
            ("rows", torch.ones(8, 5).T),
            ("scale", torch.ones(4)),
            ("values", torch.ones(3, 3)),
            ("indices", torch.ones(2, 3)),
            ("indices", torch.ones(2, 2, dtype=torch.int64)),
        ],
    )
    def test_what_the_op_cannot_read_is_refused(self, name: str, wrong: Tensor) -> None:
        given = {**screened(torch.ones(2, 8), torch.ones(5, 8)), name: wrong}
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            torch.ops.drcl.top_k_screened(**given)

    def test_it_passes_opcheck(self) -> None:
        given = screened(torch.randn(2, 8), torch.randn(5, 8))
        tests = ("test_schema", "test_autograd_registration")  # it returns a number, not a tensor
        torch.library.opcheck(torch.ops.drcl.top_k_screened.default, (), given, test_utils=tests)


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
class TestRoundedRows:
    @pytest.mark.parametrize("width", [1, 15, 16, 17, 100])
    @pytest.mark.parametrize("scale", [None, 2.0 ** torch.randint(-3, 4, (50,))])
    def test_as_pytorch_rounds(self, width: int, scale: Tensor | None) -> None:
        rows = torch.randn(50, width) * 10.0 ** torch.randint(-12, 12, (50, 1))
        rows[0] = 1 + 2.0**-8  # a tie, to even
        rows[1] = 1 + 3 * 2.0**-8
        rows[2] = 0
        rounded, lengths, off = rounded_rows(rows, scale)
        scaled = rows if scale is None else rows * scale[:, None]
        assert torch.equal(rounded, scaled.bfloat16())
        torch.testing.assert_close(lengths.double(), scaled.double().norm(dim=1))
        lost = (scaled.double() - rounded.double()).norm(dim=1)
        long = lengths >= 1e-9
        torch.testing.assert_close(off[long].double(), lost[long])
        assert (off[~long] >= lost[~long]).all()  # what is squared would be too small
        assert off[2] == 0 and rounded[2].count_nonzero() == 0

    @pytest.mark.parametrize(
        ("rows", "scale", "name"),
        [
            (torch.ones(3), None, "rows"),
            (torch.ones(3, 2).double(), None, "rows"),
            (torch.ones(3, 2), torch.ones(2), "scale"),
            (torch.ones(3, 2), torch.ones(3).double(), "scale"),
        ],
    )
    def test_what_it_cannot_read_is_refused(
        self, rows: Tensor, scale: Tensor | None, name: str
    ) -> None:
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            rounded_rows(rows, scale)

    def test_it_passes_opcheck(self) -> None:
        given = torch.randn(4, 8), torch.rand(4)
        torch.library.opcheck(torch.ops.drcl.rounded_rows.default, given)

    def test_no_rows(self) -> None:
        rounded, lengths, off = rounded_rows(torch.empty(0, 8))
        assert rounded.shape == (0, 8) and len(lengths) == len(off) == 0


def by_integers(queries: Tensor, rows: Tensor, scale: Tensor | None = None) -> dict[str, Any]:
    """Arguments of the op, with a slack that whole steps keep within."""
    one, _, off, steps = integer_rows(queries)
    other, lengths, lost, row_steps = integer_rows(rows, scale)
    norms = queries.norm(dim=1)
    slack = 1.01 * (off * lengths.max() + (norms + off) * lost.max())
    return {
        "whole_queries": one,
        "query_steps": steps,
        "whole_rows": other,
        "row_steps": row_steps,
        "slack": slack + 1e-5 * norms * lengths.max(),
        "queries": queries,
        "rows": rows,
        "scale": scale,
        "begin": 7,
        "limit": queries.shape[0] * rows.shape[0],
        "values": torch.full((len(queries), 3), -torch.inf),
        "indices": torch.zeros(len(queries), 3, dtype=torch.int64),
    }


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
class TestByIntegers:
    @pytest.mark.parametrize("scale", [None, torch.rand(200)])
    @pytest.mark.parametrize("count", [1, 24, 25, 60])
    def test_finds_what_all_scores_find(self, scale: Tensor | None, count: int) -> None:
        queries, rows = torch.randn(count, 33), torch.randn(200, 33)
        given = by_integers(queries, rows, scale)
        scores = queries @ rows.T * (1.0 if scale is None else scale)
        given["values"][:] = scores[:, :3].sort(dim=1, descending=True).values
        given["indices"][:] = scores[:, :3].sort(dim=1, descending=True).indices
        given["begin"] = 0
        given["row_steps"][:3] = torch.nan
        computed = top_k_by_integers(**given)
        best = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(given["indices"], best.indices[:, :3])
        torch.testing.assert_close(given["values"], best.values[:, :3])
        assert 0 < computed < count * 10

    @pytest.mark.parametrize("count", [3, 50, 72, 73, 1000])
    @pytest.mark.parametrize("width", [1, 2, 33, 600])
    @pytest.mark.parametrize("k", [1, 3, 40])
    @pytest.mark.parametrize("kind", ["any", "rising", "ties", "left out", "zeros"])
    def test_of_the_first_tile_only_what_may_be_among_the_highest(
        self, count: int, width: int, k: int, kind: str
    ) -> None:
        """Whole numbers, which float32 adds up exactly."""
        queries = torch.randint(-50, 51, (30, width)).float()
        rows = torch.randint(-50, 51, (count, width)).float()
        if kind == "rising":
            rows = rows[(queries.sum(dim=0) @ rows.T).argsort()]
        elif kind == "ties":
            queries, rows = queries.sign(), rows.sign()
        elif kind == "zeros":
            queries[::2] = 0
            rows[::3] = 0
        given, scores = by_integers(queries, rows), queries @ rows.T
        if kind == "left out":
            given["row_steps"][::2] = torch.nan
            scores[:, ::2] = -torch.inf
        given["values"] = torch.full((30, k), -torch.inf)
        given["indices"] = torch.zeros(30, k, dtype=torch.int64)
        computed = top_k_by_integers(**given)
        best = scores.sort(dim=1, descending=True, stable=True)
        there = min(k, int(scores[0].isfinite().sum()))
        assert torch.equal(given["indices"][:, :there], best.indices[:, :there] + given["begin"])
        assert torch.equal(given["values"][:, :there], best.values[:, :there])
        assert (given["values"][:, there:] == -torch.inf).all()
        if count == 1000 and width > 2 and kind == "any":
            assert computed < 30 * (k + 10)  # of 1,000 each

    def test_sums_that_fill_int32(self) -> None:
        """Equal entries, which make the longest sums; and one entry, which makes the largest."""
        queries = torch.cat([torch.ones(2, 64), torch.eye(64)[:2]]) * 3
        queries[1] *= -1
        rows = torch.cat([queries, torch.randn(20, 64) * 0.1])
        given = by_integers(queries, rows)
        assert given["whole_queries"].double().norm(dim=1).max() < 2**15.5
        assert top_k_by_integers(**given) < 4 * 24
        best = (queries @ rows.T).sort(dim=1, descending=True, stable=True)
        assert torch.equal(given["indices"] - 7, best.indices[:, :3])

    def test_more_than_the_limit_changes_nothing(self) -> None:
        """Of rows so alike that whole steps cannot tell which is the nearest."""
        rows = 1 + 1e-6 * torch.randn(100, 8)
        given = {**by_integers(torch.ones(2, 8), rows), "limit": 199}
        assert top_k_by_integers(**given) == -1
        assert (given["values"] == -torch.inf).all() and (given["indices"] == 0).all()
        assert top_k_by_integers(**{**given, "limit": 200}) == 200

    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("whole_queries", torch.ones(2, 8)),
            ("whole_queries", torch.ones(2, 9).short()),
            ("whole_rows", torch.ones(4, 8).short()),
            ("whole_rows", torch.ones(5, 6).short()),
            ("query_steps", torch.ones(3)),
            ("row_steps", torch.ones(5).double()),
            ("slack", torch.ones(3)),
            ("queries", torch.ones(2, 8).double()),
            ("rows", torch.ones(5, 7)),
            ("scale", torch.ones(4)),
            ("values", torch.ones(3, 3)),
            ("indices", torch.ones(2, 3)),
        ],
    )
    def test_what_the_op_cannot_read_is_refused(self, name: str, wrong: Tensor) -> None:
        given = {**by_integers(torch.ones(2, 8), torch.ones(5, 8)), name: wrong}
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            torch.ops.drcl.top_k_by_integers(**given)

    def test_it_passes_opcheck(self) -> None:
        given = by_integers(torch.randn(2, 8), torch.randn(5, 8))
        tests = ("test_schema", "test_autograd_registration")  # it returns a number, not a tensor
        op = torch.ops.drcl.top_k_by_integers.default
        torch.library.opcheck(op, (), given, test_utils=tests)


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
class TestIntegerRows:
    @pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 4096])
    @pytest.mark.parametrize("scale", [None, 2.0 ** torch.randint(-3, 4, (50,))])
    def test_the_nearest_whole_steps(self, width: int, scale: Tensor | None) -> None:
        rows = torch.randn(50, width) * 10.0 ** torch.randint(-12, 12, (50, 1))
        rows[0] = 0
        whole, lengths, off, steps = integer_rows(rows, scale)
        scaled = (rows if scale is None else rows * scale[:, None]).double()
        exact = whole[:, :width].double() * steps[:, None].double()
        assert ((scaled - exact).abs() <= 0.505 * steps[:, None]).all()
        assert whole.shape[1] % 2 == 0 and (whole[:, width:] == 0).all()
        torch.testing.assert_close(lengths, scaled.norm(dim=1).float())
        lost = (scaled - exact).norm(dim=1)
        assert ((off - lost).abs() <= 0.01 * lost + 2.0**-22 * lengths).all()
        # As fine as int32 allows: the product of the two longest rows.
        longest = whole.double().norm(dim=1)
        assert longest.max() < 2**15.5 and (longest[1:] > 32000).all()
        assert whole[0].count_nonzero() == 0 and off[0] == 0

    @pytest.mark.parametrize(
        ("rows", "scale", "name"),
        [
            (torch.ones(3), None, "rows"),
            (torch.ones(3, 2).double(), None, "rows"),
            (torch.ones(1, 2**16 + 1), None, "rows"),
            (torch.ones(3, 2), torch.ones(2), "scale"),
        ],
    )
    def test_what_it_cannot_read_is_refused(
        self, rows: Tensor, scale: Tensor | None, name: str
    ) -> None:
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            integer_rows(rows, scale)

    @pytest.mark.parametrize("width", [7, 8])
    def test_it_passes_opcheck(self, width: int) -> None:
        given = torch.randn(4, width), torch.rand(4)
        torch.library.opcheck(torch.ops.drcl.integer_rows.default, given)


@pytest.mark.skipif(not NATIVE.available, reason=f"native: {NATIVE.reason}")
def test_the_same_bits_in_every_instruction_set_and_on_any_number_of_threads() -> None:
    draw = (
        "from drcl.ops.top_k import *\n"
        "q, x = torch.randn(50, width, generator=g), torch.randn(9011, width, generator=g)\n"
        "slack = 0.01 * q.norm(dim=1) * x.norm(dim=1).max()\n"
        "screen = (q @ x.T).bfloat16()\n"
        "one, other = integer_rows(q), integer_rows(x)\n"
    )
    compute = (
        "values, indices = torch.full((50, 9), -torch.inf), torch.zeros(50, 9).long()\n"
        "top_k_screened(screen, slack, q, x, None, 0, 10**9, values, indices)\n"
        "more, items = torch.full((50, 9), -torch.inf), torch.zeros(50, 9).long()\n"
        "whole = one[0], one[3], other[0], other[3], slack\n"
        "count = top_k_by_integers(*whole, q, x, None, 0, 10**9, more, items)\n"
        "found = *rounded_rows(x), *other, values, indices, more, items, torch.tensor([count])\n"
    )
    said = bits_by_width(draw, compute)
    assert len(said) == 3, said
