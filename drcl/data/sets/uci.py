"""UCI Multiple Features: handwritten numerals (0 to 9) seen by three feature extractors.

van Breukelen, Duin, Tax and den Hartog, *Handwritten digit recognition by combined classifiers*,
Kybernetika 1998; the UCI machine-learning repository's "Multiple Features".

===================  =========  =====  =====  =========================================
modality             text file  short  width  what
===================  =========  =====  =====  =========================================
``fourier``          mfeat-fou  I      76     Fourier coefficients of the shape
``karhunen_loeve``   mfeat-kar  T      64     Karhunen-Loève coefficients
``pixels``           mfeat-pix  P      240    averages of 2×3 pixel windows, 16 rows × 15
===================  =========  =====  =====  =========================================

Two forms are read. ``uci_all.mat`` is a split into 1500 training and 500 test rows under the short
names. UCI's own text files have a line for each numeral, 200 of every digit from 0 to 9 in order,
and no split: here a quarter of every digit, 50 rows drawn with seed 0, are test rows. The two
splits differ, so their numbers are not comparable; the second set is called ``uci-text``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from drcl.data.assemble import ArrayAt, SamplesAt, assemble, hold_out_validation
from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset, Labelled
from drcl.data.locate import find_file
from drcl.data.splits import stratified_holdout
from drcl.storage.text import read_text

MODALITIES = {"fourier": "I", "karhunen_loeve": "T", "pixels": "P"}
TEXT_FILES = {
    "fourier": ("mfeat-fou", 76),
    "karhunen_loeve": ("mfeat-kar", 64),
    "pixels": ("mfeat-pix", 240),
}
TEST_SHARE, TEST_SEED = 0.25, 0
OBTAIN = (
    "the UCI machine-learning repository publishes 'Multiple Features'; its text files mfeat-fou, "
    "mfeat-kar and mfeat-pix are read from the same folder. uci_all.mat holds them split, as I_tr, "
    "T_tr, P_tr, L_tr and I_te, T_te, P_te, L_te (labels 1 to 10 for the numerals 0 to 9)."
)


def uci(root: Path, validation_share: float = 0.2, seed: int = 0) -> CrossModalDataset:
    """Load ``uci_all.mat`` or else UCI's text files, from ``root/uci_multifeature`` or ``root``.

    The 500 test rows stay as they are; validation is a stratified part of the training rows, the
    same rows in each modality. The rows are paired: row i is one numeral in all three, so the
    pixel averages serve every modality as its picture.

    Args:
        root: the data folder.
        validation_share: part of the training rows to validate on.
        seed: of the choice of those rows.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or damaged.
    """
    folders = ("uci_multifeature/", "")
    names = [folder + name for name in ("uci_all.mat", "mfeat-pix") for folder in folders]
    path = find_file(root, names, OBTAIN)
    data = _read_matlab(path) if path.suffix == ".mat" else _read_text_files(path.parent)
    data = hold_out_validation(data, validation_share, seed)
    pictures = data.test["pixels"].features.reshape(-1, 16, 15)
    return replace(data, pictures=dict.fromkeys(data.test, pictures))


def _read_matlab(path: Path) -> CrossModalDataset:
    sources = {
        split: {
            modality: SamplesAt(ArrayAt(path, f"{short}_{part}"), ArrayAt(path, f"L_{part}"))
            for modality, short in MODALITIES.items()
        }
        for split, part in (("train", "tr"), ("test", "te"))
    }
    numerals = ClassList.from_table({label: str(label - 1) for label in range(1, 11)})
    data = assemble("uci", sources, numerals)
    width = data.test["pixels"].features.shape[1]
    if width != 240:
        raise ValueError(f"{path}: expected 240 columns in P_te, pictures of 16×15, got {width}")
    return data


def _read_text_files(folder: Path) -> CrossModalDataset:
    labels = np.repeat(np.arange(10), 200)
    train, test = stratified_holdout(labels, TEST_SHARE, TEST_SEED)
    features = {
        modality: _read_numbers(find_file(folder, [name], OBTAIN), width)
        for modality, (name, width) in TEXT_FILES.items()
    }
    return CrossModalDataset(
        "uci-text",
        tuple("0123456789"),
        train={name: Labelled(rows[train], labels[train]) for name, rows in features.items()},
        validation={},
        test={name: Labelled(rows[test], labels[test]) for name, rows in features.items()},
    )


def _read_numbers(path: Path, width: int) -> np.ndarray:
    expected = f"{path}: expected 2000 lines of {width} numbers"
    try:
        lines = read_text(path).split("\n")
        found = np.loadtxt(lines[:2001], np.float32, comments=None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{expected} ({error})") from error
    if found.shape != (2000, width):
        raise ValueError(f"{expected}, got {found.shape[0]} of {found.shape[1]}")
    return found
