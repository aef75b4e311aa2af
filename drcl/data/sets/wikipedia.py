"""The public Wikipedia cross-modal set: bags of visual words and topic proportions.

Rasiwasia et al., *A New Approach to Cross-Modal Multimedia Retrieval*, ACM Multimedia 2010:
2173 training and 693 test pairs of an image (128 bins of a SIFT histogram) and a text (10 LDA
topic proportions) in ten uneven classes. The field takes test rows 0..230 for validation and
231..692 for the test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drcl.data.assemble import ArrayAt, SamplesAt, assemble
from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset
from drcl.data.locate import find_file
from drcl.storage.text import read_text, whole_number

OBTAIN = (
    "the Wikipedia set is published by the Statistical Visual Computing Lab of UC San Diego "
    "with the paper 'A New Approach to Cross-Modal Multimedia Retrieval' (2010); take "
    "raw_features.mat and the .list files from its cross-modal retrieval page."
)
MODALITIES = {"image": "I", "text": "T"}
SPLITS = {
    "train": ("tr", "trainset_txt_img_cat.list", ":"),
    "validation": ("te", "testset_txt_img_cat.list", "0:231"),
    "test": ("te", "testset_txt_img_cat.list", "231:"),
}


def wikipedia(root: Path) -> CrossModalDataset:
    """Load ``raw_features.mat`` and the ``.list`` files from ``root/wikipedia`` (or ``root``).

    Labels are the third column of the lists, 1 to 10; their names come from ``categories.list``
    where that is present.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or features and lists have different lengths.
    """
    features = _find(root, "raw_features.mat")
    sources = {}
    for split, (part, listed, rows) in SPLITS.items():
        labels = _read_list(_find(root, listed))
        sources[split] = {
            modality: SamplesAt(ArrayAt(features, f"{letter}_{part}"), labels, rows)
            for modality, letter in MODALITIES.items()
        }
    categories = features.with_name("categories.list")
    classes = None
    if categories.is_file():
        names = read_text(categories).split()
        classes = ClassList.from_table(dict(enumerate(names, start=1)))
    return assemble("wikipedia", sources, classes)


def _find(root: Path, name: str) -> Path:
    return find_file(root, [f"wikipedia/{name}", name], OBTAIN)


def _read_list(path: Path) -> np.ndarray:
    labels = []
    for number, line in enumerate(read_text(path).rstrip().splitlines(), start=1):
        try:
            labels.append(np.int64(whole_number(line.split("\t")[2])))
        except (IndexError, ValueError, OverflowError):
            raise ValueError(
                f"{path}, line {number}: expected text, image and label number, separated by tabs, "
                f"got {line[:80]!r}"
            ) from None
    return np.array(labels, np.int64)
