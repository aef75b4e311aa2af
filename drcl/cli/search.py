"""``drcl search``: in an index, or in the data set of a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import click
import numpy as np

from drcl.cli import show
from drcl.cli.errors import printable
from drcl.cli.index import check_same_model, described, encoded, features_of
from drcl.cli.names import WHOLE
from drcl.cli.output import OutputPage
from drcl.cli.retrieve import split_option
from drcl.data import CrossModalDataset, Labelled
from drcl.estimator import DRCL
from drcl.index import Index
from drcl.index.folder import MANIFEST
from drcl.report.results import PICTURE, Search, results_page
from drcl.run import open_run
from drcl.run.evaluation import SplitName, measured_split
from drcl.storage.files import write_bytes
from drcl.tables import columns, json_text, shortened

_OF_RUNS = ("data", "split", "space")
_OF_INDEXES = ("among", "where", "run", "as_json", "html")
_CELL = 40  # letters of a name or text in a table


class _Search(click.Command):
    """Says how to search with an id that looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = "an id that begins with '-' goes last, after --"
            raise click.UsageError(f"{error.format_message()} ({hint})", ctx) from error


@click.command(cls=_Search)
@click.argument(
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="INDEX|RUN",
)
@click.argument("query", metavar="QUERY")
@click.argument("target", required=False)
@click.option(
    "--query",
    "rows",
    type=click.IntRange(min=0),
    multiple=True,
    help="Row of the query file to search with; may be repeated. Default: all; in a RUN, row 0.",
)
@click.option(
    "--k", type=click.IntRange(min=1), default=10, show_default=True, help="Number of results."
)
@click.option(
    "--in",
    "among",
    multiple=True,
    metavar="MODALITY",
    help="Find only items of this modality; may be repeated.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Find only items with this value; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--html",
    type=OutputPage(),
    help="Write a page with names, texts and pictures.",
)
@click.option(
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The run that encodes the queries, if it was moved.",
)
@show.data_option
@split_option
@show.space_option
@show.device_option
@click.pass_context
def search(context: click.Context, folder: Path, **options: Any) -> None:
    """Search an index, or the data set of a run.

    drcl search INDEX QUERY searches an index made by drcl index. QUERY is the id of an item in it,
    or MODALITY=FILE[:KEY]: features, where each row is a query.

    drcl search RUN SOURCE TARGET searches the run's data set: rows of modality TARGET with rows of
    SOURCE. A star marks results that share a class with the query.
    """
    in_index = (folder / MANIFEST).is_file()
    wrong = [
        option
        for option in context.command.params
        if option.name in (_OF_RUNS if in_index else _OF_INDEXES)
        and options[option.name] not in (None, (), False)
    ]
    if wrong:
        kind = "a run" if in_index else "an index"
        raise click.UsageError(f"{wrong[0].opts[0]}: expected {kind} to search, got {folder}")
    if in_index:
        if options["target"] is not None:
            hint = _file_hint(Index.load(folder), options["target"], options["query"])
            raise click.UsageError(
                f"{folder} is an index: expected one QUERY, got {options['target']!r} beside it"
                f"{hint}"
            )
        _in_index(folder, **{name: options[name] for name in options if name not in _OF_RUNS})
        return
    if options["target"] is None:
        raise click.UsageError(f"{folder} holds no index: expected a run, SOURCE and TARGET")
    _in_run(folder, **{name: options[name] for name in options if name not in _OF_INDEXES})


def _in_index(
    folder: Path,
    query: str,
    target: None,
    rows: tuple[int, ...],
    k: int,
    among: tuple[str, ...],
    where: tuple[str, ...],
    as_json: bool,
    html: Path | None,
    run: Path | None,
    device: str | None,
) -> None:
    made = Index.load(folder)
    options: dict[str, Any] = {"modality": among or None, "where": _conditions(where)}
    number = _number(made, query)
    if number is not None:
        if rows:
            raise click.UsageError(f"--query: expected features to search with, got {query!r}")
        scores, indices, _ = made.search(made.rows([number]), k + 1, **options)
        others = (indices != number)[0].nonzero()[:k, 0]  # it would find itself
        queries = made.records([number])
        scores, indices = scores[:, others], indices[:, others]
    else:
        modality, given, file = query.partition("=")
        if not given or not file:
            numbers = made.numbers[:1]
            some = f"; one id is {made.records(numbers)[0]['id']!r}" if len(numbers) else ""
            raise ValueError(
                f"QUERY: expected an id of {folder}, or MODALITY=FILE, got {query!r}"
                f"{_file_hint(made, query) or some}"
            )
        where_run = run or _run_of(made, folder)
        model = show.on_device(DRCL.load(where_run), device)
        check_same_model(made, folder, model, where_run)
        given_rows = features_of(model, modality, file)
        embeddings = encoded(model, modality, given_rows, made.space, progress=False)
        wanted = list(rows) or list(range(len(embeddings)))
        _check_rows(wanted, len(embeddings), file)
        scores, indices, _ = made.search(embeddings[wanted], k, **options)
        queries = [{"id": f"{file} row {row}", "modality": modality} for row in wanted]
    searches = [
        Search(
            described(one),
            [
                {**described(record), "score": score}
                for record, score in zip(made.records(items), values, strict=True)
            ],
        )
        for one, values, items in zip(queries, scores.tolist(), indices.numpy(), strict=True)
    ]
    if html is not None:
        about = f"{len(made):,} items in {folder}"
        write_bytes(html, results_page("Search results", about, searches).encode())
    if as_json:
        found = [{"query": one.query, "found": one.found} for one in searches]
        click.echo(json_text(found, indent=2, ensure_ascii=False))
    elif html is not None:
        click.echo(f"written: {html}")
    else:
        filters = [f"--in {name}" for name in among] + [f"--where {one}" for one in where]
        nothing = f"nothing found{' with ' if filters else ''}{printable(' '.join(filters))}"
        for one in searches:
            click.echo(_table(one) if one.found else f"{_title(one)}\n{nothing}")
            click.echo()


