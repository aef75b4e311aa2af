"""The report: one page that needs nothing else and shows the numbers it was given."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the report extra is not installed: no matplotlib")
pytest.importorskip("jinja2", reason="the report extra is not installed: no jinja2")
pytest.importorskip("sklearn", reason="the report extra is not installed: no scikit-learn")

from drcl.figures import CLASS_COLOURS, DARK, INK, IRRELEVANT, MUTED, PAPER, QUERY, RELEVANT
from drcl.report import ReportData, write_report
from drcl.report.precision_recall import chance
from drcl.report.projection import project
from drcl.report.retrieval import TOP, choose_examples

# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency" (2009): severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def make_data(
    modalities: tuple[str, ...] = ("image", "text", "audio"),
    classes: int = 4,
    rows: int = 24,
    *,
    multi_label: bool = False,
    pictures: bool = False,
) -> ReportData:
    """Random embeddings, and metrics that are recognisable numbers instead of computed ones."""
    rng = np.random.default_rng(0)
    sizes = {m: rows + i for i, m in enumerate(modalities)}  # unpaired
    labels: dict[str, np.ndarray] = {m: rng.integers(0, classes, n) for m, n in sizes.items()}
    if multi_label:
        labels = {m: (rng.random((n, classes)) < 0.4).astype(np.uint8) for m, n in sizes.items()}
    pairs = [f"{a}->{b}" for a in modalities for b in modalities if a != b]
    history: list[dict[str, Any]] = []
    for m in modalities:
        history += [
            {"phase": "prior", "modality": m, "epoch": e, "loss": 2.0 / (e + 1), "score": e / 5}
            for e in range(5)
        ]
        history += [
            {"phase": "encoder", "modality": m, "epoch": e, "loss": 1.0, "validation_map": 0.5}
            for e in range(3)
        ]
    recall = np.linspace(0, 1, 11)
    return ReportData(
        title="A report",
        metrics={
            name: {
                key: float(v)
                for key, v in zip([*pairs, "mean"], rng.random(len(pairs) + 1), strict=True)
            }
            for name in ("mAP@all", "mAP@50")
        },
        embeddings={m: rng.normal(size=(n, 8)).astype(np.float32) for m, n in sizes.items()},
        labels=labels,
        classes=tuple(f"class {c}" for c in range(classes)),
        history=history,
        curves=dict.fromkeys(pairs, (recall, 1 - recall / 2)),
        pictures={m: rng.random((n, 5, 6)) for m, n in sizes.items()} if pictures else {},
        summary={"dataset": "random", "seed": "0"},
    )


def few_figures(data: ReportData) -> ReportData:
    """For what the figures of training and of precision have no part in."""
    return replace(data, history=[], curves={})


class Page(HTMLParser):
    """What a browser would fetch, run and show of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._table: list[list[str]] = []
        self._in_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.tags.append((tag, attributes))
        if tag == "table":
            self._table = self.tables.setdefault(attributes.get("id", ""), [])
        elif tag == "tr":
            self._table.append([])
        elif tag in {"td", "th"}:
            self._table[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self._table[-1][-1] += data

    @property
    def images(self) -> list[bytes]:
        prefix = "data:image/svg+xml;base64,"
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source[len(prefix) :]) for source in sources]

    @property
    def saved(self) -> dict[str, bytes]:
        """The files that the links of the page save."""
        links = [attributes for tag, attributes in self.tags if "download" in attributes]
        return {a["download"]: base64.b64decode(a["href"].partition(",")[2]) for a in links}


CASES = {
    "three modalities": make_data(),
    "with pictures": make_data(pictures=True),
    "multi-label": make_data(multi_label=True, pictures=True),
    "two modalities": make_data(("image", "text")),
    "200 classes": make_data(("image", "text"), classes=200, rows=230),
    "six modalities": make_data(("a", "b", "c", "d", "e", "f"), rows=12),
    "two classes": make_data(("image", "text"), classes=2, rows=3),
}


@pytest.fixture(scope="module", params=CASES)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ReportData, Path]:
    data = CASES[request.param]
    return data, write_report(data, tmp_path_factory.mktemp("report") / "new" / "folder")


