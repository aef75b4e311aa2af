"""The page to explore an index, as a file: what is in it, what is not, and what is refused."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from drcl import Index
from drcl.cli import main
from drcl.serve import Limits, explorer, explorer_page, items

pytest.importorskip("jinja2", reason="the page is made with Jinja (extra 'report')")

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "\u2028 & &lt;b&gt; {{ 7 * 7 }}",
    "javascript:alert(1)",
]


class Read(HTMLParser):
    """Tags, and what is in each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        self._inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)


def known(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Read(page).scripts[0])["known"]
    return found


def leaves(count: int = 12) -> Index:
    metadata = {"name": [f"leaf {n}" for n in range(count)], "tree": ["oak", "elm", "ash"] * 4}
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    return Index(space="cosine").add(rows, modality="photo", metadata=metadata)


def test_the_page_holds_all_of_the_index_and_asks_for_nothing() -> None:
    index = leaves().remove([4])
    page = explorer_page(index, "Leaves")
    data = known(page)
    kept = [n for n in range(12) if n != 4]
    assert [item["record"] for item in data["items"]] == index.records(kept)
    rows = np.frombuffer(base64.b64decode(data["rows"]), "<f4").reshape(-1, data["width"])
    assert np.array_equal(rows, index.rows(kept))
    assert data["classes"] == {"tree": ["ash", "elm", "oak"]} and data["modalities"] == ["photo"]
    assert [item["label"] for item in data["items"]][:2] == ["leaf 0", "leaf 1"]
    read = Read(page)
    assert [one for one in read.attributes if one[0] in ("src", "href", "action")] == [
        ("href", "data:,")  # no icon
    ]
    assert not any(name.startswith("on") for name, _ in read.attributes)
    (policy,) = (value for _, value in read.attributes if value and "default-src" in value)
    assert "default-src 'none'; script-src 'sha256-" in policy and "connect-src 'none'" in policy
    assert page.count("<h1>Leaves</h1>") == 1


def test_names_and_texts_stay_text() -> None:
    metadata: dict[str, Any] = {"name": HOSTILE, "text": HOSTILE[::-1], HOSTILE[0]: HOSTILE}
    index = Index().add(torch.eye(6), ids=HOSTILE, modality="m", metadata=metadata)
    plain = Read(explorer_page(leaves(), "plain"))
    page = explorer_page(index, HOSTILE[0])
    assert Read(page).tags == plain.tags  # nothing of an index is a tag
    assert [item["record"]["name"] for item in known(page)["items"]] == HOSTILE
    assert Read(page).scripts[1] == plain.scripts[1] and "49" not in Read(page).scripts[1]


def test_pictures_share_the_room_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow makes pictures smaller")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype("uint8")
    paths = [str(tmp_path / f"{n}.png") for n in range(4)]
    for path in paths:
        image.fromarray(noise).save(path)
    index = Index().add(torch.eye(5), metadata={"picture": [*paths, str(tmp_path / "none.png")]})
    monkeypatch.setattr(explorer, "BUDGET", 5 * 40_000)
    page = explorer_page(index)
    pictures = [item["picture"] for item in known(page)["items"]]
    assert pictures[4] is None and "1 picture left out" in page
    assert all(one.startswith("data:image/jpeg;base64,") for one in pictures[:4])
    assert all(len(base64.b64decode(one.partition(",")[2])) <= 40_000 for one in pictures[:4])
    assert str(tmp_path) not in page


def test_an_index_that_is_too_large_or_empty_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got none"):
        explorer_page(Index())
    with pytest.raises(ValueError, match="got none"):
        explorer_page(leaves().remove(range(12)))
    with pytest.raises(ValueError, match=r"5,000 items and 32 MB.*got 5,001.*drcl serve"):
        explorer_page(Index().add(torch.randn(5001, 2)))
    monkeypatch.setattr(explorer, "MAX_BYTES", 239)
    with pytest.raises(ValueError, match="drcl serve"):
        explorer_page(leaves())


