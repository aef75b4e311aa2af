"""An index: what it finds, against a sort in float64; ids, filters, removal, compaction."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drcl import Index, metrics
from drcl.portable import maps_hold_files


def integers(rows: int, width: int, seed: int = 0, low: int = -3) -> Tensor:
    """Rows of small integers: their products are exact, whatever order they are added in."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 4, (rows, width), generator=generator).float()


def by_sorting(query: Tensor, rows: Tensor, allowed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k allowed rows of largest product in float64, ties by number."""
    scores = query.double() @ rows.double().T
    scores[:, ~allowed] = -torch.inf
    found = scores.sort(dim=1, descending=True, stable=True)
    k = min(k, int(allowed.sum()))
    return found.values[:, :k], found.indices[:, :k]


@pytest.fixture(params=["memory", "mapped"])
def place(request: Any, tmp_path: Path) -> Any:
    """An index as it is, or saved and loaded again."""

    def placed(index: Index) -> Index:
        if request.param == "memory":
            return index
        index.save(tmp_path / "index", overwrite=True)
        return Index.load(tmp_path / "index")

    return placed


@pytest.mark.parametrize("k", [1, 5, 400])
def test_finds_what_a_sort_of_all_products_finds(place: Any, k: int) -> None:
    rows, query = integers(300, 7), integers(40, 7, seed=1)
    index = Index()
    for part in rows.split(90):
        index.add(part)
    index = place(index)
    scores, indices = by_sorting(query, rows, torch.ones(300, dtype=torch.bool), k)
    found = index.search(query, k)
    assert torch.equal(found.indices, indices) and torch.equal(found.scores.double(), scores)
    assert found.scores.dtype == torch.float32
    assert np.array_equal(found.ids, indices.numpy())
    nearest = metrics.nearest(query, rows, k, metric="dot")
    assert torch.equal(found.indices, nearest.indices)


@pytest.mark.parametrize("tile", [2**24, 100])
def test_numbers_that_float32_would_lose_count(
    place: Any, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries of any length a float64 has, and of numbers far apart, among ordinary ones."""
    monkeypatch.setattr(metrics.search, "TILE_BYTES", tile)
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.randn(300, 7, generator=generator), torch.eye(7), 2 * torch.eye(7)])
    query = torch.randn(9, 7, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([1e-37, 1e-39, 1e-44, 1e-100, 1e-160, 1, 1, 1, 1], dtype=torch.float64)
    query *= lengths[:, None]
    query[5] = torch.tensor([1.0, 0, 0, 1e-50, 0, 1e-42, 0])
    index = place(Index().add(rows[:200]).add(rows[200:]))
    nearest = metrics.nearest(query, rows, 300, metric="dot")
    found = index.search(query, 300)
    assert torch.equal(found.indices, nearest.indices)
    lost, kept = slice(1, 6), [0, 6, 7, 8]
    assert torch.equal(found.scores[lost], nearest.scores[lost].float())
    error = (found.scores - nearest.scores).abs()[kept] / lengths[kept, None]
    assert found.scores.dtype == torch.float32 and float(error.max()) < 1e-5


def test_in_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, query = integers(2000, 5, low=-1), integers(30, 5, seed=1)
    monkeypatch.setattr(metrics.search, "MAX_BYTES", 2**20)
    index = Index().add(rows[:1500]).add(rows[1500:]).remove(range(0, 2000, 3))
    allowed = torch.arange(2000) % 3 != 0
    scores, indices = by_sorting(query, rows, allowed, 70)
    found = index.search(query, 70)
    assert torch.equal(found.indices, indices) and torch.equal(found.scores.double(), scores)


def test_equal_rows_tie_wherever_they_stand(place: Any) -> None:
    """Products of equal rows may differ by a bit; they rank by number all the same."""
    few = torch.nn.functional.normalize(torch.randn(4, 129))
    order = torch.arange(90) % 4
    index = Index()
    for part in few[order].split(17):
        index.add(part)
    index = place(index).remove([0, 5, 6])
    found = index.search(few, 12)
    kept = [n for n in range(90) if n not in (0, 5, 6)]
    for query in range(4):
        assert found.indices[query].tolist() == [n for n in kept if n % 4 == query][:12]
        assert len(found.scores[query].unique()) == 1


@pytest.mark.parametrize("ids", ["integers", "strings"])
def test_removed_rows_are_gone_and_their_ids_free(place: Any, ids: str) -> None:
    rows = integers(50, 4)
    names: Any = [f"row {n}" for n in range(50)] if ids == "strings" else list(range(100, 150))
    index = place(Index().add(rows[:30], ids=names[:30]).add(rows[30:], ids=names[30:]))
    gone = [4, 31, 49]
    index.remove([names[n] for n in gone])
    index = place(index)
    assert len(index) == 47 and index.total == 50
    allowed = torch.ones(50, dtype=torch.bool)
    allowed[gone] = False
    _, indices = by_sorting(rows, rows, allowed, 50)
    found = index.search(rows, 50)
    assert torch.equal(found.indices, indices)
    assert found.ids.tolist() == [[names[n] for n in row] for row in indices.tolist()]
    with pytest.raises(ValueError, match="ids: expected ids of the index, got"):
        index.remove([names[5], names[4]])
    assert len(index) == 47
    index.add(rows[:1], ids=[names[4]])
    assert index.find([names[4], names[0]]).tolist() == [50, 0]
    with pytest.raises(ValueError, match="ids: expected new ids, got"):
        index.add(rows[:1], ids=[names[0]])


@pytest.mark.parametrize("ids", ["integers", "strings"])
@pytest.mark.parametrize("seed", range(5))
def test_compacted_is_as_if_the_removed_rows_had_never_been_added(
    place: Any, ids: str, seed: int
) -> None:
    rows = integers(90, 2, seed)  # many are equal, the first of them removed or not
    parts = torch.arange(90).split([40, 10, 20, 20])
    name: Any = str if ids == "strings" else int
    removed = np.random.default_rng(seed).permutation(90)[: 10 * seed + 1]
    gone = torch.zeros(90, dtype=torch.bool)
    gone[torch.from_numpy(removed)] = gone[parts[1]] = True  # one addition is lost entirely

    def made(left_out: Tensor) -> Index:
        index = Index(space="cosine", about={"run": seed})
        for n, part in enumerate(parts):
            chosen = part[~left_out[part]].tolist()
            metadata = {f"tree {n % 2}": [f"ö {m}" for m in chosen]}
            if chosen:
                own = [name(m + 1000) for m in chosen]
                index.add(rows[chosen], ids=own, modality=f"m{n}", metadata=metadata)
        return index

    index = place(
        made(gone & False).remove([name(m + 1000) for m in gone.nonzero()[:, 0].tolist()])
    )
    assert index.compact() is index
    index, expected = place(index), made(gone)
    assert (len(index), index.total, repr(index)) == (len(expected), len(expected), repr(expected))
    assert index.about == expected.about and index.modalities == expected.modalities
    numbers = range(index.total)
    assert index.records(numbers) == expected.records(numbers)
    for found, wanted in zip(index._held.segments, expected._held.segments, strict=True):
        assert found.arrays.keys() == wanted.arrays.keys()
        for array in found.arrays:
            assert np.array_equal(found.arrays[array], wanted.arrays[array]), array
    queries = integers(20, 2, seed=9)
    found, wanted = index.search(queries, 200), expected.search(queries, 200)
    assert torch.equal(found.indices, wanted.indices) and np.array_equal(found.ids, wanted.ids)


def test_compacting_frees_the_disk_and_rewrites_only_what_changes(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = Index().add(torch.eye(64)).add(2 * torch.eye(64)).add(3 * torch.eye(64)[:8])
    before = {path.name for path in index.save(folder).iterdir()}
    reader = Index.load(folder)
    index.remove(range(64, 128)).save(folder)
    index.compact().save(folder)
    after = {path.name for path in folder.iterdir()}
    # A file that a reader maps, and that could not be removed, is left to the next writer.
    assert len(before) == 4 and len(after) == (4 if maps_hold_files() else 3) and after <= before
    loaded = Index.load(folder)
    assert loaded.total == 72 and loaded.numbers.tolist() == list(range(72))
    assert torch.equal(loaded.rows(range(72)), torch.cat([torch.eye(64), 3 * torch.eye(64)[:8]]))
    assert reader.total == 136 and torch.equal(reader.rows([70]), 2 * torch.eye(64)[6:7])
    assert loaded.compact().add(torch.eye(64)[:1]).find([136]).tolist() == [72]
    everything = Index().add(torch.eye(2)).remove([0, 1])
    with pytest.raises(ValueError, match="index: expected a row that is not removed, got none"):
        everything.compact()
    assert everything.total == 2 and Index().compact().total == 0


def test_as_many_rows_removed_after_compacting_as_before(tmp_path: Path) -> None:
    index = Index().add(torch.eye(9))
    index.remove([0, 1]).save(tmp_path / "index")
    index.compact().remove([4, 8]).save(tmp_path / "index")
    assert Index.load(tmp_path / "index").numbers.tolist() == [0, 1, 3, 4, 5]


def test_filters_by_modality_and_metadata(place: Any) -> None:
    rows = integers(60, 3)
    index = Index(space="cosine")
    index.add(rows[:20], modality="image", metadata={"kind": ["oak", "elm"] * 10})
    index.add(rows[20:40], modality="text", metadata={"kind": ["oak"] * 20, "year": [2020] * 20})
    index = place(index.add(rows[40:]))
    numbers = torch.arange(60)
    image, text = numbers < 20, (numbers >= 20) & (numbers < 40)
    oak = (image & (numbers % 2 == 0)) | text
    cases: list[tuple[dict[str, Any], Tensor]] = [
        ({"modality": "image"}, image),
        ({"modality": ["image", "text"]}, image | text),
        ({"where": {"kind": "oak"}}, oak),
        ({"where": {"kind": ["oak", "elm"]}}, image | text),
        ({"where": {"kind": "oak", "year": 2020}}, text),
        ({"where": {"kind": "ash"}}, numbers < 0),
        ({"modality": "image", "where": {"kind": "oak"}}, oak & image),
        ({"where": (numbers % 7 == 1).numpy()}, numbers % 7 == 1),
        ({"modality": "text", "where": numbers % 7 == 1}, text & (numbers % 7 == 1)),
    ]
    for options, allowed in cases:
        found = index.search(rows[:9], 25, **options)
        scores, indices = by_sorting(rows[:9], rows, allowed, 25)
        assert torch.equal(found.indices, indices) and torch.equal(found.scores.double(), scores)
    assert index.modalities == ("image", "text") and index.columns == ("kind", "year")
    assert index.records([1, 20, 40]) == [
        {"id": 1, "modality": "image", "kind": "elm"},
        {"id": 20, "modality": "text", "kind": "oak", "year": 2020},
        {"id": 40, "modality": None},
    ]
    assert torch.equal(index.rows([59, 3, 20]), rows[[59, 3, 20]])


def test_metadata_comes_back_as_it_was_given(place: Any) -> None:
    values = ["", 'a "quoted" wörd\n', "日本", None, True, 0, -1.5, 2**62]
    index = place(Index(about={"run": "here"}).add(torch.eye(8), metadata={"näme": values}))
    assert [record["näme"] for record in index.records(range(8))] == values
    assert index.about == {"run": "here"}


def test_rows_that_are_changed_later_stay_in_the_index() -> None:
    given = torch.eye(3)
    index = Index().add(given)
    given.zero_()
    assert index.search(torch.eye(3), 1).scores.flatten().tolist() == [1.0, 1.0, 1.0]


def test_takes_any_array_of_numbers(tmp_path: Path) -> None:
    rows = integers(20, 6)
    np.save(tmp_path / "rows.npy", rows.numpy())
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    forms = [rows.double(), rows.to(torch.int8), rows.numpy()[:, ::-1][:, ::-1], mapped]
    for form in (*forms, rows.tolist(), mapped[::2]):
        found = Index().add(form).search(rows[:3].double().numpy(), 4)
        expected = rows[::2] if len(form) == 10 else rows
        allowed = torch.ones(len(expected), dtype=torch.bool)
        assert torch.equal(found.indices, by_sorting(rows[:3], expected, allowed, 4)[1])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"embeddings": torch.ones(2, 4)}, "embeddings: expected width 3, as the index has, got 4"),
    ({"embeddings": torch.full((2, 3), torch.nan)}, "embeddings: row 0 holds NaN"),
    ({"embeddings": torch.full((2, 3), 1e39, dtype=torch.float64)}, "embeddings: row 0 holds NaN"),
    ({"embeddings": torch.full((2, 3), 1e16)}, "embeddings: expected row lengths of 1e-15"),
    ({"embeddings": torch.full((2, 3), 1e-20)}, "embeddings: expected row lengths of 1e-15"),
    ({"embeddings": torch.ones(0, 3)}, "embeddings: expected a non-empty"),
    ({"embeddings": torch.ones(3)}, "embeddings: expected"),
    ({"ids": ["a"]}, "ids: expected 2, one for each row, got 1"),
    ({"ids": ["a", "b"]}, "ids: expected integers, as the index has, got strings"),
    ({"ids": [9, 9]}, "ids: expected unique ids, got 9 twice"),
    ({"ids": [9, 1]}, "ids: expected new ids, got 1, which is there"),
    ({"ids": [9, 1.5]}, "ids: expected all strings, or all integers"),
    ({"ids": [9, True]}, "ids: expected all strings, or all integers"),
    ({"ids": [9, 2**63]}, "ids: expected all strings, or all integers"),
    ({"ids": [9, "a"]}, "ids: expected all strings, or all integers"),
    ({"ids": "ab"}, "ids: expected a sequence, got str; of one it is ['ab']"),
    ({"modality": "a/b"}, "modality: expected a name"),
    ({"metadata": [1, 2]}, "metadata: expected a mapping"),
    ({"metadata": {"id": [1, 2]}}, "metadata: expected names other than"),
    ({"metadata": {"x": [1]}}, "metadata 'x': expected 2 values"),
    ({"metadata": {"x": [1, float("nan")]}}, "metadata 'x': expected strings, finite"),
    ({"metadata": {"x": [1, {}]}}, "metadata 'x': expected strings, finite"),
    ({"metadata": {"x": ["a", "\ud800"]}}, "metadata 'x': expected text that UTF-8"),
]


