"""What a section of the page is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One figure: an SVG file, and the sentence for those who do not see it."""

    name: str
    svg: bytes
    alt: str

    @property
    def file(self) -> str:
        return f"{self.name}.svg"


@dataclass(frozen=True)
class Section:
    """The figures of one section of the page, and their caption."""

    name: str
    panels: tuple[Panel, ...]
    caption: str
