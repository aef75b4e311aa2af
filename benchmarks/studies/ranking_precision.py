"""What precision="high" does to scores and mAP: TF32 products emulated, against exact ones.

python -m drcl.benchmarks.studies.ranking_precision [--data FOLDER] [--out results.json]

TF32 keeps 10 bits of every factor and adds up in float32. Here both factors are rounded so (to
nearest, ties to even) and multiplied exactly, in float64; the reference multiplies them as they
are. The order of scores is the same for any positive factor of a query, so the gallery's lengths,
which never pass through TF32, are divided out in float64. With a GPU, its own products are measured
too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drcl import backends
from drcl.benchmarks.suite.timing import device_name
from drcl.benchmarks.workloads.ranking import SIZES, make
from drcl.metrics import RetrievalMetrics, retrieval_metrics
from drcl.precision import product_precision

KS = (None, 50)


class Sets(NamedTuple):
    """Embeddings as they are multiplied, float32, and class ids."""

    query: Tensor
    gallery: Tensor
    query_labels: Tensor
    gallery_labels: Tensor


def tf32(x: Tensor) -> Tensor:
    """float32 values rounded to 10 bits after the leading one, to nearest, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


def wikipedia(folder: Path) -> Iterator[tuple[str, Sets]]:
    """The published test embeddings of Wikipedia, both ways."""
    from scipy.io import loadmat

    files = [folder / "drcl_wikipedia_embeddings" / f"wiki_{i}.mat" for i in (0, 1)]
    (image, a), (text, b) = (
        (torch.from_numpy(values["test_fea"]).float(), torch.from_numpy(values["test_lab"])[0])
        for values in map(loadmat, files)
    )
    yield "wikipedia image->text", Sets(image, text, a, b)
    yield "wikipedia text->image", Sets(text, image, b, a)


def synthetic() -> Iterator[tuple[str, Sets]]:
    """The benchmark's 5,000 x 20,000, and forms of it in which scores lie closer together."""
    data = make(SIZES["first"])
    sets = Sets(data.query, data.gallery, data.query_labels, data.gallery_labels)
    yield "noisy classes", sets
    # Rows that share most of their direction, as embeddings that are not centred do.
    common = torch.nn.functional.normalize(torch.ones(data.query.shape[1]), dim=0)
    for share in (0.9, 0.99, 0.999, 0.9999):
        rows = (share**0.5 * common + (1 - share) ** 0.5 * x for x in sets[:2])
        query, gallery = (torch.nn.functional.normalize(x, dim=1) for x in rows)
        yield f"common direction {share:.2%}", sets._replace(query=query, gallery=gallery)
    # Every item has a near copy in another class.
    half = len(sets.gallery) // 2
    near = sets.gallery[:half] + 1e-4 * torch.randn(half, sets.gallery.shape[1])
    gallery = torch.cat([sets.gallery[:half], torch.nn.functional.normalize(near, dim=1)])
    labels = torch.cat([sets.gallery_labels[:half], (sets.gallery_labels[:half] + 1) % 50])
    yield "near copies", sets._replace(gallery=gallery, gallery_labels=labels)


def found(sets: Sets, query: Tensor, gallery: Tensor, **options: Any) -> RetrievalMetrics:
    labels = sets.query_labels, sets.gallery_labels
    return retrieval_metrics(query, gallery, *labels, ks=KS, **options)


def compare(name: str, sets: Sets) -> dict[str, Any]:
    """Errors of cosines (a sample of the queries) and of AP, TF32 against exact products."""
    inverse = 1 / sets.gallery.double().norm(dim=1, keepdim=True)
    exact = found(sets, sets.query.double(), sets.gallery.double() * inverse, metric="dot")
    rounded = tf32(sets.query).double(), tf32(sets.gallery).double() * inverse
    high = found(sets, *rounded, metric="dot")
    sample = torch.linspace(0, len(sets.query) - 1, 200).long()
    lengths = sets.query[sample].double().norm(dim=1, keepdim=True)
    cosines = sets.query[sample].double() @ (sets.gallery.double() * inverse).T / lengths
    errors = (rounded[0][sample] @ rounded[1].T / lengths - cosines).abs()
    row: dict[str, Any] = {
        "case": name,
        "cosine_spread": float(cosines.std(dim=1).mean()),
        "cosine_error_mean": float(errors.mean()),
        "cosine_error_most": float(errors.max()),
    }
    row |= differences("tf32", exact, high)
    row |= differences("float32", exact, found(sets, sets.query, sets.gallery))
    if torch.cuda.is_available():
        on_gpu = sets.query.cuda(), sets.gallery.cuda()
        row |= differences("gpu", exact, found(sets, *on_gpu, precision="high"))
    return row


def differences(name: str, exact: RetrievalMetrics, other: RetrievalMetrics) -> dict[str, float]:
    """How far mAP moves, and the AP of the query that moves most."""
    moved = (other.average_precision - exact.average_precision).T
    row: dict[str, float] = {}
    for k, column, value in zip(KS, moved, exact.average_precision.T, strict=True):
        at = "all" if k is None else k
        row |= {
            f"mAP@{at}": float(value.mean()),
            f"{name}_mAP@{at}_moves": float(column.mean().abs()),
            f"{name}_AP@{at}_moves_most": float(column.abs().max()),
        }
    return row


def cpu_products_change() -> bool:
    """Whether "high" changes a bit of this processor's float32 products."""
    x, y = torch.randn(512, 512), torch.randn(512, 2000)
    products = []
    for precision in ("highest", "high"):
        with product_precision(precision):
            products.append(x @ y)
    return not torch.equal(*products)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    data = Path(os.environ.get("DRCL_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data, help="the folder with the data sets")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    arguments = parser.parse_args()
    rows = []
    for name, sets in itertools.chain(wikipedia(arguments.data), synthetic()):
        rows.append(compare(name, sets))
        print(
            name, *(f"{key} {value:.2e}" for key, value in list(rows[-1].items())[1:]), flush=True
        )
    changed = cpu_products_change()
    print(f'"high" changes this CPU\'s products: {changed}')
    if arguments.out:
        document = {
            "benchmark": "ranking_precision",
            "date": date.today().isoformat(),
            "device": device_name(),
            "environment": backends.build_info(),
            "high_changes_cpu_products": changed,
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