@pytest.mark.parametrize("change, message", BAD)
def test_what_cannot_be_added_is_refused_and_changes_nothing(
    change: dict[str, Any], message: str
) -> None:
    index = Index().add(torch.eye(3))
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        index.add(**{"embeddings": torch.ones(2, 3), **change})
    assert len(index) == 3 and index.search(torch.ones(1, 3), 9).ids.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query": torch.ones(1, 4)}, "query: expected width 3, as the index has, got 4"),
        ({"query": torch.full((1, 3), torch.inf)}, "query: row 0 holds NaN or infinite"),
        ({"query": torch.ones(3)}, "query: expected (Q, 3), got (3,); one row is query[None]"),
        ({"query": "oak"}, "query: expected embeddings (Q, 3), got 'oak'; those of an item are"),
        ({"k": 0}, "k: expected"),
        ({"modality": "sound"}, "modality: expected one of ('image',), got 'sound'"),
        ({"where": {"colour": "red"}}, "where: expected columns of ('name',), got 'colour'"),
        ({"where": [True]}, "where: expected a mapping, or a mask (3,)"),
        ({"where": {"name": {}}}, "where 'name': expected strings"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: dict[str, Any], message: str) -> None:
    index = Index().add(torch.eye(3), modality="image", metadata={"name": list("abc")})
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        index.search(**{"query": torch.ones(1, 3), **change})


