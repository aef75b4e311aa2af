"""The life of a run directory: started, interrupted and resumed, finished, opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from drcl.estimator import DRCL
from drcl.run.evaluation import Metrics
from drcl.run.record import Run, read_record, write_record
from drcl.train.checkpoint import write_json


class RunExists(ValueError):
    """The directory holds a run, finished or interrupted, that nothing said to replace."""


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


def start_run(folder: Path, run: Run, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Prepare the directory and return the folder for the checkpoints.

    Raises:
        RunExists: the directory holds a run and neither ``resume`` nor ``overwrite`` applies.
        ValueError: it holds something that is no run; the interrupted run has other settings; a
            folder in it is a link.
    """
    _check_own(folder)
    checkpoints = folder / "checkpoints"
    waiting = interrupted(folder)
    if waiting is not None and resume:
        _check_same(waiting, run, folder)
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
    if folder.exists() and not known and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty and holds no run; choose another directory")
    _clear(checkpoints)
    write_record(_pending(folder), run)
    return checkpoints


def finish_run(folder: Path, run: Run, model: DRCL, metrics: Metrics | None) -> Run:
    """Write model, metrics and ``run.json``, then drop the checkpoints.

    No metrics means that there is nothing to measure on. A report of the model that was there
    before is removed. Returns the run with its seconds.
    """
    run = replace(run, seconds=seconds_by_phase(model.history))
    _drop_report(folder)
    model.save(folder)
    _write_metrics(folder, metrics)
    write_record(folder / "run.json", run)
    _clear(folder / "checkpoints")
    return run


def update_run(folder: Path, run: Run, model: DRCL, metrics: Metrics | None) -> Run:
    """Write a finished run to which a modality was added, as :func:`finish_run` does.

    ``run.json`` comes first: a modality that it names and the model lacks is passed over, and can
    be added again.
    """
    run = replace(run, seconds=seconds_by_phase(model.history))
    _drop_report(folder)
    write_record(folder / "run.json", run)
    model.save(folder)
    _write_metrics(folder, metrics)
    return run


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


def _write_metrics(folder: Path, metrics: Metrics | None) -> None:
    if metrics is None:
        (folder / "metrics.json").unlink(missing_ok=True)
    else:
        write_json(folder / "metrics.json", metrics)


def _drop_report(folder: Path) -> None:
    for file in (folder / "report").glob("*"):
        if file.suffix in (".html", ".png"):
            file.unlink()


def _pending(folder: Path) -> Path:
    return folder / "checkpoints" / "run.json"


def _clear(checkpoints: Path) -> None:
    """Remove what training left, and nothing that is not its own."""
    _pending(checkpoints.parent).unlink(missing_ok=True)
    for file in checkpoints.glob("*.safetensors"):
        file.unlink()
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _check_same(waiting: Run, run: Run, folder: Path) -> None:
    ours, theirs = run.settings, waiting.settings
    differing = [name for name in ours if ours[name] != theirs.get(name)]
    if (waiting.dataset, waiting.root) != (run.dataset, run.root):
        differing.insert(0, "dataset")
    if differing:
        raise ValueError(
            f"{folder}: cannot resume, the interrupted run has another {', '.join(differing)}; "
            "leave these options out, or --overwrite it"
        )
