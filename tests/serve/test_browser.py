"""The explorer in a real browser, as a file and served: by mouse and keyboard, wide and narrow."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CHROMIUM, Page, browser

from drcl import Index, serve
from drcl.serve import items

pytest.importorskip("drcl.serve.app", reason="serving needs the extra 'serve'")
uvicorn = pytest.importorskip("uvicorn", reason="serving needs the extra 'serve'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
TOKEN = "0123456789abcdef"
PNG = bytes.fromhex(  # a single pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da63"
    "f8cfc00000030101002d0b8f6f0000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Photos and notes of three trees; the first note has a hostile name."""
    folder = tmp_path_factory.mktemp("trees")
    (folder / "a.png").write_bytes(PNG)
    draw, made = torch.Generator().manual_seed(0), Index(space="cosine")
    for modality in ("photo", "note"):
        rows = torch.randn(12, 8, generator=draw)
        rows[range(12), [n % 3 for n in range(12)]] += 4
        names = [f"{modality} {n}" for n in range(12)]
        metadata: dict[str, Any] = {"name": names, "tree": ["oak", "elm", "ash"] * 4}
        if modality == "photo":
            metadata["picture"] = [str(folder / "a.png")] * 12
        else:
            names[0] = metadata["text"] = HOSTILE
            metadata["text"] = [HOSTILE] * 12
        ids = [f"{modality}-{n}" for n in range(12)]
        made.add(rows, ids=ids, modality=modality, metadata=metadata)
    made.save(folder / "index")
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        one.size(1200, 900)
        yield one


class Server(threading.Thread):
    """The index of a folder, served from a thread of this process."""

    def __init__(self, folder: Path, token: str | None, **limits: int) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        app = serve.make_app(folder, token=token, limits=serve.Limits(**limits))
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, http="h11", ws="none"))
        self.start()

    def run(self) -> None:
        self.server.run(sockets=[self.socket])

    def end(self) -> None:
        self.server.should_exit = True
        self.join(30)
        self.socket.close()


@contextlib.contextmanager
def at_server(page: Page, folder: Path, token: str | None = None, **limits: int) -> Iterator[None]:
    """The page of an index that is served; left before the server ends."""
    server = Server(folder, token, **limits)
    try:
        page.open(server.url)
        yield
    finally:
        page.open("about:blank")
        server.end()


