"""Write docs/tools/peers.json: on how many values other libraries and drcl agree, what they offer.

Needs the libraries, so the environment that ``make peers`` makes:
``build/peers/bin/python docs/tools/peers.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "peers"))

from peer_api import counts  # noqa: E402
from peer_libraries import LIBRARIES, row  # noqa: E402
from peer_sets import SEEDS  # noqa: E402


def main() -> None:
    found = {
        "sets": len(SEEDS),
        "libraries": {name: row(name) for name in LIBRARIES},
        "offered": {name: counts(name) for name in LIBRARIES},
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
