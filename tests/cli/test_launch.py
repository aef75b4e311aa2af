"""What a process that was started beside others leaves behind where it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from drcl.cli import launch

# As gloo raises it in a process that reads from a machine without power.
LOST = (
    "[/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.77.0.2]:30879: Connection "
    "timed out. This is typically caused by a remote worker hanging or bugs in the application."
)
EXPLAINED = "machine did not answer for 60 s (Read error [10.77.0.2]:30879: Connection timed out)"


def fail(error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> str:
    """What the launcher, which would start the process so often again, would show of the error."""
    about = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_ERROR_FILE": str(folder / "error.json")}
    about |= {"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": str(2 + left)}
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "_meet", lambda: None)
    monkeypatch.setattr(launch.dist, "get_rank", lambda: 0)
    with pytest.raises(click.exceptions.Exit), launch.worker():
        raise error
    message = json.loads((folder / "error.json").read_text())["message"]
    return str(message["extraInfo"]["py_callstack"])


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize(
    ("error", "said", "hidden"),
    [
        (RuntimeError(LOST), EXPLAINED, "pair.cc"),
        (ValueError("dim: expected 4, got 5"), "dim: expected 4, got 5", "ValueError"),
        (KeyError("a fault of ours"), "KeyError: 'a fault of ours'", ""),
    ],
)
def test_an_error_is_shown_without_its_cause_and_where_it_is_followed_by_a_restart(
    error, said, hidden, left, tmp_path, monkeypatch, capsys
):
    shown = fail(error, tmp_path, monkeypatch, left)
    assert said in shown.splitlines()[-1]
    if hidden:
        assert hidden not in shown
    else:
        assert "raise error" in shown, "a traceback leads to a fault of ours"
    heard = capsys.readouterr().err
    assert (said in heard and heard.count("\n") == 1) if left else heard == ""


def test_a_process_that_is_done_ends_whatever_libraries_do_on_their_way_out():
    script = """
import atexit, os
from drcl.cli import launch
atexit.register(os.abort)
launch._meet = lambda: None
launch.dist.get_rank, launch.dist.get_backend = lambda: 1, lambda: "gloo"
with launch.worker() as rank:
    print("done by", rank, end="")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done by 1"), done.stderr
