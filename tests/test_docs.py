"""The pages in docs/: their Python and their commands run, and their facts hold."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import re
import shlex
import subprocess
import symtable
import sys
from pathlib import Path
from typing import Any

import pytest
import record_platforms
import torch
from click.testing import CliRunner
from gloo import command, ended

from drcl import Prior
from drcl.cli import main
from drcl.ops.reversible_consistency import reversible_consistency

ROOT = Path(__file__).resolve().parents[1]
KERNEL_TESTS = ROOT / "tests" / "kernels"
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text("utf-8") for path in DOCS.rglob("*.md")}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)
BLOCKS = {page: FENCE.findall(text) for page, text in PAGES.items()}
# What a training is cut down to here; each setting is one that the command has anyway.
SHORTER = ["--dim", "16", "--hidden", "32", "--epochs", "2", "--prior-epochs", "2", "--no-report"]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/tools, as mkdocs imports it."""
    pytest.importorskip("mkdocs", reason="the site's tools are not installed (extra 'docs')")
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    return importlib.import_module


def commands(page: str) -> list[str]:
    lines = [line for kind, code in BLOCKS[page] if kind == "bash" for line in code.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_code_blocks_have_a_language_that_is_tested():
    kinds = {kind for blocks in BLOCKS.values() for kind, _ in blocks}
    assert kinds <= {"python", "bash", "toml"}


def of_several_processes(line: str) -> bool:
    return line.startswith("torchrun ") or "--parallel" in line


# Pages whose blocks need what is not installed here; tests/test_frameworks.py runs each by itself.
ELSEWHERE = {"frameworks.md"}
WITH_BLOCKS = [
    page
    for page, blocks in BLOCKS.items()
    if any(kind != "bash" for kind, _ in blocks) and page not in ELSEWHERE
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "several"),
    [
        *(pytest.param(page, False, id=page) for page in WITH_BLOCKS),
        # what tests/train/test_parallel.py runs in the short form
        *(
            pytest.param(page, True, id=f"{page}-of-several-processes", marks=pytest.mark.long)
            for page in WITH_BLOCKS
            if any(map(of_several_processes, commands(page)))
        ),
    ],
)
def test_page_runs_from_top_to_bottom(page, several, tmp_path, monkeypatch):
    """In one folder and one namespace, as a reader would go along; then its drcl commands."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    for kind, code in BLOCKS[page]:
        if kind == "toml":
            name = re.search(r'^name = "(\w+)"', code, flags=re.M)
            assert name is not None
            Path(f"{name[1]}.toml").write_text(code, encoding="utf-8")
        elif kind == "python":
            exec(compile(code, page, "exec"), names)
    for line in commands(page):
        if of_several_processes(line) and not several:
            continue
        words = shlex.split(line)
        shorter = SHORTER if "train" in words or "add-modality" in words else []
        if words[0] == "torchrun":
            launcher = [sys.executable, "-m", "torch.distributed.run"]
            done = subprocess.run(
                [*launcher, *words[1:], *SHORTER], capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        elif "--parallel" in words:
            process = command([*words[1:], *SHORTER], tmp_path, threads=1)
            assert ended(process, 300) == 0, f"{line}\n{(tmp_path / 'stderr').read_text()}"
        elif words[0] == "drcl":
            if words[1] == "add-modality":  # the prior's settings are those of the run
                shorter = ["--hidden", "32", "--epochs", "2", "--no-report"]
            if words[1] == "compare":
                shorter = ["--labels-per-class", "5"]
            result = CliRunner().invoke(main, [*words[1:], *shorter], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", ["search.md", *ELSEWHERE])
def test_blocks_stand_alone(page):
    """On other pages they go on from those above; here readers copy the one that they need."""
    for kind, code in BLOCKS[page]:
        if kind == "python":
            compiled = symtable.symtable(code, page, "exec")
            needed = {one.get_name() for one in compiled.get_symbols() if one.is_referenced()}
            made = {
                one.get_name()
                for one in compiled.get_symbols()
                if one.is_assigned() or one.is_imported()
            }
            assert needed <= made | set(dir(builtins)), code


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_run_here_or_in_ci(page):
    """Those that another test runs, or CI; a command of a new kind has to be given its place."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    ci = "".join(path.read_text("utf-8") for path in (ROOT / ".ci").iterdir() if path.is_file())
    files = (ROOT / "tests").glob("test_examples*.py")
    examples = "".join(path.read_text("utf-8") for path in files)
    for line in commands(page):
        words = shlex.split(line)
        if words[0] in ("drcl", "torchrun"):
            runs = any(kind != "bash" for kind, _ in BLOCKS[page]) or words[1] == "info"
            assert runs, f"{page}: nothing runs {line!r}"
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.M), line
            assert re.search(rf"\bmake {words[1]}\b", ci), f"CI does not run {line!r}"
        elif words[0].endswith("python") and words[1].startswith("examples/"):
            assert (ROOT / words[1]).is_file(), line
            assert Path(words[1]).name in examples, line
        elif words[:3] == ["python", "-m", "drcl.benchmarks.gates"]:
            assert words[2] in (KERNEL_TESTS / "test_kernel_compilation.py").read_text("utf-8")
        elif words[:3] == ["python", "-m", "drcl.benchmarks.gates.model"]:
            assert "model" in (KERNEL_TESTS / "test_gates.py").read_text("utf-8")
        else:
            pytest.fail(f"{page}: {line!r} is run by no test and not in CI")


