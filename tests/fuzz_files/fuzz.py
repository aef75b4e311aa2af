"""Coverage-guided fuzzing of one reader: ``python fuzz.py mat -max_total_time=60``.

Needs atheris. What follows the format goes to libFuzzer. Inputs that reach new code are kept in the
folder given as one of these, a fault ends the run and leaves its input as ``crash-…``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import torch  # noqa: F401  before the package, for its own code need not be followed

with atheris.instrument_imports(include=["drcl.data", "drcl.model_files", "drcl.run", "tomllib"]):
    import drcl.data
    import drcl.estimator
    import drcl.run  # noqa: F401

import seeds
import targets


def main() -> None:
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as corpus:
        for index, content in enumerate(seeds.SEEDS[name]()):
            Path(corpus, str(index)).write_bytes(content)
        target = targets.make_target(name, Path(folder))
        folders = [option for option in options if not option.startswith("-")]
        flags = ["-rss_limit_mb=6000", "-timeout=60", "-max_len=65536", *options]
        atheris.Setup(
            [sys.argv[0], *folders, corpus, *(f for f in flags if f not in folders)], target
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
