"""The history of a training: a record per epoch, as :class:`drcl.DRCL` keeps and saves it."""

from __future__ import annotations

from typing import Any

from drcl.storage.files import is_safe_name
from drcl.storage.sealed import is_number
from drcl.train.clock import SECTIONS

_RECORD = {"phase", "modality", "epoch", "loss", "parts", "samples", "seconds", "time"}
SCORES = ("score", "validation_loss", "validation_map")


def check_history(history: Any) -> list[dict[str, Any]]:
    """Refuse anything but a list of epochs' records as a training writes them, safe to print.

    >>> check_history([{"phase": "prior"}])
    Traceback (most recent call last):
    ...
    ValueError: history: expected records of epochs, got something else in entry 0
    """
    if not isinstance(history, list):
        raise ValueError(
            f"history: expected a list of records of epochs, got {type(history).__name__}"
        )
    for place, record in enumerate(history):
        if not _is_record(record):
            raise ValueError(
                f"history: expected records of epochs, got something else in entry {place}"
            )
    return history


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not set(record) >= _RECORD:
        return False
    names = (record["phase"], record["modality"])
    numbers = [record[name] for name in ("epoch", "loss", "samples", "seconds")]
    numbers += [record[name] for name in SCORES if name in record]
    for group in ("parts", "time"):
        if not isinstance(record[group], dict):
            return False
        numbers += record[group].values()
    return (
        all(is_safe_name(name) for name in names)
        and all(map(is_number, numbers))
        and set(record["time"]) == set(SECTIONS)
        and record["seconds"] > 0
    )
