"""Where the time of a training went, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drcl.tables import columns
from drcl.train.clock import SECTIONS

OTHER = "other"


def seconds_by_section(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """ "phase modality" -> section -> seconds over all epochs, from a model's ``history``.

    The sections are those of :mod:`drcl.train.clock`, and ``other`` for what is in none of them.
    """
    found: dict[str, dict[str, float]] = {}
    for record in history:
        spent = found.setdefault(
            f"{record['phase']} {record['modality']}", dict.fromkeys((*SECTIONS, OTHER), 0.0)
        )
        for section, seconds in record["time"].items():
            spent[section] += seconds
        # A checkpoint is saved when the epoch's own time has been taken.
        clocked = sum(record["time"].values()) - record["time"]["checkpoint"]
        spent[OTHER] += max(0.0, record["seconds"] - clocked)
    return found


def time_table(history: Iterable[Mapping[str, Any]]) -> str:
    """Seconds by section, a row per phase and modality, with the share of each section.

    >>> clocked = {"data": 0.5, "encoder": 2.0, "checkpoint": 0.5}
    >>> about = {"phase": "prior", "modality": "text", "seconds": 2.5, "time": clocked}
    >>> print(time_table([about | {"samples": 50}, about | {"samples": 50}]))
    seconds     data  encoder  loss  optimizer  evaluation  checkpoint  other    all  samples/s
    prior text  1.00     4.00  0.00       0.00        0.00        1.00   0.00   6.00         20
    share       17 %     67 %   0 %        0 %         0 %        17 %    0 %  100 %
    """
    records = list(history)
    rows = [["seconds", *SECTIONS, OTHER, "all", "samples/s"]]
    found = seconds_by_section(records)
    for name, spent in found.items():
        own = [record for record in records if f"{record['phase']} {record['modality']}" == name]
        rate = sum(record["samples"] for record in own) / sum(record["seconds"] for record in own)
        cells = [f"{seconds:.2f}" for seconds in (*spent.values(), sum(spent.values()))]
        rows.append([name, *cells, f"{rate:,.0f}"])
    totals = [sum(spent[section] for spent in found.values()) for section in (*SECTIONS, OTHER)]
    whole = sum(totals) or 1.0
    rows.append(["share", *(f"{total / whole:.0%}".replace("%", " %") for total in totals)])
    rows[-1] += ["100 %", ""]
    return columns(rows)


def tried_table(tried: Iterable[Mapping[str, Any]]) -> str:
    """What :func:`drcl.auto` tried, as text."""
    rows = [["modality", "recipe", "features", "log-likelihood", "share", "seconds"]]
    for record in tried:
        rows.append(
            [
                record["modality"],
                record["recipe"],
                record.get("features", ""),
                f"{record['log_likelihood']:.3f}",
                f"{record['share']:.0%}",
                f"{record['seconds']:.1f}",
            ]
        )
    return columns(rows, left=3)
