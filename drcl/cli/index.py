"""``drcl index``, and what it has in common with the other commands on embeddings."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from torch import Tensor

from drcl.cli import show
from drcl.cli.names import WHOLE, read_names
from drcl.cli.output import already_there, check_out, folder_option, waiting
from drcl.errors import IndexChanged
from drcl.estimator import DRCL
from drcl.index import Index
from drcl.index.folder import MANIFEST, check_free
from drcl.progress import progress_bar, say
from drcl.run import read_features
from drcl.tensors import check_finite
from drcl.train.config import SPACES
from drcl.train.standardize import in_chunks

F = TypeVar("F", bound=Callable[..., Any])

_ARGUMENTS = (
    show.run_argument,
    click.argument("modality"),
    click.argument("features", metavar="FILE[:KEY]"),
)
_OPTIONS = (
    click.option(
        "--ids",
        "table",
        metavar="TABLE.csv",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Table with a line for each row of FILE, below a line of column names. Ids are in the "
        "column 'id' (in any case), or in the first column.",
    ),
    click.option("--append", is_flag=True, help="Add to the index in --out."),
    click.option("--overwrite", is_flag=True, help="Replace the index in --out."),
    show.space_option,
    show.device_option,
    show.progress_option,
)


@dataclass(frozen=True)
class Encoding:
    """What is encoded into ``--out``, and how."""

    run: Path
    modality: str
    features: str
    table: Path | None
    append: bool
    overwrite: bool
    space: str | None
    device: str | None
    progress: bool

    def model(self) -> DRCL:
        """That of the run, on the device that was asked for."""
        return show.on_device(DRCL.load(self.run), self.device)

    def check_out(self, out: Path, there: bool) -> None:
        """Refuse to write over what is there unasked."""
        check_out(out, there, self.append, self.overwrite)


def encoding_options(out: Callable[[F], F]) -> Callable[[Callable[[Path, Encoding], None]], Any]:
    """A command that encodes features into what the option ``out`` names."""

    def with_options(function: Callable[[Path, Encoding], None]) -> Any:
        @functools.wraps(function)
        def command(out: Path, **asked: Any) -> None:
            function(out, Encoding(**asked))

        for option in reversed((*_ARGUMENTS, out, *_OPTIONS)):
            command = option(command)
        return command

    return with_options


@click.command()
@encoding_options(folder_option("Folder of the index.", required=True))
def index(out: Path, asked: Encoding) -> None:
    """Encode features of one modality into an index.

    Other columns of --ids are stored and shown with each result: 'name', 'text', 'picture' (a path
    relative to the table) and any others. Without --ids, rows are numbered.

    --append adds rows to an index of the same run, also of a modality that was added to the run
    later. Rows already in the index do not change. If its ids are whole numbers, the ids of the
    table must be, too.
    """
    there = (out / MANIFEST).exists()
    if not there and not asked.append:
        check_free(out)
    asked.check_out(out, there)
    if asked.append and not there:
        raise FileNotFoundError(f"{out}: holds no index to add to; without --append one is made")
    model, modality = asked.model(), asked.modality

    def index_now() -> Index:
        """The index as it is now: another process may have added to it."""
        if not asked.append:
            about = {"run": str(asked.run.resolve()), "prior": fingerprint(model)}
            return Index(space=asked.space or model.space, about=about)
        made = Index.load(out)
        check_same_model(made, out, model, asked.run)
        if asked.space not in (None, made.space):
            raise ValueError(f"space: expected {made.space!r}, as {out} has, got {asked.space!r}")
        return made

    rows = features_of(model, modality, asked.features)
    names, columns = (None, {}) if asked.table is None else read_names(asked.table, len(rows))

    def ids_for(made: Index) -> list[int] | list[str] | None:
        ids = _ids_for(made, out, names, asked.table)
        try:
            made.check_ids(ids, len(rows))
        except ValueError as error:
            raise ValueError(f"{asked.table}: {error}" if asked.table else str(error)) from error
        return ids

    made = index_now()
    ids_for(made)  # refused before anything is encoded
    embeddings = encoded(model, modality, rows, made.space, asked.progress)

    def write() -> Index:
        made = index_now()
        whole = made.add(embeddings, ids=ids_for(made), modality=modality, metadata=columns)
        whole.save(out, overwrite=asked.overwrite)
        return whole

    while True:
        try:
            count = len(waiting(out, write))
            break
        except IndexChanged as error:
            if not asked.append:
                raise ValueError(already_there(out)) from error
    click.echo(f"{out}: {len(embeddings):,} rows of {modality} added, {count:,} in all")


def features_of(model: DRCL, modality: str, features: str) -> Tensor:
    """The rows of "file" or "file:key", which the model can encode."""
    rows = torch.from_numpy(read_features(features))
    if modality not in model.modalities:
        raise ValueError(f"modality: expected one of {model.modalities}, got {modality!r}")
    if len(rows) == 0:
        raise ValueError(f"{features}: expected rows, got none")
    check_finite(rows, f"{modality} features")
    return rows


def encoded(model: DRCL, modality: str, rows: Tensor, space: str | None, progress: bool) -> Tensor:
    """Embeddings of rows, with a progress bar."""
    parts = []
    with progress_bar(total=len(rows), unit="row", disable=not progress, desc=modality) as bar:
        for part in in_chunks(rows):
            parts.append(model.encode(modality, part, space=space))
            bar.update(len(part))
    return torch.cat(parts)


def fingerprint(model: DRCL) -> str:
    """Of the prior that the encoders of a run were trained against: what they encode compares."""
    weight = model.prior.weight.detach().cpu().contiguous().numpy()
    return hashlib.sha256(weight.tobytes()).hexdigest()[:16]


def check_same_model(made: Index, folder: Path, model: DRCL, run: Path) -> None:
    """Refuse a run whose embeddings do not compare with those of an index.

    An index that was made without a run cannot tell: then they have to be of one space and width.
    """
    prior = made.about.get("prior")
    if prior is None:
        _check_fits(made, folder, model, run)
        say(f"{folder} does not say which run encoded its rows; {run} is taken for it")
    elif prior != fingerprint(model):
        known = made.about.get("run")
        raise ValueError(
            f"{run}: expected the run that the index was made with{f', {known}' if known else ''}, "
            "got one that was trained against another prior"
        )


def _check_fits(made: Index, folder: Path, model: DRCL, run: Path) -> None:
    if made.space not in (None, *SPACES):
        raise ValueError(
            f"{run}: expected the rows of {folder} in a space of a run, {SPACES}, got "
            f"{made.space!r}; search it with ids or embeddings"
        )
    space = made.space or model.space
    width = model.prior.weight.shape[0 if space == "cosine" else 1]
    if width != made.width:
        raise ValueError(
            f"{run}: expected width {made.width}, as {folder} has, got {width} in the space "
            f"{space!r}"
        )


def _ids_for(
    made: Index, out: Path, names: list[str] | None, table: Path | None
) -> list[int] | list[str] | None:
    """Names of a table as ids of the kind that an index has."""
    if names is None:
        if made.id_type is str:
            raise ValueError(f"--ids: expected a table, as the ids of {out} are names, got none")
        return None
    if made.id_type is not int:
        return names
    for name in names:
        if not WHOLE.fullmatch(name):
            raise ValueError(
                f"{table}: expected whole numbers, as the ids of {out} are, got {name!r}"
            )
    return [int(name) for name in names]


def described(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is empty."""
    return {name: value for name, value in record.items() if value not in (None, "")}