def test_files_that_pages_name_exist():
    pattern = r"`((?:drcl|kernels|csrc|benchmarks|tests|examples|docs|\.ci)/[\w/.-]+\.\w+)`"
    for page, text in PAGES.items():
        for name in re.findall(pattern, text):
            assert (ROOT / name).is_file(), f"{page}: {name}"


def source_files(*kinds: str) -> list[Path]:
    folders = ("drcl", "kernels", "csrc", "benchmarks", "tests", ".ci")
    found = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    found += [ROOT / "setup.py", ROOT / "Makefile", ROOT / ".ci" / "run"]
    return [path for path in found if path.suffix in kinds]


def variables_of_the_code() -> set[str]:
    """Every DRCL_… that is read or set outside C++ macros."""
    name = re.compile(r"\bDRCL_[A-Z_]+\b")
    c_files = source_files(".cpp", ".h", ".inc", ".cu")
    c_code = "".join(path.read_text("utf-8") for path in c_files)
    macros = {m for line in re.findall(r"^#.*", c_code, flags=re.M) for m in name.findall(line)}
    found = set(re.findall(r'getenv\("(DRCL_[A-Z_]+)"', c_code))
    for path in source_files(".py", ".sh", ""):
        if path.name != Path(__file__).name:
            found |= set(name.findall(path.read_text("utf-8", errors="ignore")))
    return found - macros


def test_the_table_of_variables_is_that_of_the_code():
    rows = re.findall(r"^\| `(DRCL_[A-Z_]+)", PAGES["environment.md"], flags=re.M)
    assert len(rows) == len(set(rows))
    assert variables_of_the_code() == set(rows)


def test_measured_numbers_in_prose_are_those_of_the_code():
    """Tables are made from results; a time in a sentence stands beside the code it is of.

    Paragraphs that say that theirs are predicted or counted are of no measurement.
    """
    code = "\n".join(path.read_text("utf-8", errors="ignore") for path in source_files(".py"))
    for page, text in PAGES.items():
        prose = FENCE.sub("", text)
        for paragraph in prose.split("\n\n"):
            if re.search(r"predict|counted|the model", paragraph, flags=re.I):
                continue
            unit = r"(?:ms|MB|GB|GFLOP/s|TFLOP/s|GB/s|TB/s)"
            for figure in re.findall(rf"\b\d[\d.,]* {unit}\b", paragraph):
                assert figure in code, f"{page}: {figure}"
        assert not re.search(r"\b\d[\d.,]* ?(?:x|×|%|times) (?:faster|slower|less)", prose), page


