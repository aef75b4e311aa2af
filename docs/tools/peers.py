"""Write docs/tools/peers.json: how many values other libraries and drcl agree on.

Needs the libraries, so the environment that ``make peers`` makes:
``build/peers/bin/python docs/tools/peers.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "peers"))

from peer_libraries import LIBRARIES, row  # noqa: E402
from peer_sets import SEEDS  # noqa: E402


def main() -> None:
    counts = {"sets": len(SEEDS), "libraries": {name: row(name) for name in LIBRARIES}}
    text = json.dumps(counts, indent=1, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
