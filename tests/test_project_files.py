"""The files around the code say what is true: workflows, forms, citation, changelog, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from drcl import __version__

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
PAGES = ("README.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
in_checkout = pytest.mark.skipif(
    not GITHUB.is_dir(), reason="a source distribution has no hidden files"
)


def parsed(path: Path) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra 'docs')")
    return yaml.safe_load(path.read_text("utf-8"))


@in_checkout
def test_workflows_call_what_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = []
    for path in (GITHUB / "workflows").glob("*.yml"):
        for job in parsed(path)["jobs"].values():
            commands += [step["run"] for step in job["steps"] if "run" in step]
    assert "bash .ci/run" in commands and (ROOT / ".ci" / "run").is_file()
    targets = [command.removeprefix("make ") for command in commands if "make " in command]
    assert len(commands) == len(targets) + commands.count("bash .ci/run")
    assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)


@in_checkout
def test_ci_runs_lint_site_and_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert {"lint", "docs", "test"} <= set(re.findall(r"^make (\w+)", script, flags=re.M))


@in_checkout
def test_the_bug_form_asks_for_drcl_info() -> None:
    form = parsed(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")
    fields = {field["id"]: field for field in form["body"]}
    assert "drcl info" in fields["info"]["attributes"]["label"]
    assert fields["info"]["validations"]["required"]
    for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"):
        assert parsed(path), path.name


@in_checkout
def test_pre_commit_runs_the_tools_of_make_lint_and_clang_format() -> None:
    (repository,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = {hook["id"]: hook["entry"] for hook in repository["hooks"]}
    assert list(entries) == ["ruff-check", "ruff-format", "clang-format", "mypy"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
    assert lint is not None
    assert entries["mypy"].removeprefix(".venv/bin/") in lint[1]
    assert parsed(ROOT / ".clang-format")["ColumnLimit"] >= 100


def test_the_citation_names_package_and_paper() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert citation["version"] == __version__ and citation["cff-version"] == "1.2.0"
    assert {"title", "message", "license", "authors"} <= set(citation)
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("Deep Reversible Consistency Learning")
    assert paper["journal"] == "IEEE Transactions on Multimedia" and paper["year"] == 2025
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Pu", "Qin", "Peng", "Song", "Zheng"]


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_between_files_of_the_project_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).is_file(), f"{page}: {target}"


def test_the_picture_of_the_architecture_names_parts_that_exist() -> None:
    root = ElementTree.parse(ROOT / "docs" / "architecture.svg").getroot()
    words = {element.text or "" for element in root.iter() if element.tag.endswith("}text")}
    modules = {word for text in words for word in re.findall(r"\bdrcl\.(\w+)", text)}
    assert {"data", "train", "functional", "dispatch", "metrics"} <= modules
    for name in modules:
        assert (ROOT / "drcl" / name).is_dir() or (ROOT / "drcl" / f"{name}.py").is_file(), name