def test_every_page_is_in_the_navigation_and_has_one_title():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page, text in PAGES.items():
        assert page in navigation, page
        titles = re.findall(r"^# .*", FENCE.sub("", text), flags=re.M)
        assert len(titles) == 1, f"{page}: {titles}"


def test_every_placeholder_of_a_page_is_filled(tools):
    fillers = tools("hooks").FILLERS
    for page, text in PAGES.items():
        for call in re.findall(r"\{\{ (.*?) \}\}", text):
            name, *arguments = call.split()
            assert fillers[name](*arguments).strip(), f"{page}: {call}"


def test_tables_of_measurements_are_of_workloads_that_the_suite_has(tools):
    registry = pytest.importorskip(
        "drcl.benchmarks.suite.registry", reason="the suite is not installed"
    )
    entries = registry.entries(torch.device("cpu"))
    for page, text in PAGES.items():
        for op in re.findall(r"\{\{ measured (\w+) \}\}", text):
            sizes = next(dict(entry.sizes) for entry in entries if entry.op == op)
            operations, size = tools("figures").least_work(op, sizes)
            assert operations > 0 and size > 0, page


def test_the_plot_of_the_readme_is_a_figure_of_the_site(tools):
    hooks = tools("hooks")
    drawn = re.findall(r"!\[[^]]+\]\(figures/([\w-]+)\.svg\)", hooks.readme("Measured"))
    assert drawn == [f"loss_{device}" for device in hooks.plots()]


def test_the_search_works_without_a_server(tools, tmp_path):
    """The theme reads ``__index`` from a script where a page comes from disk."""
    from types import SimpleNamespace

    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search_index.json").write_text('{"docs": []}', encoding="utf-8")
    tools("hooks").on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    script = (tmp_path / "search" / "search_index.js").read_text("utf-8")
    assert script == 'var __index = {"docs": []}'
    assert "polyfills: [search-from-disk.js]" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert "IFrameWorker" in (DOCS / "search-from-disk.js").read_text("utf-8")


def test_an_unknown_filler_stops_the_build(tools):
    from types import SimpleNamespace

    from mkdocs.exceptions import PluginError

    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    fill = tools("hooks").on_page_markdown
    assert fill("a {{ backends mixup }} b", page) == "a `triton`, `eager`, `reference` b"
    for text in ("{{ weather }}", "{{ readme No such section }}", "{{ gates no_kernel }}"):
        with pytest.raises(PluginError, match=r"page\.md"):
            fill(text, page)


@pytest.mark.parametrize("batch", [20, 64, 150])
@pytest.mark.parametrize("classes", [5, 48])
def test_the_memory_figure_counts_what_the_op_saves(tools, batch, classes):
    """Beside the tensors that the op leaves for the way back, by what the figure calls them."""
    width = 48
    prior = Prior(torch.randn(width, classes))
    features, ids = torch.randn(batch, width), torch.arange(batch) % classes
    space = [prior.basis, prior.recast_coordinates, prior.weight_coordinates]
    settings = (0.1, 0.1, 1.0, 1.0, 1.0)
    out = reversible_consistency(
        features, ids, None, torch.tensor(0.5), space, settings, "", batch < width, "eager"
    )
    *_, outside, coordinates, label_gradient, _, _, inner, cross, gram = out
    expected = tools("figures").linear_bytes(batch, width, classes)
    assert outside.nbytes == expected["F"]
    assert coordinates.nbytes + label_gradient.nbytes == expected["coordinates"]
    if classes < width:
        assert gram.nbytes == expected["M and Z, or FᵀF"]
        assert inner.nbytes + cross.nbytes == expected["class sums"]


