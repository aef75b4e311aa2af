"""Retrieval metrics of embeddings in files, whatever method made them.

    python examples/evaluate_embeddings.py                      made-up embeddings
    python examples/evaluate_embeddings.py A A_LABELS B B_LABELS

Each argument is ``file`` or ``file:key`` (.npy, .npz, .mat, .h5, .parquet, .safetensors), for
example ``wiki_0.mat:test_fea wiki_0.mat:test_lab wiki_1.mat:test_fea wiki_1.mat:test_lab``. Labels
are whole numbers, in any shape of a vector, or multi-hot rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from drcl import metrics
from drcl.data.files import read_array


def read(argument: str) -> np.ndarray:
    """The array at ``file`` or ``file:key``."""
    file, _, key = (argument, "", "") if Path(argument).is_file() else argument.partition(":")
    return read_array(file, key or None)


def made_up() -> list[np.ndarray]:
    """Two modalities of different sizes around the same ten centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 32))
    found = []
    for count in (300, 200):
        labels = rng.integers(0, 10, count)
        found += [centres[labels] + 2 * rng.normal(size=(count, 32)), labels]
    return found


def main(arguments: list[str]) -> None:
    if len(arguments) not in (0, 4):
        sys.exit(__doc__)
    a, a_labels, b, b_labels = map(read, arguments) if arguments else made_up()
    # MATLAB stores a vector as a row or a column.
    a_labels, b_labels = (y.ravel() if 1 in y.shape else y for y in (a_labels, b_labels))
    for name, sides in (
        ("A -> B", (a, b, a_labels, b_labels)),
        ("B -> A", (b, a, b_labels, a_labels)),
    ):
        found = metrics.retrieval_metrics(*sides, ks=(10, 50, None), ndcg=True)
        print(f"{name}: {len(sides[0])} queries, {len(sides[1])} gallery items")
        for measure, value in found.summary().items():
            print(f"  {measure:<16}{value:.5f}")


if __name__ == "__main__":
    main(sys.argv[1:])
