"""The eight real sets of the study of methods, from the data folder ($DRCL_DATA)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from drcl.data import CrossModalDataset, Labelled, load

SETS = ("wikipedia", "uci", "cub-10", "sib-200", "flipkart-7", "flipkart-24", "digits3", "pacs")


def load_set(name: str, root: str | None = None) -> CrossModalDataset:
    """A set by its name in :data:`SETS`; those of ``deep/`` have the split of their files."""
    if name in ("wikipedia", "uci"):
        return load(name, root)
    files = {
        "cub-10": ("cub_c10", ("image", "text"), "y"),
        "sib-200": ("sib200", ("english", "german", "chinese", "spanish"), "y"),
        "flipkart-7": ("flipkart", ("image", "text", "title"), "y"),
        "flipkart-24": ("flipkart", ("image", "text", "title"), "yfine"),
        "digits3": ("digits3", ("handwriting", "sign", "speech"), None),
        "pacs": ("pacs", ("art_painting", "cartoon", "photo", "sketch"), None),
    }
    if name not in files:
        raise ValueError(f"name: expected one of {SETS}, got {name!r}")
    stem, modalities, labels = files[name]
    path = Path(root or os.environ.get("DRCL_DATA", "data"), "deep", f"{stem}.npz")
    with np.load(path) as arrays:

        def split(part: str) -> dict[str, Labelled]:
            found = {}
            for modality in modalities:
                key = f"{part}_{labels or f'{modality}_y'}"
                if key in arrays:
                    y = arrays[key].astype(np.int64)
                    x = arrays[f"{part}_{modality}"].astype(np.float32)
                    # Rare classes are marked −1 in the finer labels.
                    found[modality] = Labelled(x[y >= 0], y[y >= 0])
            return found

        train, validation, test = split("train"), split("dev"), split("test")
    count = 1 + max(int(part.labels.max()) for part in train.values())
    return CrossModalDataset(
        name, tuple(f"class {c}" for c in range(count)), train, validation, test
    )