def _file_hint(made: Index, file: str, modality: str | None = None) -> str:
    """What to write where a file was named without a modality; "" of anything else."""
    if not os.path.isfile(file):  # False, too, of what can be no name
        return ""
    return f"; features of a file are {modality or next(iter(made.modalities), 'MODALITY')}={file}"


def _run_of(made: Index, folder: Path) -> Path:
    """Where the index says that its run is."""
    known = made.about.get("run")
    if known is None:
        raise ValueError(
            f"{folder}: expected --run, the run to encode queries with: the index was made without "
            "one; the ids of its items can be searched with all the same"
        )
    if not Path(str(known)).is_dir():
        raise ValueError(f"{folder}: expected its run in {known}; say where with --run")
    return Path(str(known))


def _conditions(where: tuple[str, ...]) -> dict[str, list[Any]] | None:
    """Column -> values; what JSON reads as a number, truth value or null is looked for as that, and
    as text."""
    found: dict[str, list[Any]] = {}
    for condition in where:
        column, given, value = condition.partition("=")
        if not given or not column:
            raise click.BadParameter(
                f"expected COLUMN=VALUE, got {condition!r}", param_hint="--where"
            )
        found.setdefault(column, []).append(value)
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            continue
        if read is None or (isinstance(read, (bool, int, float)) and math.isfinite(read)):
            found[column].append(read)
    return found or None


def _number(made: Index, query: str) -> int | None:
    """Where an item with this id stands; None if there is none."""
    names: list[int | str] = [query]
    if WHOLE.fullmatch(query):
        names.append(int(query))
    for name in names:
        with contextlib.suppress(ValueError):
            return int(made.find([name])[0])
    return None


def _table(one: Search) -> str:
    """Rank, id, modality and score, then what else is known, without the pictures' paths."""
    names = [name for item in one.found for name in item if name != PICTURE]
    first = ["id", "modality", "score"]
    rest = [name for name in dict.fromkeys(names) if name not in first]
    rows = [["rank", *first, *rest]]
    for rank, item in enumerate(one.found, start=1):
        values = {**item, "score": f"{item['score']:.3f}"}
        rows.append([str(rank), *(_cell(values.get(name, "")) for name in rows[0][1:])])
    return f"{_title(one)}\n{columns(rows, left=len(rows[0]))}"


def _title(one: Search) -> str:
    return printable(f"{one.query.get('modality', '')} {one.query['id']}".strip())


def _cell(value: Any) -> str:
    return shortened(printable(str(value).replace("\n", " ")), _CELL)


def _check_rows(rows: list[int], count: int, of: str) -> None:
    outside = [row for row in rows if row >= count]
    if outside:
        raise ValueError(f"query: expected rows 0 to {count - 1} of {of}, got {outside[0]}")


def _in_run(
    folder: Path,
    query: str,
    target: str,
    rows: tuple[int, ...],
    k: int,
    data: str | None,
    split: SplitName | None,
    space: str | None,
    device: str | None,
) -> None:
    record, model = open_run(folder), show.on_device(DRCL.load(folder), device)
    loaded = record.load_data(data)
    samples = loaded.splits[measured_split(loaded, split)]
    queries, gallery = (_modality(samples, name) for name in (query, target))
    rows = rows or (0,)
    _check_rows(list(rows), len(queries.features), query)
    found = model.search(
        query, queries.features[list(rows)], target, gallery.features, k=k, space=space
    )
    for row, scores, indices in zip(rows, found.scores, found.indices, strict=True):
        click.echo(f"{query} row {row}: {_classes(loaded, queries.labels[row])}")
        table = [["", "rank", f"{target} row", "score", "class"]]
        for rank, (score, index) in enumerate(zip(scores, indices, strict=True), start=1):
            label = gallery.labels[int(index)]
            star = "*" if _shared(queries.labels[row], label) else ""
            table.append(
                [star, str(rank), str(int(index)), f"{score:.3f}", _classes(loaded, label)]
            )
        click.echo(columns(table) + "\n")


def _modality(samples: dict[str, Labelled], name: str) -> Labelled:
    if name not in samples:
        raise ValueError(f"modality: expected one of {list(samples)}, got {name!r}")
    return samples[name]


def _classes(data: CrossModalDataset, label: np.ndarray) -> str:
    ids = np.flatnonzero(label) if np.ndim(label) else [label] if label >= 0 else []
    return ", ".join(data.classes[index] for index in ids) or "unlabelled"


def _shared(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one * other).any()) if np.ndim(one) else bool(one == other >= 0)
