"""Commands on a finished run: ``evaluate``, ``encode``, ``report``."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from safetensors.numpy import save

from drcl.cli import show
from drcl.cli.index import Encoding, encoded, encoding_options, features_of
from drcl.cli.names import read_names
from drcl.cli.output import OutputFile, waiting
from drcl.data.files import read_array
from drcl.estimator import DRCL
from drcl.run import measure_model, open_run
from drcl.run.evaluation import SplitName, measured_split
from drcl.storage.files import locked, write_bytes
from drcl.storage.sealed import write_json

F = TypeVar("F", bound=Callable[..., Any])

split_option = click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    help="Rows to use; default: test, or validation if there is no test split.",
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
@click.option("--out", type=OutputFile(), help="Write it as JSON.")
@show.space_option
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
@encoding_options(
    click.option(
        "--out",
        required=True,
        type=OutputFile(),
        help="Output file: .npy, or .npz or .safetensors with an array named 'embeddings'.",
    )
)
def encode(out: Path, asked: Encoding) -> None:
    """Encode features of one modality.

    The result is float32, to be ranked by inner product: (N, dim) with rows of unit length in the
    space 'cosine', class posteriors (N, C) in 'posterior'. With --ids, an .npz file has their ids
    as a second array, 'ids'. To search, see drcl index.
    """
    if out.suffix not in (".npy", ".npz", ".safetensors"):
        raise click.BadParameter(
            f"{out}: expected a name ending in .npy, .npz or .safetensors", param_hint="--out"
        )
    if asked.table is not None and out.suffix != ".npz":
        raise click.BadParameter(
            f"{out}: expected a name ending in .npz, as only it holds ids", param_hint="--out"
        )
    asked.check_out(out, out.exists())
    if asked.append:
        _stored(out, asked.table is not None)  # refuses it before anything is encoded
    model, modality = asked.model(), asked.modality
    rows = features_of(model, modality, asked.features)
    new: dict[str, np.ndarray] = {}
    if asked.table is not None:
        new["ids"] = np.array(read_names(asked.table, len(rows))[0])
    new["embeddings"] = encoded(model, modality, rows, asked.space, asked.progress).numpy()

    def write() -> tuple[int, int]:
        with locked(out.parent):
            # What was true before the rows were encoded may not be so now.
            asked.check_out(out, out.exists())
            arrays = _after(_stored(out, "ids" in new), new, out) if asked.append else new
            _check_unique(arrays.get("ids"))
            write_bytes(out, _packed(arrays, out.suffix))
            return arrays["embeddings"].shape

    count, width = waiting(out.parent, write)
    click.echo(f"{out}: {count} × {width} float32")


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


def _stored(out: Path, with_ids: bool) -> dict[str, np.ndarray]:
    """The arrays of a file to append to; ValueError if it has ids and none come, or vice versa."""
    if not out.exists():
        raise FileNotFoundError(f"{out}: expected a file to append to, got none")
    stored = {"embeddings": read_array(out, None if out.suffix == ".npy" else "embeddings")}
    if out.suffix == ".npz":
        with np.load(out, allow_pickle=False) as file:
            named = "ids" in file.files
        if named != with_ids:
            raise ValueError(f"{out}: expected {'--ids' if named else 'no --ids'}, as it has")
        if named:
            stored["ids"] = read_array(out, "ids")
    return stored


def _after(
    stored: dict[str, np.ndarray], new: dict[str, np.ndarray], out: Path
) -> dict[str, np.ndarray]:
    """The arrays of a file with these after them; ValueError if they do not fit."""
    embeddings, width = stored["embeddings"], new["embeddings"].shape[1]
    if embeddings.dtype != np.float32 or embeddings.shape[1:] != (width,):
        raise ValueError(
            f"{out}: expected float32 (N, {width}) to append to, got {embeddings.dtype} "
            f"{embeddings.shape}"
        )
    return {name: np.concatenate([stored[name], new[name]]) for name in new}


def _check_unique(ids: np.ndarray | None) -> None:
    if ids is not None and len(np.unique(ids)) < len(ids):
        raise ValueError("ids: expected unique ids, got one twice")


def _packed(arrays: dict[str, np.ndarray], suffix: str) -> bytes:
    if suffix == ".safetensors":
        return bytes(save(arrays))
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    else:
        np.save(buffer, arrays["embeddings"], allow_pickle=False)
    return buffer.getvalue()
