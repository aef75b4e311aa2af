"""Many short texts as two arrays, which a file can hold and a mapping can look into."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from drcl.storage.arrays import Arrays


class Texts:
    """Strings in UTF-8 one after the other (bytes,) uint8, and where each ends (n,) int64.

    >>> texts = Texts.of(["oak", "", "Öl"])
    >>> len(texts), texts[0], texts[2], texts.codes(["Öl", "elm"]).tolist()
    (3, 'oak', 'Öl', [-1, -1, 0])
    """

    def __init__(self, data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self._data, self._ends = data, ends

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Raises UnicodeEncodeError for half of a surrogate pair."""
        return cls._joined([text.encode() for text in texts])

    @classmethod
    def _joined(cls, parts: Sequence[bytes]) -> Texts:
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    @classmethod
    def read(cls, arrays: Arrays, name: str, count: int) -> Texts:
        """Those of a file; ValueError or KeyError if they do not fit one another."""
        texts = cls(arrays[f"{name}.text"], arrays[f"{name}.ends"])
        ends = texts._ends
        if ends.shape != (count,) or (count and int(ends[-1]) != len(texts._data)):
            raise ValueError(f"{name}: expected {count} texts")
        return texts

    def arrays(self, name: str) -> Arrays:
        """What :meth:`read` reads."""
        return {f"{name}.text": self._data, f"{name}.ends": self._ends}

    def __len__(self) -> int:
        return len(self._ends)

    def _bytes(self, place: int) -> bytes:
        begin = int(self._ends[place - 1]) if place else 0
        return self._data[begin : int(self._ends[place])].tobytes()

    def __getitem__(self, place: int) -> str:
        return self._bytes(place).decode("utf-8", "replace")

    def at(self, places: npt.NDArray[np.int64]) -> Texts:
        """Some of them."""
        return self._joined([self._bytes(place) for place in places.tolist()])

    def keys(self) -> npt.NDArray[np.int64]:
        """A hash (n,) of each."""
        parts = (self._bytes(place) for place in range(len(self)))
        return np.array([text_key(part) for part in parts], np.int64)

    def codes(self, wanted: Sequence[str]) -> npt.NDArray[np.int64]:
        """Of each text its place in ``wanted``, or −1."""
        # Half of a surrogate pair becomes bytes that no text has.
        places = {text.encode("utf-8", "surrogatepass"): place for place, text in enumerate(wanted)}
        data, start = self._data.tobytes(), 0
        found = np.full(len(self), -1)
        for place, end in enumerate(self._ends.tolist()):
            found[place] = places.get(data[start:end], -1)
            start = end
        return found


def text_key(text: bytes) -> int:
    """A number of 64 bits that texts rarely share."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)