@pytest.fixture(scope="module")
def urls(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where the page of the index is."""
    file, server = tmp_path_factory.mktemp("page") / "page.html", Server(saved(index), None)
    file.write_text(serve.explorer_page(index, "Trees"), encoding="utf-8")
    yield {"file": file.as_uri(), "server": server.url}
    server.end()


@pytest.fixture(params=["file", "server"])
def opened(request: Any, page: Page, urls: dict[str, str]) -> Iterator[Page]:
    """The page of the index, on its first query."""
    url = urls[request.param]
    page.open(url)
    page.until("document.querySelectorAll('#answers li').length === 12")
    yield page
    assert page.problems == []
    own = (url.partition("#")[0], "data:", "blob:")
    assert all(one.startswith(own) for one in page.requested), page.requested
    page.open("about:blank")


as_file = pytest.mark.parametrize("opened", ["file"], indirect=True)
served = pytest.mark.parametrize("opened", ["server"], indirect=True)


def saved(index: Index) -> Path:
    assert index._saved is not None
    return index._saved[0]


def shown(page: Page) -> dict[str, list[str]]:
    """Modality -> ids of what it answers, as they lead on."""
    found: dict[str, list[str]] = page.get(
        "Object.fromEntries([...document.querySelectorAll('#answers section')].map((one) => "
        "[one.querySelector('h2').textContent, [...one.querySelectorAll('a')].map((a) => "
        "decodeURIComponent(a.hash.slice(1)))]))"
    )
    return found


def expected(index: Index, name: str, k: int = 6, **where: str) -> dict[str, list[str]]:
    row = index.rows(index.find([name]))
    found = {}
    for modality in index.modalities:
        ids = index.search(row, k + 1, modality=modality, where=where or None).ids[0]
        found[modality] = [one for one in ids if one != name][:k]
    return found


def asked(page: Page, name: str) -> None:
    """Wait until it is the query that is shown."""
    line = "document.querySelector('#asked .facts')?.textContent.split(' · ').at(-1)"
    page.until(
        f"{line} === '{name}' && /found/.test(document.getElementById('status').textContent)"
    )


def test_every_modality_answers_and_each_answer_leads_on(opened: Page, index: Index) -> None:
    asked(opened, "photo-0")
    assert shown(opened) == expected(index, "photo-0")
    first = shown(opened)["note"][0]
    opened.click("#answers section:nth-child(2) a")
    asked(opened, first)
    assert shown(opened) == expected(index, first)
    assert opened.get("document.activeElement.tagName") == "H2"  # where reading goes on
    second = shown(opened)["photo"][2]
    opened.click("#answers section:nth-child(1) li:nth-child(3) a")
    asked(opened, second)
    opened.click("#back")
    asked(opened, first)
    assert shown(opened) == expected(index, first)
    pictures = "[...document.images].filter((one) => one.complete && one.naturalWidth).length"
    opened.until(f"{pictures} >= 6")


@served
def test_a_query_is_chosen_by_keyboard_alone(opened: Page, index: Index) -> None:
    opened.get("document.activeElement.blur()")
    opened.press("Tab")
    assert opened.get("document.activeElement.id") == "choose"
    opened.write("Note 1")
    listed = (
        "[...document.querySelectorAll('#choices [role=option]')].map((one) => one.textContent)"
    )
    first = [f"note {n}note-{n} · note" for n in (1, 10, 11)]
    assert opened.get(listed)[:3] == first
    opened.press("ArrowDown", "ArrowDown")
    active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
    assert opened.get(f"{active}.textContent").startswith("note 10")
    opened.press("ArrowUp", "ArrowUp", "ArrowDown")
    opened.press("Enter")
    asked(opened, "note-1")
    assert shown(opened) == expected(index, "note-1")
    opened.write("photo-7")
    opened.press("Escape")
    assert opened.get("document.getElementById('choices').hidden")
    opened.press("Enter")
    asked(opened, "photo-7")
    opened.write("no such thing")
    opened.press("Enter")
    opened.until("document.getElementById('status').className === 'bad'")
    said = opened.get("document.getElementById('status').textContent")
    assert "ids: expected ids of the index" in said
    while len(opened.problems) < 2:  # the browser's own word on each modality's refusal
        opened.get("0")
    assert all("status of 404" in one for one in opened.problems)
    opened.problems.clear()
    assert shown(opened) == expected(index, "photo-7")  # what was there stays


@as_file
def test_classes_filter_and_the_number_of_results_is_chosen(opened: Page, index: Index) -> None:
    change = (
        "((one, value) => {{ one.value = value; one.dispatchEvent(new Event('change')); }})({}, {})"
    )
    choices = "[...document.querySelectorAll('#filter-0 option')].map((one) => one.textContent)"
    assert opened.get(choices) == ["any", "ash", "elm", "oak"]
    opened.get(change.format("document.getElementById('filter-0')", "'1'"))
    opened.until("document.querySelectorAll('#answers li').length === 8")
    assert shown(opened) == expected(index, "photo-0", tree="elm")
    opened.get(change.format("document.getElementById('filter-0')", "''"))
    opened.get(change.format("document.getElementById('count')", "'12'"))
    opened.until("document.querySelectorAll('#answers li').length === 23")
    assert shown(opened) == expected(index, "photo-0", 12)


@as_file
def test_the_map_is_clicked_and_walked(opened: Page, index: Index) -> None:
    x, y = opened.get("spots[17].map((one) => one / document.getElementById('points').clientWidth)")
    same = "spots.findIndex((one) => String(one) === String(spots[17]))"
    near = opened.get(same)
    opened.click("#points", x, y)
    name = index.records([near])[0]["id"]
    asked(opened, name)
    assert shown(opened) == expected(index, name)
    opened.get("document.getElementById('points').focus()")
    opened.press("ArrowRight")
    opened.press("ArrowLeft")
    said = opened.get("document.getElementById('pointed').textContent")
    reached = opened.get("String(pointed.id)")
    assert said and opened.get("pointed.label") in said
    opened.press("Enter")
    asked(opened, reached)
    assert opened.get("document.activeElement.id") == "points"
    legend = opened.get("document.getElementById('legend').innerText")
    assert legend.split() == ["ash", "elm", "oak", "photo", "note"]


@as_file
def test_what_is_hostile_is_shown_as_it_is(opened: Page) -> None:
    opened.get("location.hash = '#note-0'")
    asked(opened, "note-0")
    assert opened.get("document.querySelector('#asked h2').textContent") == HOSTILE
    opened.click("#choose")
    opened.write("script")
    texts = (
        "[...document.querySelectorAll('#choices [role=option]')].map((one) => one.firstChild.data)"
    )
    assert HOSTILE in opened.get(texts)
    assert opened.get("document.scripts.length") == 2
    assert opened.get("[...document.images].every((one) => !one.onerror)")


@as_file
def test_every_control_has_an_accessible_name(opened: Page) -> None:
    found = opened.names()
    roles = ("combobox", "button", "link", "Canvas", "application", "heading", "region", "textbox")
    nameless = [role for role, name in found if role in roles and not name.strip()]
    assert nameless == []
    names = dict.fromkeys(found)
    boxes, regions = ("Query", "tree", "Results", "Colours"), ("photo", "note", "Map")
    expected_names = [*(("combobox", one) for one in boxes), *(("region", one) for one in regions)]
    assert [one for one in expected_names if one not in names] == []


@as_file
def test_the_page_fits_a_phone_and_follows_dark_mode(opened: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.get(ground)
    try:
        opened.size(390, 844, phone=True)
        opened.dark(True)
        assert opened.get("document.documentElement.scrollWidth") == 390
        right = "(one) => one.getBoundingClientRect().right"
        ends = opened.get(f"Math.max(...[...document.querySelectorAll('main *')].map({right}))")
        assert ends <= 390
        assert opened.get(ground) != light
        opened.click("#answers section:nth-child(1) a")
        opened.until("document.querySelector('#asked .facts').textContent.includes('photo')")
    finally:
        opened.size(1200, 900)
        opened.dark(False)


def test_a_server_with_a_token_asks_for_it(index: Index, page: Page) -> None:
    with at_server(page, saved(index), TOKEN):
        page.until("document.activeElement.id === 'token'")
        for token in ("wrong", "тест", TOKEN):
            assert page.get("document.getElementById('explorer').hidden")
            page.write(token)
            page.press("Enter")
            if token != TOKEN:
                page.until("document.getElementById('token').value === ''")
                page.until("!document.getElementById('refused').hidden")
        page.until("document.querySelectorAll('#answers li').length === 12")
        page.until("[...document.images].filter((one) => one.naturalWidth).length >= 6")
        assert page.get("document.getElementById('entry').hidden")


def test_an_item_that_is_not_listed_is_found_by_its_id(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "MAX_ITEMS", 2)
    folder = Index().add(torch.eye(3), ids=["x", "x1", "x12"]).save(tmp_path / "index")
    with at_server(page, folder):
        asked(page, "Query")  # whose name is its id
        assert "3 items · 2 of them listed" in page.get("at('about').textContent")
        page.click("#choose")
        page.write("x1")
        assert page.get("document.querySelectorAll('#choices [role=option]').length") == 1
        page.press("Enter")
        page.until("document.querySelector('#asked h2').textContent === 'x1'")
        assert page.problems == []


def test_a_page_follows_the_index_that_it_is_served_from(page: Page, tmp_path: Path) -> None:
    folder = Index().add(torch.eye(3), ids=["a", "b", "c"]).save(tmp_path / "index")
    with at_server(page, folder):
        page.until("document.querySelectorAll('#answers li').length === 2")
        Index.load(folder).add(torch.ones(1, 3), ids=["d"]).save(folder)
        page.click("#answers a")
        page.until("document.querySelectorAll('#answers li').length === 3")
        page.until("document.getElementById('about').textContent.startsWith('4 items')")
        assert page.problems == []


def test_a_server_that_gives_few_results_is_asked_for_few(page: Page, index: Index) -> None:
    with at_server(page, saved(index), k=4):
        page.until("document.querySelectorAll('#answers li').length === 8")  # of two modalities
        assert page.get("document.getElementById('count').value") == "4"
        assert page.problems == []


# The pixels of one point of the map, as it looks in each class in turn.
_LOOKS = """(() => {
  const canvas = document.getElementById("points");
  const pen = canvas.getContext("2d");
  const [one] = all.items;
  all.items = [one]; shown = new Set(); current = null;
  return all.classes["class"].map((name) => {
    one.classes = [name]; draw();
    const [x, y] = spots[0].map((at) => Math.round(at * canvas.width / canvas.clientWidth));
    return [...pen.getImageData(x - 6, y - 6, 12, 12).data];
  });
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_fifty_classes_can_be_told_apart(page: Page, tmp_path: Path, dark: bool) -> None:
    """By each pair's pixels on the map and their keys in the legend."""
    names = [f"class {n}" for n in range(50)]
    angles = torch.arange(100) % 50 * (2 * torch.pi / 50)
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    file = tmp_path / "page.html"
    made = Index().add(rows, metadata={"class": names * 2})
    file.write_text(serve.explorer_page(made), encoding="utf-8")
    page.dark(dark)
    try:
        page.open(file.as_uri())
        page.until("document.querySelectorAll('#answers li').length === 6")
        assert page.problems == []
        looks = torch.tensor(page.get(_LOOKS), dtype=torch.float32).reshape(50, 144, 4)
        inside = looks[:, :, 3].amax(dim=0) > 128
        colours = looks[:, inside, :3].flatten(1)
        apart = torch.cdist(colours, colours).fill_diagonal_(torch.inf) / int(inside.sum()) ** 0.5
        assert float(apart[:24, :24].min()) > 30  # of 442, from black to white
        assert float(apart.min()) > 25
        keys = page.get("[...document.querySelectorAll('#legend li')].map((one) => one.innerHTML)")
        marks = [key.partition("</svg>")[0] for key in keys]
        assert [key.partition("</svg>")[2] for key in keys] == names
        assert len(set(marks)) == 50
    finally:
        page.dark(False)
        page.open("about:blank")