def test_page_is_self_contained_and_embeds_every_figure(written: tuple[ReportData, Path]) -> None:
    data, path = written
    page, files = Page(path), {file.name: file for file in path.parent.iterdir()}

    examples = len(choose_examples(data)) if data.pictures else 0
    expected = {"projection.svg", "report.html", "map_matrix_1.svg", "map_matrix_2.svg"}
    expected |= {f"precision_recall_{i + 1}.svg" for i in range(len(data.modalities))}
    expected |= {f"training_{i + 1}.svg" for i in range(4)}
    expected |= {f"retrieval_{i + 1}.svg" for i in range(examples)}
    assert set(files) == expected
    figures = {name: file.read_bytes() for name, file in files.items() if name.endswith(".svg")}
    assert set(page.images) == set(figures.values())
    assert page.saved == figures

    assert "http:" not in path.read_text("utf-8") and "https:" not in path.read_text("utf-8")
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        assert attributes.get("href", "#").startswith("#") or "download" in attributes
        assert "@import" not in page.text and "url(" not in page.text
        if tag == "img":
            assert len(attributes["alt"]) > 20


def test_tables_show_the_given_metrics_and_every_example(written: tuple[ReportData, Path]) -> None:
    data, path = written
    page = Page(path)
    metrics = list(data.metrics)
    body = page.tables["score-table"]
    assert body[0] == ["query", "gallery", *metrics]
    shown = {(row[0], row[1]): row[2:] for row in body[1:-1]}
    assert shown == {
        (q, g): [f"{data.metrics[metric][f'{q}->{g}']:.4f}" for metric in metrics]
        for q, g in data.pairs
    }
    assert body[-1] == ["mean", *(f"{data.metrics[metric]['mean']:.4f}" for metric in metrics)]

    examples = page.tables["example-table"][1:]
    assert len(examples) == {2: 6, 3: 6, 6: 12}[len(data.modalities)]
    for row in examples:
        query, gallery = row[0].split(" → ")
        assert row[2] == data.class_names(query, int(row[1]))
        assert row[4].count("✓") + row[4].count("✗") == min(TOP, len(data.embeddings[gallery]))


def test_user_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    data = make_data(("im<b>age", "text"), classes=2)
    data = replace(
        data,
        title=f"{evil} $_{{x}}$",
        classes=("<script>", "_$x & y$"),
        summary={evil: '" onload="alert(1)'},
    )
    path = write_report(data, tmp_path)
    page = Page(path)
    assert "<script" not in path.read_text("utf-8") and "<b>" not in path.read_text("utf-8")
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b"})
    assert not any("onload" in attributes for _, attributes in page.tags)
    for text in (evil, "<script>", "_$x & y$", '" onload="alert(1)', "im<b>age"):
        assert text in page.text
    for file in tmp_path.glob("*.svg"):
        root = ElementTree.fromstring(file.read_text("utf-8"))
        tags = {element.tag.partition("}")[2] for element in root.iter()}
        assert tags.isdisjoint({"script", "b", "foreignObject", "a"})


def test_failing_write_leaves_the_old_report(tmp_path: Path) -> None:
    """The system itself refuses the write, as a full disk would, after some files were written."""
    resource = pytest.importorskip("resource", reason="no file size limits on this system")
    old = few_figures(make_data(("image", "text")))
    new = replace(old, title="Another report")
    path = write_report(old, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["report.html"]) // 2, limits[1]))
    try:
        with pytest.raises(OSError):
            write_report(new, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    write_report(new, tmp_path)
    assert path.read_bytes() != before["report.html"]


def test_figures_are_vector_drawings_without_background(written: tuple[ReportData, Path]) -> None:
    _, path = written
    for file in path.parent.glob("*.svg"):
        text = file.read_text("utf-8")
        root = ElementTree.fromstring(text)
        drawn = {element.tag.partition("}")[2] for element in root.iter()}
        assert {"title", "text"} <= drawn and "script" not in drawn
        # A white slab would be a path of the size of the figure.
        assert not re.search(r'id="patch_1">\s*<path [^>]*fill: #[0-9a-f]{6}', text), file.name
        assert "prefers-color-scheme:dark" in text


def test_every_ink_of_a_figure_has_a_dark_form_that_can_be_read() -> None:
    ground = DARK[PAPER]
    for ink in (INK, MUTED, RELEVANT, IRRELEVANT, QUERY):
        assert contrast(ink, PAPER) > 4.5 and contrast(DARK[ink], ground) > 4.5
    for colour in CLASS_COLOURS:
        assert contrast(colour, PAPER) > 1.6 and contrast(colour, ground) > 2


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_class_colours_can_be_told_apart(kind: str) -> None:
    """In OKLab black and white are 1 apart, and some 0.02 is a difference one can just see."""
    seen = [oklab(DEFICIENCIES[kind] @ linear(colour)) for colour in CLASS_COLOURS]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 0.12


def linear(colour: str) -> np.ndarray:
    """sRGB "#rrggbb" to linear RGB."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson, "A perceptual color space for image processing" (2020)."""
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ rgb.clip(0, 1))


