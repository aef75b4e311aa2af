"""What ``gpu_first.sh`` brought back, into the results, and out of the list of what is pending.

python -m drcl.benchmarks.gpu_import FOLDER...

Rows of the suite join ``results/<device>/suite.json``, all files are kept beside it as
``gpu_<step>.json``, and every line of ``PENDING_GPU.md`` whose step ended well is struck. Run
``python -m drcl.benchmarks.suite.publish`` afterwards: README and docs are made from the results.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from drcl.benchmarks.suite.results import Row, keep
from drcl.benchmarks.suite.timing import RESULTS
from drcl.storage.files import write_bytes

PENDING = Path(__file__).parent / "PENDING_GPU.md"
SUITE = ("headlines", "scale")  # files with rows of the suite
FILES = ("kernels", *SUITE, "sweep")


def read(folder: Path) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The files of a folder by name, and the steps that ended well, as ``"call: step"``.

    Raises ValueError if there is nothing, if a file was made by a test, or if the files are of
    several devices.
    """
    files = {}
    for name in FILES:
        path = folder / f"{name}.json"
        if path.is_file():
            files[name] = json.loads(path.read_text())
            if files[name]["about"]["tiny"]:
                raise ValueError(f"{path}: made with --tiny, for tests, not measured on a card")
    ended = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    if not files and not ended:
        raise ValueError(f"{folder}: expected {', '.join(FILES)}.json or CALL.jsonl, got neither")
    devices = sorted({content["about"]["device"] for content in files.values()})
    if len(devices) > 1:
        raise ValueError(f"{folder}: expected results of one device, got {', '.join(devices)}")
    return files, {f"{step['call']}: {step['step']}" for step in ended if step["status"] == 0}


def suite_rows(content: dict[str, Any]) -> list[Row]:
    """Those that are rows of the suite: a ranking's product alone and failures are not."""
    names = {field.name for field in fields(Row)}
    return [Row(**row) for row in content["rows"] if set(row) == names]


def struck(pending: str, ended: set[str]) -> tuple[str, list[str]]:
    """The list without the lines whose step ended well, and what these lines were about.

    >>> struck("| a | first: build | b |\\n| c | second: sweep | d |\\n", {"first: build"})
    ('| c | second: sweep | d |\\n', ['a'])
    """
    kept, gone = [], []
    for line in pending.splitlines(keepends=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[1] in ended:
            gone.append(cells[0])
        else:
            kept.append(line)
    return "".join(kept), gone


def take(folder: Path, results: Path, pending: Path) -> list[str]:
    """Take one folder in; returns what is no longer pending."""
    files, ended = read(folder)
    for name, content in files.items():
        place = results / content["about"]["device"]
        place.mkdir(parents=True, exist_ok=True)
        write_bytes(place / f"gpu_{name}.json", (folder / f"{name}.json").read_bytes())
        if name in SUITE and (rows := suite_rows(content)):
            keep(rows, results)
    text, gone = struck(pending.read_text(), ended)
    write_bytes(pending, text.encode())
    return gone


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pending", type=Path, default=PENDING)
    asked = parser.parse_args(arguments)
    for folder in asked.folders:
        for line in take(folder, asked.results, asked.pending):
            print(f"no longer pending: {line}")
    print("now: python -m drcl.benchmarks.suite.publish")


if __name__ == "__main__":
    main()
