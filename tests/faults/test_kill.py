"""What a process that is killed leaves: a training resumes, an index is whole, also to readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import kill_index
import kill_resume
import kill_served
import pytest
from gloo import command, ended


def said_by(work: Callable[[], None], folder: Path, kills: int) -> str:
    # Not a fork of this process: one with running threads is not safe to fork.
    process = command(["--kills", str(kills), "--seed", "1"], folder, work=work)
    code, said = ended(process, 600), (folder / "stdout").read_text()
    assert code == 0, said + (folder / "stderr").read_text()
    return said.rstrip()


def test_a_killed_training_resumes_to_the_same_bits(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    said = said_by(kill_resume.main, tmp_path, 6)
    assert "6 kills in" in said and said.endswith("bit-identical")


def test_an_index_is_whole_whenever_its_writer_is_killed(tmp_path):
    assert said_by(kill_index.main, tmp_path, 12).endswith("always whole")


@pytest.mark.long
def test_an_index_is_whole_after_two_hundred_kills(tmp_path):
    assert said_by(kill_index.main, tmp_path, 200).startswith("200 kills")


def test_every_answer_of_a_server_is_whole_while_writers_are_killed(tmp_path):
    pytest.importorskip("starlette", reason="serving needs the extra 'serve'")
    assert said_by(kill_served.main, tmp_path, 6).endswith("always whole")


@pytest.mark.long
def test_every_answer_is_whole_through_two_hundred_kills(tmp_path):
    pytest.importorskip("starlette", reason="serving needs the extra 'serve'")
    assert said_by(kill_served.main, tmp_path, 200).startswith("200 kills")
