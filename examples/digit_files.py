"""Features and pictures of a hundred digits as files, for `drcl index` and `drcl explore`.

    python examples/digit_files.py [FOLDER]

The folder, runs/digit-files unless given, then holds what drcl index takes of each modality:
features in a .npy file and a .csv file with ids, names, digits and, of pixels, a picture.
"""

from __future__ import annotations

import csv
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from drcl.data import load

ROWS, SCALE = 100, 8  # items of each modality; a pixel of the digit is so many of the picture


def png(grey: np.ndarray) -> bytes:
    """(H, W) of 0 to 1, dark on light, as a PNG file."""
    pixels = np.uint8(255 - 255 * np.kron(grey, np.ones((SCALE, SCALE))))
    height, width = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(__doc__)
    folder = Path(arguments[0] if arguments else "runs/digit-files")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    test = load("digits").test
    for modality in ("pixels", "strokes"):
        features, labels = test[modality].features[:ROWS], test[modality].labels[:ROWS]
        np.save(folder / f"{modality}.npy", features)
        with (folder / f"{modality}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["id", "name", "digit", "picture"])
            for row, (digit, values) in enumerate(zip(labels, features, strict=True)):
                picture = f"pictures/{row}.png" if modality == "pixels" else ""
                if picture:
                    grey = values.reshape(8, 8) / features.max()
                    (folder / picture).write_bytes(png(grey))
                table.writerow([f"{modality}-{row}", f"{modality} {row}", digit, picture])
    print(f"written: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
