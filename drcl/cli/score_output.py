"""What ``drcl score`` prints and writes: tables, differences between systems, curves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from drcl import metrics
from drcl.cli.score_inputs import Directions
from drcl.figures import canvas, plain
from drcl.metrics import Comparison, Estimate
from drcl.metrics.estimates import interval_text
from drcl.metrics.statistics import holm
from drcl.tables import columns, json_text, latex, markdown, shortened

Rows: TypeAlias = list[list[str]]


class Scores:
    """The first system's means, and how it differs from each of the others.

    Args:
        systems: their measures in each direction, under their names.
        hidden: measures that are not printed.
        measure, test, seed: of the comparison.
        interval: the level of the intervals of the means; None leaves them out.
    """

    def __init__(
        self,
        systems: Sequence[tuple[str, Directions]],
        *,
        hidden: Sequence[str],
        measure: str,
        test: str,
        interval: float | None,
        seed: int,
    ) -> None:
        chosen: dict[str, Any] = {} if interval is None else {"interval": interval, "seed": seed}
        level = 0.95 if interval is None else interval
        self._systems = systems
        self._summaries = {pair: found.summary(**chosen) for pair, found in systems[0][1].items()}
        self._compared = _compare(systems, measure, test=test, seed=seed, interval=level)
        self._measure, self._test = measure, test
        self._tables = [(_table(self._summaries, hidden), 1)]  # and how many columns hold words
        if self._compared:
            self._tables.append((_difference_table(self._compared, measure, level), 2))

    def __str__(self) -> str:
        return self._text(columns)

    def files(self, about: Mapping[str, Any], curves: bool) -> dict[str, bytes]:
        """The contents of the files by name; ``about`` is what the record begins with."""
        compared = {
            "measure": self._measure,
            "test": self._test,
            "with": [
                {"against": name, "pair": pair, **one._asdict()}
                for name, pair, one in self._compared
            ],
        }
        record = {**about, "measures": _by_measure(self._summaries), "compared": compared}
        texts = {
            "scores.md": self._text(markdown),
            "scores.tex": self._text(latex),
            "scores.json": json_text(record, indent=2, ensure_ascii=False),
        }
        contents = {name: f"{text}\n".encode() for name, text in texts.items()}
        return contents | ({"pr.pdf": _curves(self._systems)} if curves else {})

    def _text(self, layout: Callable[[Rows, int], str]) -> str:
        return "\n\n".join(layout(rows, left) for rows, left in self._tables)


def _table(summaries: Mapping[str, Mapping[str, float | Estimate]], hidden: Sequence[str]) -> Rows:
    """A row for each measure: its mean in each direction, and the mean of these."""
    rows = [["measure", *map(_direction, summaries), "mean"]]
    for name in next(iter(summaries.values())):
        if name not in hidden:
            values = [means[name] for means in summaries.values()]
            rows.append([name, *map(_cell, values), f"{_mean_of(values):.4f}"])
    return rows


def _direction(pair: str) -> str:
    return shortened(pair.replace("->", " → "), 32)


def _mean_of(values: Iterable[float | Estimate]) -> float:
    """Of both directions, which count alike."""
    return float(np.mean([_mean(value) for value in values]))


def _mean(value: float | Estimate) -> float:
    return value.mean if isinstance(value, Estimate) else value


def _cell(value: float | Estimate) -> str:
    if isinstance(value, Estimate):
        return f"{value.mean:.4f} [{interval_text(value.low, value.high, between=', ')}]"
    return f"{value:.4f}"


def _by_measure(summaries: Mapping[str, Mapping[str, float | Estimate]]) -> dict[str, Any]:
    """Measure -> direction, or ``"mean"`` -> value, as :func:`drcl.metrics.retrieval_report`."""
    found: dict[str, Any] = {}
    for name in next(iter(summaries.values())):
        values = {pair: means[name] for pair, means in summaries.items()}
        found[name] = {
            pair: value._asdict() if isinstance(value, Estimate) else value
            for pair, value in values.items()
        }
        found[name]["mean"] = _mean_of(values.values())
    return found


def _compare(
    systems: Sequence[tuple[str, Directions]], measure: str, **options: Any
) -> list[tuple[str, str, Comparison]]:
    """The first system less each of the others in each direction, p-values corrected together."""
    (_, first), *others = systems
    found = [
        (name, pair, metrics.compare(first[pair], one, measure=measure, **options))
        for name, directions in others
        for pair, one in directions.items()
    ]
    corrected = holm([one.p for *_, one in found])
    return [
        (name, pair, one._replace(p=p))
        for (name, pair, one), p in zip(found, corrected, strict=True)
    ]


def _difference_table(
    compared: list[tuple[str, str, Comparison]], measure: str, level: float
) -> Rows:
    interval = f"{100 * level:.4g} % interval"
    rows = [["against", "direction", measure, interval, "p (Holm)"]]
    for name, pair, one in compared:
        ends = interval_text(one.low, one.high, sign="+")
        rows.append([name, _direction(pair), f"{one.difference:+.4f}", ends, f"{one.p:.4f}"])
    return rows


def _curves(systems: Sequence[tuple[str, Directions]]) -> bytes:
    """Precision–recall curves, axes for each direction and a line for each system, as PDF."""
    directions = list(systems[0][1])
    buffer = io.BytesIO()
    with canvas(4.2 * len(directions), 3.6) as figure:
        all_axes = figure.subplots(1, len(directions), squeeze=False)[0]
        for axes, pair in zip(all_axes, directions, strict=True):
            for name, found in systems:
                if found[pair].interpolated is not None:
                    label = plain(name, 30) if len(systems) > 1 else None
                    found[pair].plot_precision_recall(axes, label=label)
            axes.set_title(plain(_direction(pair)))
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()
