"""The files around the code say what is true: workflows, forms, citation, changelog, links."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
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


def workflows() -> dict[str, Any]:
    return {path.name: parsed(path) for path in (GITHUB / "workflows").glob("*.yml")}


def steps(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def events(workflow: Any) -> Any:
    return workflow[True]  # YAML 1.1 reads the key "on" as a truth value


@in_checkout
def test_workflows_call_what_exists() -> None:
    """Targets of the Makefile and scripts, nothing else, so that all they do can be done here."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = workflows()
    assert set(found) == {"ci.yml", "docs.yml", "release.yml", "wheels.yml"}
    for name, workflow in found.items():
        for step in steps(workflow):
            command = step.get("run", "make lint")
            assert "${{" not in command, f"{name}: what is filled in there may be a command"
            program, what = command.split()[:2]
            if program == "make":
                assert re.search(rf"^{what}:", makefile, flags=re.M), f"{name}: {command}"
            else:
                assert program == ("python" if what.endswith(".py") else "bash"), command
                assert what.startswith(".ci/") and (ROOT / what).is_file(), f"{name}: {command}"
        for job in workflow["jobs"].values():
            if "uses" in job:
                assert (ROOT / job["uses"]).is_file(), f"{name}: {job['uses']}"
                assert "workflow_call" in events(parsed(ROOT / job["uses"]))


# What a job may do beyond reading this repository.
MAY = {
    ("docs.yml", "deploy"): {"pages", "id-token"},
    ("release.yml", "attest"): {"id-token", "attestations"},
    ("release.yml", "publish"): {"id-token"},
    ("release.yml", "github"): {"contents"},
}


@in_checkout
def test_workflows_may_do_no_more_than_they_need() -> None:
    written = {}
    for name, workflow in workflows().items():
        assert workflow["permissions"] == {"contents": "read"}, name
        for job, content in workflow["jobs"].items():
            assert "uses" in content or content["timeout-minutes"] <= 120, f"{name}: {job}"
            if asked := content.get("permissions"):
                written[name, job] = {key for key, may in asked.items() if may == "write"}
            assert "secrets." not in str(content), f"{name}: {job}"
        for step in steps(workflow):
            assert re.search(r"@(v\d+|release/v1|[0-9a-f]{40})$", step.get("uses", "@v1")), step
    assert written == MAY


@in_checkout
def test_a_release_follows_its_tag_its_tests_and_its_wheels() -> None:
    release = workflows()["release.yml"]
    assert events(release) == {"push": {"tags": ["v*"]}}
    jobs = release["jobs"]

    def before(job: str) -> set[str]:
        needs = jobs[job].get("needs", [])
        needs = {needs} if isinstance(needs, str) else set(needs)
        return needs.union(*map(before, needs))

    assert {"agree", "tests", "wheels", "attest"} <= before("publish")
    assert "publish" in before("github")
    # the job that may publish runs no code of this repository
    (download, publish) = jobs["publish"]["steps"]
    assert download["uses"].startswith("actions/download-artifact@")
    assert publish == {"uses": "pypa/gh-action-pypi-publish@release/v1"}
    assert jobs["publish"]["environment"] == "release"


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


def test_the_changelog_has_its_form() -> None:
    """Versions, newest first and this one on top; in each, headings once, with entries below."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    title, *versions = text.split("\n## ")
    assert title.startswith("# Changelog\n") and "semantic versioning" in title
    numbers = [tuple(map(int, one.partition("\n")[0].split("."))) for one in versions]
    assert numbers == sorted(set(numbers), reverse=True) and all(len(n) == 3 for n in numbers)
    assert versions[0].startswith(f"{__version__}\n")
    for version in versions:
        _, *sections = version.split("\n### ")
        headings = [section.partition("\n")[0] for section in sections]
        assert headings and len(set(headings)) == len(headings), headings
        for section in sections:
            entries = section.partition("\n\n")[2].strip("\n")
            assert "\n\n" not in entries, f"an empty line in {section[:40]}"
            lines = entries.split("\n")
            assert all(re.match("- [`A-Z\\w]|  \\S", line) for line in lines), section
            assert all(entry.endswith(".") for entry in entries.split("\n- ")), section
    assert max(map(len, text.splitlines())) <= 120


def release_notes(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / ".ci" / "release_notes.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@in_checkout
def test_a_tag_prints_its_entry_of_the_changelog() -> None:
    done = release_notes(f"v{__version__}")
    assert done.returncode == 0, done.stderr
    entry = (ROOT / "CHANGELOG.md").read_text("utf-8").split("\n## ")[1]
    assert f"{__version__}\n\n{done.stdout.strip()}" == entry.strip()
    assert release_notes().returncode == 1


@in_checkout
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("drcl/_version.py", '__version__ = "9.9.9"\n'),
        ("CITATION.cff", "version: 9.9.9\n"),
        ("CHANGELOG.md", "# Changelog\n\n## 9.9.9\n\nNew.\n"),
        ("CHANGELOG.md", "# Changelog\n"),
    ],
)
def test_a_tag_of_another_version_is_refused(name: str, changed: str, tmp_path: Path) -> None:
    for needed in (".ci/release_notes.py", "drcl/_version.py", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / needed).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / needed, tmp_path / needed)
    assert release_notes(f"v{__version__}", root=tmp_path).returncode == 0
    (tmp_path / name).write_text(changed, encoding="utf-8")
    done = release_notes(f"v{__version__}", root=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    got = "9.9.9" if "9.9.9" in changed else "none"
    assert done.stderr == f"{name}: expected the version of tag v{__version__}, got {got}\n"


@in_checkout
def test_a_release_on_github_has_the_entry_and_the_files(tmp_path: Path) -> None:
    """With a ``gh`` that writes down what it is asked."""
    told = tmp_path / "told"
    gh = tmp_path / "gh"
    gh.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > {told}\n", encoding="utf-8")
    gh.chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    script = ["bash", str(ROOT / ".ci" / "github_release")]
    environment = {**os.environ, "PATH": path}
    subprocess.run([*script, f"v{__version__}", "a.whl", "b"], env=environment, check=True)
    notes = release_notes(f"v{__version__}").stdout.strip()
    options = ["--verify-tag", "--title", f"drcl {__version__}", "--notes", notes]
    asked = told.read_text("utf-8").split("\0")
    assert asked == ["release", "create", f"v{__version__}", *options, "a.whl", "b", ""]
    told.unlink()
    refused = subprocess.run([*script, "v9.9.9", "a.whl"], env=environment, capture_output=True)
    assert refused.returncode != 0 and not told.exists()


def test_old_names_say_when_they_go_and_are_gone_by_then() -> None:
    """CONTRIBUTING.md has the rule; every warning of the package comes through one function."""
    warned = 0
    for path in (ROOT / "drcl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), ast.unparse(node)
            if path.name != "_deprecated.py":
                assert not (called == "warnings.warn" and "DeprecationWarning" in given), path
            if called == "_deprecated.warn":
                (version,) = (k.value for k in node.keywords if k.arg == "goes_in")
                major, minor = map(int, ast.literal_eval(version).split("."))
                here = tuple(map(int, __version__.split(".")[:2]))
                assert here < (major, minor), f"{path.name}: time to take the old name away"
                warned += 1
    assert warned >= 3


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
