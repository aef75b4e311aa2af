"""One program run several times in processes of its own, with other environment variables."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from gloo import on_ranks

INSTRUCTION_SETS = tuple({"DRCL_CPU_CAPABILITY": name} for name in ("default", "avx2", ""))


def outputs(code: str, environments: Sequence[Mapping[str, str]]) -> set[str]:
    """The different things that it prints, in fresh interpreters: for what an import reads."""
    runs = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        for environment in environments
    )
    return {run.stdout for run in runs}


def outputs_of_forks(
    code: str, environments: Sequence[Mapping[str, str]] = INSTRUCTION_SETS
) -> set[str]:
    """The same where PyTorch and drcl may have been imported before the environment is set, as for
    what the ops read when they are first called: each interpreter would take seconds."""
    with tempfile.TemporaryDirectory() as folder:
        on_ranks(_write, len(environments), code, list(map(dict, environments)), folder)
        return {path.read_text() for path in Path(folder).iterdir()}


def bits_by_width(draw: str, compute: str) -> set[str]:
    """Lines of a width and the digest of the tensors in ``found``, which ``compute`` makes of what
    ``draw`` made from ``width`` and ``g``, in every instruction set and with 1 to 3 threads."""
    code = f"""
import hashlib, torch
for width in (7, 100, 256):
    g = torch.Generator().manual_seed(width)
{textwrap.indent(draw, "    ")}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
{textwrap.indent(compute, "        ")}
        bits = b"".join(bytes(one.view(torch.uint8).numpy()) for one in found)
        print(width, hashlib.sha256(bits).hexdigest())
"""
    return {line for text in outputs_of_forks(code) for line in text.splitlines()}


def _write(rank: int, code: str, environments: Sequence[Mapping[str, str]], folder: str) -> None:
    os.environ.update(environments[rank])
    with Path(folder, str(rank)).open("w") as file, contextlib.redirect_stdout(file):
        exec(code, {"__name__": "__main__"})