def contrast(a: str, b: str) -> float:
    """The ratio of WCAG 2."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (a, b))
    return high / low


@pytest.mark.parametrize("multi_label", [False, True])
def test_chance_is_the_mean_share_of_relevant_items(multi_label: bool) -> None:
    data = make_data(("image", "text"), multi_label=multi_label)
    for labels in data.labels.values():
        labels[::5] = 0 if multi_label else -1
    shares = []
    items = [row for row, y in enumerate(data.labels["text"]) if multi_label or y != -1]
    for query in data.label_rows("image"):
        relevant = sum(bool((query & data.label_rows("text")[i]).any()) for i in items)
        shares += [relevant / len(items)] if relevant else []
    assert 0 < len(shares) < 24
    assert chance(data, "image", "text") == pytest.approx(np.mean(shares), abs=1e-12)


def test_precision_recall_figures_have_their_chance_line(written: tuple[ReportData, Path]) -> None:
    data, path = written
    texts = [file.read_text("utf-8") for file in path.parent.glob("precision_recall_*.svg")]
    assert len(texts) == len(data.modalities)
    assert all(">chance</text>" in text for text in texts)


def test_two_modalities_have_bars_and_more_a_matrix(written: tuple[ReportData, Path]) -> None:
    data, path = written
    first, second, *others = data.embeddings
    text = (path.parent / "map_matrix_1.svg").read_text("utf-8")
    assert (">gallery</text>" in text) == bool(others)
    assert (f">{first} → {second}</text>" in text) != bool(others)


def test_figures_with_nothing_to_show_are_left_out_and_removed(tmp_path: Path) -> None:
    data = make_data(("image", "text"), pictures=True)
    write_report(data, tmp_path)
    (tmp_path / "notes.png").write_bytes(b"not ours")
    page = Page(write_report(replace(data, history=[], curves={}, pictures={}), tmp_path))
    names = {file.name for file in tmp_path.iterdir()}
    figures = {"map_matrix_1.svg", "map_matrix_2.svg", "projection.svg"}
    assert names == figures | {"report.html", "notes.png"}
    targets = {a["href"][1:] for tag, a in page.tags if tag == "a" and "download" not in a}
    assert targets == {a["id"] for tag, a in page.tags if tag == "section"}


def test_same_data_same_bytes(tmp_path: Path) -> None:
    data = make_data(("image", "text"))
    one, two = (write_report(data, tmp_path / name) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_examples_are_ranked_by_cosine_with_the_average_precision_of_the_whole_gallery() -> None:
    from sklearn.metrics import average_precision_score

    data = make_data(pictures=True)
    for labels in data.labels.values():
        labels[::5] = -1
    for example in choose_examples(data):
        query = data.embeddings[example.query][example.index].astype(np.float64)
        gallery = data.embeddings[example.gallery].astype(np.float64)
        cosine = gallery @ query / np.linalg.norm(gallery, axis=1) / np.linalg.norm(query)
        known = np.flatnonzero(data.labels[example.gallery] != -1)
        wanted = data.labels[example.query][example.index]
        relevant = data.labels[example.gallery][known] == wanted
        assert wanted != -1
        assert example.average_precision == pytest.approx(
            average_precision_score(relevant, cosine[known]), abs=1e-6
        )
        best = known[np.argsort(-cosine[known])][:TOP]
        assert [hit.index for hit in example.hits] == best.tolist()
        for hit in example.hits:
            assert hit.relevant == (data.labels[example.gallery][hit.index] == wanted)


def test_examples_do_not_depend_on_how_well_they_do() -> None:
    """The same rows are chosen whatever the embeddings are."""
    data = make_data()
    rng = np.random.default_rng(7)
    other = replace(
        data, embeddings={m: rng.normal(size=x.shape) for m, x in data.embeddings.items()}
    )
    chosen, again = (
        [(e.query, e.gallery, e.index) for e in choose_examples(d)] for d in (data, other)
    )
    assert chosen == again
    assert len(set(chosen)) == len(chosen)


def test_without_labels_there_are_no_examples(tmp_path: Path) -> None:
    data = few_figures(make_data(("image", "text"), pictures=True))
    data = replace(data, labels={m: np.full(len(y), -1) for m, y in data.labels.items()})
    page = Page(write_report(data, tmp_path))
    assert "example-table" not in page.tables
    assert "No test row is labelled" in page.text
    assert not list(tmp_path.glob("retrieval*"))


def test_undefined_scores_are_a_dash(tmp_path: Path) -> None:
    data = few_figures(make_data(("image", "text")))
    data.metrics["mAP@all"]["image->text"] = float("nan")
    row = Page(write_report(data, tmp_path)).tables["score-table"][1]
    assert row[:3] == ["image", "text", "–"]


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((30, 4)),
        np.tile([1.0, 2.0, 3.0], (30, 1)),
        np.ones((12, 1)),
        np.eye(2),
        np.random.default_rng(0).normal(size=(40, 1)),
        np.random.default_rng(0).normal(size=(11, 300)),
    ],
    ids=["zero", "collapsed", "one column", "two points", "one random column", "wide"],
)
def test_projection_is_finite(rows: np.ndarray) -> None:
    points, method = project(rows)
    assert points.shape == (len(rows), 2)
    assert np.isfinite(points).all()
    assert method == "PCA" or "t-SNE" in method


def test_projection_keeps_separate_groups_apart() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3), 40, axis=0) + 0.05 * rng.normal(size=(120, 3))
    points, _ = project(groups)
    nearest = np.argsort(((points[:, None] - points) ** 2).sum(-1), axis=1)[:, 1]
    assert (nearest // 40 == np.arange(120) // 40).all()


def test_large_sets_are_subsampled_and_the_caption_says_so(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("drcl.report.projection.MAX_POINTS", 60)
    page = Page(write_report(few_figures(make_data(rows=100)), tmp_path))
    assert "60 of 303 test rows" in page.text and "seed 0" in page.text


def test_matplotlib_state_of_the_caller_is_untouched(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(make_data(("image", "text")), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_importing_the_report_loads_no_heavy_library() -> None:
    code = (
        "import sys, drcl.report; "
        "print(*({'matplotlib', 'jinja2', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"jinja2.*drcl\[report\]"):
        write_report(make_data(("image", "text")), tmp_path)
    assert list(tmp_path.iterdir()) == []


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one modality": ({"embeddings": {"image": np.ones((3, 2))}}, "at least 2 modalities"),
    "flat embeddings": (
        {"embeddings": {"image": np.ones(3), "text": np.ones((3, 2))}},
        r"embeddings\['image'\].*\(3,\)",
    ),
    "NaN": (
        {"embeddings": {"image": np.full((3, 2), np.nan), "text": np.ones((3, 2))}},
        r"embeddings\['image'\].*finite",
    ),
    "two widths": (
        {"embeddings": {"image": np.ones((3, 2)), "text": np.ones((3, 4))}},
        r"one width D.*\[2, 4\]",
    ),
    "label lengths": ({"labels": {"image": np.zeros(5, int), "text": np.zeros(25, int)}}, "24"),
    "label outside": (
        {"labels": {"image": np.full(24, 9), "text": np.zeros(25, int)}},
        "row 0 has label 9",
    ),
    "labels of others": ({"labels": {"image": np.zeros(24, int)}}, "labels: expected"),
    "no metrics": ({"metrics": {}}, "at least one metric"),
    "unknown pair": ({"metrics": {"mAP@all": {"a->b": 1.0, "mean": 1.0}}}, r"metrics\['mAP@all'\]"),
    "curve of others": (
        {"curves": {"a->b": (np.ones(2), np.ones(2))}},
        r"curves: expected.*got \['a->b'\]",
    ),
    "curve lengths": ({"curves": {"image->text": (np.ones(2), np.ones(3))}}, r"curves.*\(2,\)"),
    "pictures": ({"pictures": {"image": np.ones((3, 5, 5))}}, r"pictures\['image'\].*24, h, w"),
    "pictures of others": (
        {"pictures": {"audio": np.ones((3, 5, 5))}},
        "expected modalities of .*got 'audio'",
    ),
    "history keys": (
        {"history": [{"phase": "prior"}]},
        r"history\[0\]: expected.*'loss'.*got \['phase'\]",
    ),
    "history phase": (
        {"history": [{"phase": "warm-up", "modality": "image", "epoch": 0, "loss": 1.0}]},
        "'warm-up'",
    ),
    "history modality": (
        {"history": [{"phase": "prior", "modality": "audio", "epoch": 0, "loss": 1.0}]},
        "'audio'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_contradictory_data_is_refused(case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        replace(make_data(("image", "text")), **change)
