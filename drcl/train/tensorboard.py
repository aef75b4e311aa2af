"""Logging a training to TensorBoard, where that is installed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drcl.storage.files import naming
from drcl.train.history import SCORES

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from drcl.train.context import Log


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

    def log(record: dict[str, Any]) -> None:
        run, epoch = f"{record['phase']}-{record['modality']}", record["epoch"]
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


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    return {
        "loss": record["loss"],
        **{f"parts/{name}": value for name, value in record["parts"].items()},
        **{name: record[name] for name in SCORES if name in record},
        "samples per second": record["samples"] / record["seconds"],
        **{f"seconds/{section}": value for section, value in record["time"].items()},
    }
