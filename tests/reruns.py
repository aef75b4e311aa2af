"""One program run several times in processes of its own, with other environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping


def outputs(code: str, environments: Iterable[Mapping[str, str]]) -> set[str]:
    """The different things that it prints."""
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