@pytest.mark.parametrize("shape", [(40, 7), (5, 30), (9, 1), (2, 2), (1, 4)])
def test_the_map_is_the_plane_of_the_principal_axes(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    found = items.principal_plane(rows)
    assert found.shape == (shape[0], 2)
    centred = rows - rows.mean(axis=0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * scales)[:, :2]
    for axis in range(expected.shape[1]):
        assert np.allclose(np.abs(found[:, axis]), np.abs(expected[:, axis]), atol=1e-9)
    assert np.array_equal(items.principal_plane(rows), found)


def test_rows_that_are_all_one_lie_on_one_point() -> None:
    assert not items.principal_plane(np.ones((4, 3))).any()


def test_columns_of_few_values_are_classes() -> None:
    count = 20
    metadata: dict[str, list[Any]] = {
        "tree": ["oak", "elm"] * 10,
        "year": [1, 2, None, 3] * 5,
        "one": ["same"] * count,
        "each": [str(n) for n in range(count)],
        "text": ["short", "long"] * 10,
        "picture": ["a", "b"] * 10,
        "name": ["x", "y"] * 10,
    }
    index = Index().add(torch.eye(count), metadata=metadata)
    assert known(explorer_page(index))["classes"] == {"tree": ["elm", "oak"], "year": [1, 2, 3]}
    only = Index().add(torch.eye(count), metadata={"name": metadata["name"]})
    assert known(explorer_page(only))["classes"] == {"name": ["x", "y"]}


def test_classes_are_sorted_as_a_reader_counts() -> None:
    names = ["10", "2", "1", "02", "class 10", "class 9", "Class 9", "v1.10", "v1.9", "9" * 5000]
    numbers = [10, 9, 2.5, 100]
    metadata = {"text_class": names * 4, "number": numbers * 10}
    index = Index().add(torch.eye(40), metadata=metadata)
    assert known(explorer_page(index))["classes"] == {
        "text_class": [
            *("1", "02", "2", "10", "9" * 5000, "Class 9"),
            *("class 9", "class 10", "v1.9", "v1.10"),
        ],
        "number": [2.5, 9, 10, 100],
    }


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (1, "1"),
        (5, "5"),
        (6, "6"),
        (7, "6 7"),
        (24, "6 12 24"),
        (47, "6 12 24 47"),
        (48, "6 12 24 48"),
        (100, "6 12 24 48"),
    ],
)
def test_a_served_page_asks_for_what_its_server_gives(
    tmp_path: Path, most: int, counts: str
) -> None:
    app = pytest.importorskip("drcl.serve.app", reason="serving needs the extra 'serve'")
    server = app.Server(leaves().save(tmp_path / "leaves"), None, Limits(k=most))
    assert re.findall("<option>([0-9]+)</option>", server._page[0]) == counts.split()


def test_of_many_items_the_page_of_a_server_lists_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MAX_ITEMS", 4)
    index = Index().add(torch.randn(7, 3)).add(torch.randn(6, 3), modality="text").remove([0])
    found = json.loads(items.items_of(index, "v"))
    assert [item["id"] for item in found["items"]] == [1, 4, 8, 12]
    assert (found["count"], found["version"]) == (12, "v")


def test_the_command_writes_the_page_and_overwrites_only_when_asked(tmp_path: Path) -> None:
    folder, out = leaves().save(tmp_path / "leaves"), tmp_path / "leaves.html"
    given = ["explore", str(folder), "--out", str(out)]
    assert CliRunner().invoke(main, given).exit_code == 0
    assert out.read_text("utf-8") == explorer_page(leaves(), "leaves")
    again = CliRunner().invoke(main, given)
    assert again.exit_code == 1 and "--overwrite" in again.output
    assert CliRunner().invoke(main, [*given, "--overwrite", "--title", "<T>"]).exit_code == 0
    assert "<h1>&lt;T&gt;</h1>" in out.read_text("utf-8")
