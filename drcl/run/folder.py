"""The life of a run directory: started, interrupted and resumed, finished, opened."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drcl.errors import RunExists
from drcl.estimator import DRCL
from drcl.model_files import drop_stale_parts, write_parts
from drcl.report.page import is_report_file
from drcl.run.evaluation import Metrics
from drcl.run.record import Run, read_record, record_content
from drcl.storage.files import entries, is_empty, staged, write_bytes
from drcl.storage.sealed import to_json


def open_run(folder: Path) -> Run:
    """Read ``run.json`` of a finished run.

    Raises:
        FileNotFoundError: there is none; if a run was interrupted there, the error says so.
        ValueError: it is damaged or of another version's format, or a folder in it is a link.
    """
    _check_own(folder)
    path = folder / "run.json"
    if path.is_file():
        return read_record(path)
    if _pending(folder).is_file():
        raise FileNotFoundError(
            f"{folder}: this run was interrupted; finish it with: drcl train … --out {folder} "
            "--resume"
        )
    raise FileNotFoundError(f"{folder}: holds no run (no run.json); drcl train writes one")


def interrupted(folder: Path) -> Run | None:
    """The interrupted run that waits in this directory, if there is one."""
    return read_record(_pending(folder)) if _pending(folder).is_file() else None


def is_finished(folder: Path, run: Run) -> bool:
    """Whether this very run, with the same data and settings, is finished in the directory."""
    path = folder / "run.json"
    if not path.is_file():
        return False
    found = read_record(path)
    return (found.dataset, found.root, found.settings) == (run.dataset, run.root, run.settings)


def start_run(folder: Path, run: Run, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Prepare the directory and return the folder for the checkpoints.

    Raises:
        RunExists: the directory holds a run and neither ``resume`` nor ``overwrite`` applies.
        ValueError: it holds something else than a run; the interrupted run has other settings; a
            folder in it is a link.
    """
    _check_own(folder)
    checkpoints = _checkpoints(folder)
    waiting = interrupted(folder)
    if waiting is not None and resume:
        _check_same(waiting, run, folder, overwrite)
        return checkpoints
    if not overwrite:
        if (folder / "run.json").is_file():
            raise RunExists(
                f"{folder}: holds a finished run; choose another directory, or --overwrite it"
            )
        if waiting is not None:
            raise RunExists(
                f"{folder}: holds an interrupted run; continue it with --resume, or --overwrite it"
            )
    known = (folder / "run.json").is_file() or waiting is not None
    if folder.exists() and not known and not _is_fresh(folder):
        raise ValueError(
            f"{folder}: expected a run or an empty directory, got other files; choose another"
        )
    _drop_checkpoints(folder)
    write_bytes(_pending(folder), record_content(run))
    return checkpoints


def withdraw_run(folder: Path) -> None:
    """Undo :func:`start_run`, unless there is a checkpoint to go on from.

    An older run that is finished stays as it is.
    """
    if not any(_checkpoints(folder).glob("*.safetensors")):
        _pending(folder).unlink(missing_ok=True)
        _drop_folder(folder)


def finish_run(folder: Path, run: Run, model: DRCL, metrics: Metrics | None) -> Run:
    """Write model, metrics and ``run.json``, then drop the checkpoints.

    No metrics means that there is nothing to measure on. All is written before anything of an older
    run is replaced, and a report of that one removed. While files are replaced there is no
    ``run.json``: a process killed then leaves an interrupted run. Returns the run with its
    seconds.
    """
    order = ("config.json", "metrics.json", "run.json")
    with _written(folder, run, model, metrics, order) as (run, put_in_place):
        (folder / "run.json").unlink(missing_ok=True)
        if metrics is None:
            (folder / "metrics.json").unlink(missing_ok=True)
        put_in_place()
    _pending(folder).unlink(missing_ok=True)
    _drop_checkpoints(folder)
    _drop_folder(folder)
    return run


def update_run(folder: Path, run: Run, model: DRCL, metrics: Metrics | None) -> Run:
    """Write a finished run to which a modality was added, all before anything is replaced.

    ``run.json`` comes first: a modality that it names and the model lacks is passed over, and can
    be added again. The metrics come last: those of the other modalities hold all the while.
    """
    order = ("run.json", "config.json", "metrics.json")
    with _written(folder, run, model, metrics, order) as (run, put_in_place):
        put_in_place()
    return run


@contextlib.contextmanager
def _written(
    folder: Path, run: Run, model: DRCL, metrics: Metrics | None, order: Sequence[str]
) -> Iterator[tuple[Run, Callable[[], None]]]:
    """Inside, all files are written beside their places; the function puts them there in order.

    An old report is gone then; afterwards old parts of the model go, too.
    """
    tried = [{"phase": "auto", "seconds": record["seconds"]} for record in model.tried]
    run = replace(run, seconds=seconds_by_phase([*model.history, *tried]))
    config = write_parts(folder, model)
    content = {"config.json": config, "run.json": record_content(run)}
    if metrics is not None:
        content["metrics.json"] = to_json(metrics)
    files = {folder / name: content[name] for name in order if name in content}
    with staged(files) as put_in_place:
        for file in sorted((folder / "report").glob("*.*")):
            if is_report_file(file.name) and file.is_file():  # others are the user's
                file.unlink()
        yield run, put_in_place
    drop_stale_parts(folder, config)


def seconds_by_phase(history: list[dict[str, Any]]) -> dict[str, float]:
    """Phase -> seconds, over all modalities.

    >>> seconds_by_phase([{"phase": "prior", "seconds": 1.0}, {"phase": "prior", "seconds": 2.0}])
    {'prior': 3.0}
    """
    total: dict[str, float] = {}
    for record in history:
        total[record["phase"]] = total.get(record["phase"], 0.0) + record["seconds"]
    return {phase: round(seconds, 3) for phase, seconds in total.items()}


def _check_own(folder: Path) -> None:
    """Refuse a link where a run's files are written and removed: it may lead to files of yours."""
    for name in ("checkpoints", "encoders", "report"):
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name}: a symbolic link, expected a folder of the run's own"
            )


def _checkpoints(folder: Path) -> Path:
    return folder / "checkpoints"


def _pending(folder: Path) -> Path:
    return _checkpoints(folder) / "run.json"


def _is_fresh(folder: Path) -> bool:
    """Whether nothing is there, or what a run leaves that is killed as it starts."""
    return is_empty(folder) or (
        [entry.name for entry in entries(folder)] == ["checkpoints"]
        and _checkpoints(folder).is_dir()
        and is_empty(_checkpoints(folder))
    )


def _drop_checkpoints(folder: Path) -> None:
    """Remove what training left, and nothing that is not its own."""
    for file in _checkpoints(folder).glob("*.safetensors"):
        file.unlink()


def _drop_folder(folder: Path) -> None:
    """Remove the folder of the checkpoints if nothing is in it, or only what is half-written."""
    if _checkpoints(folder).is_dir() and is_empty(_checkpoints(folder)):
        shutil.rmtree(_checkpoints(folder))


def _check_same(waiting: Run, run: Run, folder: Path, overwrite: bool) -> None:
    ours, theirs = run.settings, waiting.settings
    differing = [name for name in ours if ours[name] != theirs.get(name)]
    if (waiting.dataset, waiting.root) != (run.dataset, run.root):
        differing.insert(0, "dataset")
    if differing:
        replace_it = "--overwrite it without --resume" if overwrite else "--overwrite it"
        raise ValueError(
            f"{folder}: cannot resume, the interrupted run differs in {', '.join(differing)}; "
            f"resume it as it was started (settings are kept, leave them out), or {replace_it}"
        )
