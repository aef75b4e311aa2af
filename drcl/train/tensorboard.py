"""Logging a training: to TensorBoard, where that is installed, and to a function of the user's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from drcl.storage.files import naming
from drcl.train.history import SCORES

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from drcl.train.context import Log
    from drcl.train.phase import Record


@contextlib.contextmanager
def tensorboard(folder: str | Path | None) -> Iterator[Log | None]:
    """Within, a function that writes the record of an epoch; with no folder there is none.

    Every phase and modality is a run of its own, ``folder/encoder-image`` for example, so that
    TensorBoard draws their curves over each other: ``loss``, its ``parts/…``, the scores,
    ``samples per second`` and ``seconds/…`` by section, against the epoch. A training that was
    interrupted goes on in the same curves.

    Raises ImportError, before anything is trained, if the package tensorboard is missing, and
    OSError where the log cannot be written.

    >>> with tensorboard(None) as log:
    ...     print(log)
    None
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"log_dir: logging needs the package tensorboard ({error}); install it with: pip "
            "install 'drcl[log]'"
        ) from error
    writers: dict[str, SummaryWriter] = {}
    show = threading.excepthook

    def show_others(thrown: threading.ExceptHookArgs) -> None:
        # A writer's thread tells of its error here, and raises it once more from the next call.
        if not isinstance(thrown.exc_value, OSError) or "tensorboard" not in str(
            type(thrown.thread)
        ):
            show(thrown)

    def log(record: Record) -> None:
        run, epoch = _run(record), record["epoch"]
        with naming(Path(folder)):
            if run not in writers:
                # Epochs that an interrupted training logged but did not save are trained once more.
                writers[run] = SummaryWriter(
                    str(Path(folder) / run), purge_step=epoch, flush_secs=10
                )
            for name, value in _scalars(record).items():
                writers[run].add_scalar(name, value, epoch)

    threading.excepthook = show_others
    try:
        yield log
    finally:
        try:
            with naming(Path(folder)):
                for writer in writers.values():
                    writer.close()
        finally:
            threading.excepthook = show


def all_of(curves: Log | None, log: Callable[[dict[str, float], int], object] | None) -> Log | None:
    """A function that passes the record of an epoch to both; to ``log`` as values and the epoch.

    >>> record = {"phase": "prior", "modality": "text", "epoch": 3, "loss": 0.5, "parts": {}}
    >>> all_of(None, print)({**record, "samples": 8, "seconds": 2.0, "time": {}})
    {'prior-text/loss': 0.5, 'prior-text/samples per second': 4.0} 3
    """
    if log is None:
        return curves

    def both(record: Record) -> None:
        if curves is not None:
            curves(record)
        values = {f"{_run(record)}/{name}": value for name, value in _scalars(record).items()}
        log(values, record["epoch"])

    return both


def _run(record: Record) -> str:
    return f"{record['phase']}-{record['modality']}"


def _scalars(record: Record) -> dict[str, float]:
    return {
        "loss": record["loss"],
        **{f"parts/{name}": value for name, value in record["parts"].items()},
        **{name: record[name] for name in SCORES if name in record},
        "samples per second": record["samples"] / record["seconds"],
        **{f"seconds/{section}": value for section, value in record["time"].items()},
    }
