"""UCI Multiple Features: handwritten numerals (0 to 9) seen by three feature extractors.

van Breukelen, Duin, Tax and den Hartog, *Handwritten digit recognition by combined classifiers*,
Kybernetika 1998; the UCI machine-learning repository's "Multiple Features". The file this loader
reads is a split of it into 1500 training and 500 test rows under short names:

===================  =====  =====  =========================================
modality             short  width  what
===================  =====  =====  =========================================
``fourier``          I      76     Fourier coefficients of the shape
``karhunen_loeve``   T      64     Karhunen-Loève coefficients
``pixels``           P      240    averages of 2×3 pixel windows, 16 rows × 15
===================  =====  =====  =========================================
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from drcl.data.assemble import ArrayAt, SamplesAt, assemble, hold_out_validation
from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset
from drcl.data.locate import find_file

MODALITIES = {"fourier": "I", "karhunen_loeve": "T", "pixels": "P"}
OBTAIN = (
    "the UCI machine-learning repository publishes 'Multiple Features' (mfeat-fou, mfeat-kar, "
    "mfeat-pix); uci_all.mat holds it as I_tr, T_tr, P_tr, L_tr and I_te, T_te, P_te, L_te "
    "(labels 1 to 10 for the numerals 0 to 9)."
)


def uci(root: Path, validation_share: float = 0.2, seed: int = 0) -> CrossModalDataset:
    """Load ``root/uci_multifeature/uci_all.mat`` (or ``root/uci_all.mat``).

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
    path = find_file(root, ["uci_multifeature/uci_all.mat", "uci_all.mat"], OBTAIN)
    sources = {
        split: {
            modality: SamplesAt(ArrayAt(path, f"{short}_{part}"), ArrayAt(path, f"L_{part}"))
            for modality, short in MODALITIES.items()
        }
        for split, part in (("train", "tr"), ("test", "te"))
    }
    numerals = ClassList.from_table({label: str(label - 1) for label in range(1, 11)})
    data = hold_out_validation(assemble("uci", sources, numerals), validation_share, seed)
    pixels = data.test["pixels"].features
    if pixels.shape[1] != 240:
        raise ValueError(
            f"{path}: expected 240 columns in P_te, pictures of 16×15, got {pixels.shape[1]}"
        )
    pictures = pixels.reshape(-1, 16, 15)
    return replace(data, pictures=dict.fromkeys(data.test, pictures))
