"""What ranks send, counted between two hosts and predicted for more, as tables of the docs."""

from __future__ import annotations

import json
from pathlib import Path

from drcl.benchmarks.studies import traffic
from drcl.benchmarks.suite.results import NOT_MEASURED

RANKS, LINKS = (8, 64, 512), (1, 10, 100)  # Gbit/s
BATCH, DIM, CLASSES, PARAMETERS = 8192, 2048, 10, 42_000_000


def counted(path: Path) -> str:
    """Bytes that a rank sends to the other host, beside what the formulas say."""
    if not path.exists():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| what | predicted, bytes | counted | counted, slow link |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['predicted']:,.0f} | {row['fast']:,} | {row['slow']:,} |"
        for row in stored["rows"]
    ]
    about = (
        f"D = {stored['dim']}, {stored['classes']} classes, a batch of {stored['batch']}, "
        f"{stored['queries']} queries; the slow link takes {1000 * stored['delay']:.0f} ms and "
        f"carries {stored['rate'] / 1e6:.0f} Mbit/s; torch {stored['torch']}."
    )
    return "\n".join([*lines, "", about])


def predicted() -> str:
    """Bytes and seconds of a training step by the formulas, at full speed of the link."""
    heads = " | ".join(f"{link} Gbit/s" for link in LINKS)
    lines = [f"| ranks | MB a rank and step | {heads} |", "|---|---|---|---|---|"]
    for ranks in RANKS:
        size = traffic.step(BATCH, DIM, CLASSES, PARAMETERS, ranks)
        seconds = " | ".join(f"{1e3 * 8 * size / (link * 1e9):,.0f} ms" for link in LINKS)
        lines.append(f"| {ranks} | {size / 1e6:,.0f} | {seconds} |")
    return "\n".join(lines)