def test_what_is_no_number_of_a_row_is_refused() -> None:
    index = Index().add(torch.eye(3), ids=["a", "b", "c"])
    for take in (index.rows, index.records):
        with pytest.raises(ValueError, match=r"got \['a'\]; find\(\) has those of ids"):
            take(["a"])
        with pytest.raises(ValueError, match=r"rows below 3, got \[3\]$"):
            take([3])


def test_ids_are_of_one_type_and_checked_without_rows() -> None:
    assert Index().id_type is None and Index().add(torch.eye(2)).id_type is int
    index = Index().add(torch.eye(2), ids=["a", "b"])
    assert index.id_type is str
    index.check_ids(["c"], 1)
    for ids, count in ((["a"], 1), (["c", "c"], 2), (["c"], 2), ([1], 1), (None, 1)):
        with pytest.raises(ValueError, match="ids: expected"):
            index.check_ids(ids, count)
    assert len(index) == 2


def test_an_index_without_rows_says_so(tmp_path: Path) -> None:
    for use in (
        lambda: Index().search(torch.ones(1, 3)),
        lambda: Index().save(tmp_path / "index"),
        lambda: Index().to_faiss(),
    ):
        with pytest.raises(ValueError, match="index: expected rows"):
            use()
    emptied = Index().add(torch.eye(2)).remove([0, 1])
    assert emptied.search(torch.ones(5, 2)).indices.shape == (5, 0)
