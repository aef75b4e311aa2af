"""Train on features larger than memory, and tell the peak of resident memory.

    python -m drcl.benchmarks.studies.out_of_core --out                      30 GB, limit 4 GB
    python -m drcl.benchmarks.studies.out_of_core --gigabytes 2 --limit 1    a quick look

One modality in one memory-mapped float32 file goes through ``DRCL.fit``: every value is looked at
for NaN, then prior learning and encoder training for an epoch each, with the score on all rows
between. The file is sparse: it takes next to no disk, its rows are read as pages like any other's,
and they are zeros but for one row in 256, which holds random numbers. So it shows what memory and
reading cost, and nothing about what is learned. The kernel's own mark of peak resident memory is
taken, which counts mapped pages. Above the limit the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drcl import DRCL
from drcl.benchmarks.suite.timing import write_results
from drcl.train.clock import SECTIONS

GB = 1e9
WRITTEN = 256  # one row in so many holds random numbers


def sparse_features(path: Path, gigabytes: float, width: int) -> np.memmap:
    """A mapped file (rows, width) float32 of zeros, with random rows here and there."""
    rows = int(gigabytes * GB) // (4 * width)
    features = np.memmap(path, np.float32, "w+", shape=(rows, width))
    draw = np.random.default_rng(0)
    for row in range(0, rows, WRITTEN):
        features[row] = draw.standard_normal(width, dtype=np.float32)
    features.flush()
    return np.memmap(path, np.float32, "r", shape=(rows, width))


def resident_bytes(field: str) -> int:
    """``VmHWM``, the peak, or ``VmRSS``, now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def train(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    features = sparse_features(folder / "features", options.gigabytes, options.width)
    labels = np.random.default_rng(1).integers(0, 10, len(features))
    model = DRCL(
        dim=options.dim,
        hidden=(options.hidden, options.hidden),
        epochs=1,
        prior_epochs=1,
        batch_size=options.batch,
        device=options.device,
    )
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew, here
    before, began = resident_bytes("VmRSS"), time.perf_counter()
    model.fit({"image": (features, labels)})
    row: dict[str, Any] = {
        "gigabytes": features.nbytes / GB,
        "on_disk_GB": (folder / "features").stat().st_blocks * 512 / GB,
        "rows": len(features),
        "width": options.width,
        "batch": options.batch,
        "resident_before_GB": before / GB,
        "peak_resident_GB": resident_bytes("VmHWM") / GB,
        "limit_GB": options.limit,
        "seconds": time.perf_counter() - began,
    }
    for record in model.history:
        spent = {section: record["time"][section] for section in SECTIONS}
        row[record["phase"]] = {"loss": record["loss"], "seconds": record["seconds"], **spent}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=30.0)
    parser.add_argument("--limit", type=float, default=4.0, help="of resident memory, in GB")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where to put the file; default: a temporary")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", action="store_true", help="write results/<device>/out_of_core.json"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        row = train(options, Path(folder))
    for name, value in row.items():
        print(f"{name}: {value}")
    if options.out:
        print(write_results("out_of_core", [row]))
    if row["peak_resident_GB"] > options.limit:
        sys.exit(f"peak resident memory is above {options.limit} GB")


if __name__ == "__main__":
    main()