def test_figures_are_reproducible(tools):
    figures = tools("figures")
    measured = [("ours", 1024, 20.0), ("literal", 1024, 130.0)]
    first = figures.linear_memory(measured)
    assert first == figures.linear_memory(measured) and "measured peak" in first
    assert "measured" not in figures.linear_memory([])
    row = {"op": "mixup", "sizes": {"B": 64, "D": 8, "C": 10}, "p50_ms": 1.0}
    rows = [{"method": "auto", "mean": 0.5}, {"method": "cca", "mean": None}]
    assert "our own" in figures.methods({"pictures": rows}, {"auto": "our own"})
    assert "mixup" in figures.roofline([{**row, "gemm_GFLOPs": 100.0, "copy_GBps": 10.0}])


def test_literal_form_holds_as_many_matrices_as_its_page_says(tools):
    """More than its three similarities alone, and not more than all that its lines make."""
    assert 3 < tools("figures").literal_matrices() <= 12


def test_what_ran_on_a_platform_names_the_test_that_ran_it():
    """And the day; what nobody ran has no cell."""
    rows = json.loads((DOCS / "tools" / "platforms.json").read_text("utf-8"))
    for row in rows:
        for result, by, *day in (cell for name, cell in row.items() if name != "platform"):
            file, _, name = by.partition("[")[0].partition("::")
            assert result and result != "not run"
            assert (
                f"def {name}" in (ROOT / file).read_text("utf-8")
                if name
                else (ROOT / file).exists()
            )
            assert all(re.fullmatch(r"(failed )?\d{4}-\d\d-\d\d", one) for one in day)


def test_a_run_is_noted_in_the_cells_of_its_test():
    table = [
        {"platform": "one", "native": ["pass", "a.py::b[one]"], "suite": ["pass", ".ci/run"]},
        {"platform": "two", "native": ["pass", "a.py::b[two]", "2026-01-01"]},
        {"platform": "three", "native": ["pass", "a.py::c", "2026-01-01"]},
    ]
    ran = {"a.py::b[3.9-one]": "passed", "a.py::b[3.9-two]": "failed", "a.py::c": "skipped"}
    record_platforms.note(table, ran, "2026-02-03")
    assert [row["native"][2:] for row in table] == [
        ["2026-02-03"],
        ["failed 2026-02-03"],
        ["2026-01-01"],
    ]
    assert table[0]["suite"] == ["pass", ".ci/run"]


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes the compiler's place"
)
def test_the_compile_table_has_every_kernel_and_configuration():
    pytest.importorskip("triton", reason="Triton is not installed")
    from drcl.benchmarks.gates.checks import configuration, recorded

    table = json.loads((DOCS / "tools" / "compile_gates.json").read_text("utf-8"))
    expected = {(name, configuration(launch)) for name, launch in recorded().items()}
    assert expected
    rows = [row for row in table if row["triton"]]
    for version in {row["triton"] for row in rows}:
        some = [row for row in rows if row["triton"] == version]
        names = {(f"{row['kernel']} {row['label']}", row["configuration"]) for row in some}
        assert names == expected
    assert all(row["registers"] > 0 for row in table)
    ranking = {(row["kernel"], row["label"]) for row in table if not row["triton"]}
    assert ranking == {
        (kernel, f"{dtype} scores")
        for kernel in ("rank_kernel", "rank_many_kernel", "rank_tied_kernel")
        for dtype in ("float32", "float64")
    }


def test_docstrings_become_markdown(tools):
    pytest.importorskip("griffe", reason="the site's tools are not installed (extra 'docs')")
    convert = tools("docstrings").as_markdown
    assert convert("See :class:`drcl.Prior`.") == "See `drcl.Prior`."
    text = "One.\n\n    >>> 1 + 1\n    2\n\nTwo."
    assert convert(text) == "One.\n\n    ```pycon\n    >>> 1 + 1\n    2\n    ```\n\nTwo."
    assert convert(">>> 1\n1") == "```pycon\n>>> 1\n1\n```"
    guarded = '>>> import pytest; _ = pytest.importorskip("faiss")\n>>> 1\n1'
    assert convert(guarded) == convert(">>> 1\n1")
    text = "Args:\n    a, b: both of\n        them.\n    c: it."
    assert convert(text) == text.replace("a, b:", "a:").replace("    c:", "    b: see `a`.\n    c:")
