"""Print a tag's entry of the changelog; an error where tag, version, changelog and citation differ.

python .ci/release_notes.py v0.1.0
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# where each file names the version; of the changelog, its first entry
PLACES = {
    "drcl/_version.py": r'^__version__ = "(.*)"$',
    "CITATION.cff": r"^version: (.*)$",
    "CHANGELOG.md": r"^## (.*)$",
}


def main() -> int | str:
    if len(sys.argv) != 2:
        return f"{sys.argv[0]}: expected one tag, as v0.1.0"
    texts = {name: (ROOT / name).read_text("utf-8") for name in PLACES}
    found = {name: re.search(PLACES[name], text, flags=re.M) for name, text in texts.items()}
    for name, match in found.items():
        version = match[1] if match else "none"
        if sys.argv[1] != f"v{version}":
            return f"{name}: expected the version of tag {sys.argv[1]}, got {version}"
    entry = texts["CHANGELOG.md"].split("\n## ")[1]
    print(entry.partition("\n")[2].strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
