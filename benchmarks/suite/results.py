"""The rows of the suite: tidy, each complete in itself, kept as JSON and CSV for each device."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import drcl
from drcl.benchmarks.suite.registry import OURS
from drcl.benchmarks.suite.timing import processor_name

NAME = "suite"
NOT_MEASURED = "*Not measured yet.*"  # in place of a table
RENAMED = {"drcl torch": "drcl eager"}  # in results of before 2026-12
LIBRARIES = ("faiss-cpu", "pytorch-metric-learning", "ranx", "scikit-learn", "torchmetrics")


@dataclass
class Row:
    """What is known of one contender at one entry; times in ms, memory in MB (10⁶ bytes).

    ``status`` is ``measured``, ``skipped`` or ``wrong``, with the ``reason``; but for the first
    there are no figures. ``ratio`` is its median time over ours, ``floor_share`` the floor over
    its median, ``share`` the part of the workload that was run, ``others`` the share of the
    machine that other processes had meanwhile.
    """

    op: str
    sizes: dict[str, int]
    note: str
    contender: str
    status: str = "measured"
    reason: str = ""
    dtype: str = "float32"
    precision: str = "highest"
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    rounds: int = 0
    share: float = 1.0
    ratio: float | None = None
    floor_ms: float | None = None
    floor_share: float | None = None
    memory_MB: float | None = None
    gemm_GFLOPs: float | None = None
    copy_GBps: float | None = None
    others: float | None = None
    device: str = ""
    threads: int = 0
    date: str = ""
    versions: str = ""

    @property
    def ours(self) -> bool:
        return self.contender.startswith(OURS)

    @property
    def entry(self) -> tuple[str, tuple[tuple[str, int], ...], str]:
        """The workload, to group by."""
        return self.op, tuple(self.sizes.items()), self.precision

    @property
    def workload(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.sizes.items())


def signed(rows: Iterable[Row], device: torch.device) -> list[Row]:
    """The rows with what they were measured on."""
    versions = [f"drcl {drcl.__version__}", f"torch {torch.__version__}"]
    versions.append(f"python {platform.python_version()}")
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            continue
    found = list(rows)
    for row in found:
        row.device, row.threads = folder_name(device), torch.get_num_threads()
        row.date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        row.versions = ", ".join(versions)
    return found


def folder_name(device: torch.device) -> str:
    """The device's name, fit for a folder."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device).lower().replace("nvidia ", "").replace(" ", "-")
    return processor_name()


def read(folder: Path, name: str = NAME) -> list[Row]:
    """The rows kept in a device's folder; none if there are none."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return []
    rows = json.loads(path.read_text())
    return [
        Row(**row | {"contender": RENAMED.get(row["contender"], row["contender"])}) for row in rows
    ]


def keep(rows: Sequence[Row], root: Path, name: str = NAME) -> Path:
    """Write rows to ``root/<device>/suite.json`` and ``suite.csv``, or of another name; returns
    that folder.

    Rows of the same workloads that are there already are replaced, all others stay.
    """
    from drcl.storage.files import write_together  # an older revision's package has it elsewhere

    folder = root / rows[0].device
    new = {row.entry for row in rows}
    everything = [row for row in read(folder, name) if row.entry not in new] + list(rows)
    everything.sort(key=lambda row: (row.op, str(row.precision), list(row.sizes.values())))
    text = ",\n".join(json.dumps(rounded(asdict(row)), ensure_ascii=False) for row in everything)
    files = {"json": f"[\n{text}\n]\n", "csv": as_csv(everything)}
    write_together({folder / f"{name}.{kind}": value.encode() for kind, value in files.items()})
    return folder


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Floats to four digits: more is noise."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row, one column a size."""
    sizes = list(dict.fromkeys(name for row in rows for name in row.sizes))
    names = [name for name in (field.name for field in fields(Row)) if name != "sizes"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [names[0], *sizes, *names[1:]], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = rounded(asdict(row))
        writer.writerow({**values.pop("sizes"), **values})
    return text.getvalue()
