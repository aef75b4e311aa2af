"""Commands on a finished run: ``evaluate``, ``encode``, ``search``, ``report``."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from safetensors.numpy import save

from drcl.cli import show
from drcl.data import CrossModalDataset, Labelled
from drcl.estimator import DRCL
from drcl.run import measure_model, open_run, read_features
from drcl.run.evaluation import SplitName, measured_split
from drcl.storage.files import write_bytes
from drcl.storage.sealed import write_json
from drcl.tables import columns
from drcl.train.config import SPACES

F = TypeVar("F", bound=Callable[..., Any])

split_option = click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    help="Rows to use; default: test, or validation if there is no test split.",
)
space_option = click.option(
    "--space", type=click.Choice(SPACES), help="What to rank by; default: as the run was trained."
)


def repeated(flag: str, name: str, least: int, default: int, words: str) -> Callable[[F], F]:
    """An option of whole numbers from ``least`` on that may be given several times."""
    return click.option(
        flag,
        name,
        type=click.IntRange(min=least),
        multiple=True,
        default=(default,),
        show_default=True,
        help=words,
    )


@click.command()
@show.run_argument
@show.data_option
@split_option
@repeated("--k", "ks", 1, 50, "mAP@k beside mAP@all; may be repeated.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it as JSON.")
@space_option
@show.device_option
def evaluate(
    run: Path,
    data: str | None,
    split: SplitName | None,
    ks: tuple[int, ...],
    out: Path | None,
    space: str | None,
    device: str | None,
) -> None:
    """Print the mAP of a run.

    Writes nothing without --out.
    """
    record, model = open_run(run), show.on_device(DRCL.load(run), device)
    loaded = record.load_data(data)
    split = measured_split(loaded, split)
    measured = measure_model(model, loaded, split, ks, space=space)
    show.show_metrics(measured)
    if out is not None:
        write_json(out, measured.metrics)
        click.echo(f"\nwritten: {out}")


@click.command()
@show.run_argument
@click.argument("modality")
@click.argument("features", metavar="FILE[:KEY]")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Output file: .npy, or .npz or .safetensors with an array named 'embeddings'.",
)
@space_option
@show.device_option
def encode(
    run: Path, modality: str, features: str, out: Path, space: str | None, device: str | None
) -> None:
    """Encode features of one modality.

    The result is float32, to be ranked by inner product: (N, dim) with rows of unit length in the
    space 'cosine', class posteriors (N, C) in 'posterior'.
    """
    if out.suffix not in (".npy", ".npz", ".safetensors"):
        raise click.BadParameter(
            f"{out}: expected a name ending in .npy, .npz or .safetensors", param_hint="--out"
        )
    model = show.on_device(DRCL.load(run), device)
    embeddings = model.encode(modality, read_features(features), space=space).numpy()
    write_bytes(out, _packed(embeddings, out.suffix))
    click.echo(f"{out}: {embeddings.shape[0]} × {embeddings.shape[1]} float32")


@click.command()
@show.run_argument
@click.argument("source")
@click.argument("target")
@repeated("--query", "rows", 0, 0, "Row of SOURCE to search with; may be repeated.")
@click.option(
    "--k", type=click.IntRange(min=1), default=10, show_default=True, help="Number of results."
)
@show.data_option
@split_option
@space_option
@show.device_option
def search(
    run: Path,
    source: str,
    target: str,
    rows: tuple[int, ...],
    k: int,
    data: str | None,
    split: SplitName | None,
    space: str | None,
    device: str | None,
) -> None:
    """Search one modality with rows of another.

    Queries and gallery are rows of the data set; a star marks a shared class.
    """
    record, model = open_run(run), show.on_device(DRCL.load(run), device)
    loaded = record.load_data(data)
    samples = loaded.splits[measured_split(loaded, split)]
    queries, gallery = (_modality(samples, name) for name in (source, target))
    outside = [row for row in rows if row >= len(queries.features)]
    if outside:
        raise ValueError(
            f"query: expected rows 0 to {len(queries.features) - 1} of {source}, got {outside[0]}"
        )
    found = model.search(
        source, queries.features[list(rows)], target, gallery.features, k=k, space=space
    )
    for row, scores, indices in zip(rows, found.scores, found.indices, strict=True):
        click.echo(f"{source} row {row}: {_classes(loaded, queries.labels[row])}")
        table = [["", "rank", f"{target} row", "score", "class"]]
        for rank, (score, index) in enumerate(zip(scores, indices, strict=True), start=1):
            label = gallery.labels[int(index)]
            star = "*" if _shared(queries.labels[row], label) else ""
            table.append(
                [star, str(rank), str(int(index)), f"{score:.3f}", _classes(loaded, label)]
            )
        click.echo(columns(table) + "\n")


@click.command()
@show.run_argument
@show.data_option
@show.device_option
def report(run: Path, data: str | None, device: str | None) -> None:
    """Rebuild the report of a run."""
    record, model = open_run(run), show.on_device(DRCL.load(run), device)
    loaded = record.load_data(data)
    measured = measure_model(model, loaded, measured_split(loaded))
    show.show_report(run, record, model, measured)


def _modality(samples: dict[str, Labelled], name: str) -> Labelled:
    if name not in samples:
        raise ValueError(f"modality: expected one of {list(samples)}, got {name!r}")
    return samples[name]


def _classes(data: CrossModalDataset, label: np.ndarray) -> str:
    ids = np.flatnonzero(label) if np.ndim(label) else [label] if label >= 0 else []
    return ", ".join(data.classes[index] for index in ids) or "unlabelled"


def _shared(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one * other).any()) if np.ndim(one) else bool(one == other >= 0)


def _packed(embeddings: np.ndarray, suffix: str) -> bytes:
    if suffix == ".safetensors":
        return bytes(save({"embeddings": embeddings}))
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, embeddings=embeddings)
    else:
        np.save(buffer, embeddings, allow_pickle=False)
    return buffer.getvalue()
