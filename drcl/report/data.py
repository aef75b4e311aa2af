"""What a report is made of, checked once so that no section has to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from drcl.labels import clean_name, encode_labels, parse_labels

PHASES = ("prior", "encoder")


@dataclass(frozen=True)
class ReportData:
    """Everything :func:`drcl.report.write_report` shows, in its order of modalities.

    Args:
        title: heading of the page.
        metrics: metric name -> ordered pair ``"image->text"`` (and ``"mean"``) -> value in [0, 1],
            as :func:`drcl.metrics.retrieval_report` returns it.
        embeddings: modality -> (N, D) finite test embeddings; N may differ, D may not.
        labels: modality -> (N,) class ids with -1 for unlabelled, or names, or (N, C) multi-hot
            rows; kept as ids or rows.
        classes: the C class names; the index is the class id.
        history: one record per epoch with ``phase`` (``"prior"`` or ``"encoder"``), ``modality``,
            ``epoch`` and ``loss``, and optionally ``score``, ``validation_map`` or
            ``validation_loss``.
        curves: ordered pair -> (recall, precision), two arrays of the same length.
        pictures: modality -> (N, h, w) grey pictures of the test rows; may be empty.
        summary: facts about the run, shown as they are; ``command`` is set as code.

    Raises:
        ValueError: an argument contradicts the others; the message names it and what was expected.

    >>> x, y = np.eye(3, dtype=np.float32), np.arange(3)
    >>> data = ReportData("Tiny", {"mAP@all": {"a->b": 1.0, "b->a": 1.0, "mean": 1.0}},
    ...                   {"a": x, "b": x}, {"a": y, "b": y}, ("one", "two", "three"),
    ...                   history=[], curves={}, pictures={}, summary={})
    >>> data.pairs
    [('a', 'b'), ('b', 'a')]
    """

    title: str
    metrics: dict[str, dict[str, float]]
    embeddings: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    history: list[dict[str, Any]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    pictures: dict[str, np.ndarray]
    summary: dict[str, str]

    def __post_init__(self) -> None:
        _check_embeddings(self.embeddings)
        object.__setattr__(self, "classes", tuple(clean_name(name) for name in self.classes))
        labels = _encoded(self.labels, self.embeddings, self.classes)
        object.__setattr__(self, "labels", labels)
        _check_metrics(self.metrics, self.pairs)
        _check_curves(self.curves, self.pairs)
        _check_pictures(self.pictures, self.embeddings)
        _check_history(self.history, self.modalities)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names, in the order of ``embeddings``."""
        return tuple(self.embeddings)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All ordered (query, gallery) pairs of different modalities."""
        return list(permutations(self.modalities, 2))

    def label_rows(self, modality: str) -> np.ndarray:
        """Labels as (N, C) bool rows; an unlabelled sample is a row of False."""
        labels = np.asarray(self.labels[modality])
        if labels.ndim == 2:
            return labels > 0
        return labels[:, None] == np.arange(len(self.classes))

    def class_names(self, modality: str, index: int) -> str:
        """Class names of one test sample, joined by commas."""
        names = [self.classes[c] for c in np.flatnonzero(self.label_rows(modality)[index])]
        return ", ".join(names) or "unlabelled"


def pair_key(query: str, gallery: str) -> str:
    """The key of an ordered pair in ``metrics`` and ``curves``."""
    return f"{query}->{gallery}"


def _check_embeddings(embeddings: Mapping[str, np.ndarray]) -> None:
    if len(embeddings) < 2:
        raise ValueError(f"embeddings: expected at least 2 modalities, got {list(embeddings)}")
    widths = set()
    for modality, x in embeddings.items():
        if np.ndim(x) != 2 or 0 in np.shape(x):
            raise ValueError(
                f"embeddings[{modality!r}]: expected a non-empty (N, D) array, got {np.shape(x)}"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"embeddings[{modality!r}]: expected finite values, got NaN or inf")
        widths.add(np.shape(x)[1])
    if len(widths) > 1:
        raise ValueError(f"embeddings: expected one width D for all, got {sorted(widths)}")


def _encoded(
    labels: Mapping[str, Any], embeddings: Mapping[str, np.ndarray], classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    if set(labels) != set(embeddings):
        raise ValueError(f"labels: expected the modalities {list(embeddings)}, got {list(labels)}")
    encoded = {}
    for modality, y in labels.items():
        name = f"labels[{modality!r}]"
        parsed = parse_labels(y, name, count=len(embeddings[modality]), soft=True)
        known = range(len(classes)) if parsed.names is None else classes
        encoded[modality] = encode_labels(parsed, known)
    return encoded


def _check_metrics(
    metrics: Mapping[str, Mapping[str, float]], pairs: list[tuple[str, str]]
) -> None:
    if not metrics:
        raise ValueError("metrics: expected at least one metric, got none")
    expected = {pair_key(*pair) for pair in pairs} | {"mean"}
    for name, values in metrics.items():
        if set(values) != expected:
            raise ValueError(
                f"metrics[{name!r}]: expected the keys {sorted(expected)}, got {sorted(values)}"
            )


def _check_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], pairs: list[tuple[str, str]]
) -> None:
    unknown = set(curves) - {pair_key(*pair) for pair in pairs}
    if unknown:
        raise ValueError(f"curves: expected ordered pairs of the modalities, got {sorted(unknown)}")
    for pair, (recall, precision) in curves.items():
        if np.ndim(recall) != 1 or np.shape(recall) != np.shape(precision):
            raise ValueError(
                f"curves[{pair!r}]: expected two 1-D arrays of one length, "
                f"got {np.shape(recall)} and {np.shape(precision)}"
            )


def _check_pictures(
    pictures: Mapping[str, np.ndarray], embeddings: Mapping[str, np.ndarray]
) -> None:
    for modality, stack in pictures.items():
        if modality not in embeddings:
            raise ValueError(
                f"pictures: expected modalities of {list(embeddings)}, got {modality!r}"
            )
        if np.ndim(stack) != 3 or len(stack) != len(embeddings[modality]):
            raise ValueError(
                f"pictures[{modality!r}]: expected shape ({len(embeddings[modality])}, h, w), "
                f"got {np.shape(stack)}"
            )


def _check_history(history: list[dict[str, Any]], modalities: tuple[str, ...]) -> None:
    for position, record in enumerate(history):
        needed = {"phase", "modality", "epoch", "loss"}
        if not needed <= set(record):
            raise ValueError(
                f"history[{position}]: expected the keys {sorted(needed)}, got {sorted(record)}"
            )
        if record["phase"] not in PHASES:
            raise ValueError(
                f"history[{position}]['phase']: expected one of {PHASES}, got {record['phase']!r}"
            )
        if record["modality"] not in modalities:
            raise ValueError(
                f"history[{position}]['modality']: expected one of {modalities}, "
                f"got {record['modality']!r}"
            )
