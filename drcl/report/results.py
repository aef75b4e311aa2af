"""A page of search results that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drcl.checks import check_installed
from drcl.report.page import environment

# Pictures embedded as they are; larger ones are made smaller where Pillow is there.
PICTURE = "picture"  # the column of paths
LARGEST, SIDE = 100_000, 320  # bytes, pixels
BUDGET = 20_000_000  # bytes of all pictures of a page
_READ = 30_000_000  # bytes of a picture that is read at all
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True)
class Search:
    """A query and what it found, each described by a mapping as ``Index.records`` gives it.

    ``id``, ``modality``, ``score``, ``name``, ``text`` and ``picture`` (a path) have their places;
    what else there is follows in a line.
    """

    query: Mapping[str, Any]
    found: Sequence[Mapping[str, Any]]


def results_page(title: str, about: str, searches: Sequence[Search]) -> str:
    """Searches as HTML with pictures inside: one file, no script, no link out.

    A picture that is no PNG, JPEG, GIF or WebP file, is too large, or would make the page larger
    than 20 MB in pictures, is left out, and the page says so. Raises ImportError without jinja2.

    >>> page = results_page("Leaves", "2 items", [Search({"id": "q"}, [{"id": 7, "score": 0.5}])])
    >>> page.count("<h2"), "0.500" in page
    (1, True)
    """
    check_installed("the page needs {}; install it with: pip install 'drcl[report]'", "jinja2")
    pictures = Pictures()
    return (
        environment()
        .get_template("results.html.jinja")
        .render(
            title=title,
            about=about,
            searches=[
                (pictures.card(one.query), [pictures.card(item) for item in one.found])
                for one in searches
            ],
            left_out=pictures.left_out,
        )
    )


@dataclass
class Pictures:
    """Reads pictures until the page has enough of them; one that recurs counts each time."""

    largest: int | None = None  # bytes of each; None for the usual
    used: int = 0
    left_out: list[str] = field(default_factory=list)

    def card(self, record: Mapping[str, Any]) -> dict[str, Any]:
        known = ("id", "modality", "score", "name", "text", PICTURE)
        name = record.get("name")
        return {
            **{key: record.get(key) for key in known},
            "title": record.get("id") if name in (None, "") else name,
            "picture": self.uri(record.get(PICTURE)),
            "more": [
                (key, value)
                for key, value in record.items()
                if key not in known and value not in (None, "")
            ],
        }

    def uri(self, path: Any) -> str | None:
        """A picture as an address that holds it; None, and noted, where it cannot be shown."""
        if not isinstance(path, str) or not path:
            return None
        content = read_picture(Path(path), self.largest)
        if content is None or self.used + len(content) > BUDGET:
            self.left_out.append(path)
            return None
        self.used += len(content)
        return f"data:image/{picture_kind(content)};base64,{base64.b64encode(content).decode()}"


def picture_kind(content: bytes) -> str | None:
    """What a picture is, by its first bytes: "png", "jpeg", "gif", "webp", or None."""
    return next((kind for start, kind in _KINDS.items() if content.startswith(start)), None)


def read_picture(path: Path, largest: int | None = None) -> bytes | None:
    """A picture in at most so many bytes; None of what is none, or cannot be made so small."""
    largest = LARGEST if largest is None else largest
    try:
        if not path.is_file() or path.stat().st_size > _READ:
            return None
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    if picture_kind(content) is None:  # whatever else a path may lead to is not shown
        return None
    return content if len(content) <= largest else _smaller(content, largest)


def _smaller(content: bytes, largest: int) -> bytes | None:
    try:
        from PIL import Image

        with Image.open(io.BytesIO(content)) as picture:
            for side in (SIDE, SIDE // 2, SIDE // 4):
                picture.thumbnail((side, side))
                out = io.BytesIO()
                picture.convert("RGB").save(out, "JPEG", quality=85)
                if out.tell() <= largest:
                    return out.getvalue()
    except Exception:  # not installed, or damaged in one of many ways
        pass
    return None
