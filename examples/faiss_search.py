"""A FAISS index from a run, for galleries that are too large or services not written in Python.

    python examples/faiss_search.py [RUN SOURCE TARGET]

RUN is a folder that ``drcl train`` wrote; without one, a small model is trained on digits.
The gallery goes into a ``drcl.Index``, which hands its rows to FAISS: exactly, to a file that a
service would load, and as a graph, whose recall of the exact answer is measured.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

try:
    import faiss
except ImportError:
    sys.exit("this example needs faiss: pip install faiss-cpu")

import numpy as np

import drcl
from drcl.data import Labelled, load
from drcl.run import open_run

K = 10


def model_and_data(arguments: list[str]) -> tuple[drcl.DRCL, dict[str, Labelled], str, str]:
    """The run that is given, or a small one trained here."""
    if arguments:
        run, source, target = arguments
        return drcl.DRCL.load(run), open_run(Path(run)).load_data(None).test, source, target
    data = load("digits")
    model = drcl.DRCL(dim=32, hidden=(64,), epochs=8, prior_epochs=4, lr=2e-3, batch_size=128)
    model.fit(data.train, data.validation, progress=False)
    return model, data.test, "pixels", "strokes"


def main(arguments: list[str]) -> None:
    if len(arguments) not in (0, 3):
        sys.exit(__doc__)
    model, test, source, target = model_and_data(arguments)
    queries = model.encode(source, test[source].features).numpy()
    gallery = model.encode(target, test[target].features).numpy()

    index = drcl.Index(space=model.space).add(gallery, modality=target)
    exact = index.search(queries, K)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, f"{target}.faiss"))  # what a service would load
        faiss.write_index(index.to_faiss("flat"), file)
        flat = faiss.read_index(file)
    scores, _ = flat.search(queries, K)
    error = float(np.abs(scores - exact.scores.numpy()).max())
    same = index.recall(flat, queries, K)
    print(f"{len(index)} items, {len(queries)} queries: the same items {same:.4f}, ", end="")
    print(f"scores within {error:.1e}")  # FAISS orders equal scores arbitrarily

    graph = index.to_faiss("hnsw", links=16)
    _, found = graph.search(queries, K)  # numbers of rows, as index.records takes them
    recall = index.recall(graph, queries, K)
    labels, own = test[target].labels, test[source].labels
    precision = (labels[found] == own[:, None]).mean()
    print(
        f"approximate (HNSW): recall of the exact {K} {recall:.3f}, precision@{K} {precision:.3f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
