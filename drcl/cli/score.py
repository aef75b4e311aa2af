"""``drcl score``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from drcl import metrics
from drcl.checks import check_installed
from drcl.data.assemble import file_labels
from drcl.figures import canvas, plain
from drcl.metrics import Comparison, Estimate, RetrievalMetrics
from drcl.metrics.comparison import TESTS
from drcl.metrics.estimates import interval_text
from drcl.metrics.scores import METRICS
from drcl.metrics.statistics import holm
from drcl.ranking import DIVISORS
from drcl.run.added import part_key, read_file, read_rows
from drcl.storage.files import write_together
from drcl.tables import columns, json_text, latex, markdown, shortened

# Of the whole gallery these say nothing: all is found, and the share of what is relevant.
EMPTY = ("recall@all", "precision@all")
LEVELS = 101  # of the precision–recall curves

Rows = list[list[str]]
Directions = dict[str, RetrievalMetrics]  # "image->text" and "text->image"


class _Lists(click.Command):
    """``--k 1 5 10`` is ``--k 1 --k 5 --k 10``: the whole numbers after ``--k`` are cut-offs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        listing = False
        for argument in args:
            if listing and argument.isdecimal() and spread[-1] != "--k":
                spread.append("--k")
            elif not argument.isdecimal():
                listing = argument == "--k"
            spread.append(argument)
        return super().parse_args(ctx, spread)


@click.command(cls=_Lists)
@click.argument("image", metavar="IMAGE[:KEY]")
@click.argument("text", metavar="TEXT[:KEY]")
@click.option(
    "--labels",
    multiple=True,
    metavar="FILE[:KEY]",
    help="Classes of the rows, which are the same for both sides; given twice, those of IMAGE and "
    "of TEXT. A key of a .csv file is a column.",
)
@click.option(
    "--pairs",
    metavar="rows|FILE[:KEY]",
    help="Instead of labels: 'rows' where row i of IMAGE belongs to row i of TEXT alone, or pairs "
    "(P, 2) of row numbers from 0.",
)
@click.option(
    "--k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 5, 10),
    show_default=True,
    help="Cut-offs beside the whole gallery: --k 1 5 10.",
)
@click.option(
    "--against",
    nargs=2,
    multiple=True,
    metavar="IMAGE TEXT",
    help="Another system's embeddings of the same rows, to be compared with; may be repeated.",
)
@click.option(
    "--measure",
    default="mAP@all",
    show_default=True,
    help="What --against compares, as the table calls it.",
)
@click.option("--test", type=click.Choice(TESTS), default=TESTS[0], show_default=True)
@click.option("--interval", type=float, metavar="LEVEL", help="Intervals of the means: 0.95.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of intervals and tests.")
@click.option("--metric", type=click.Choice(METRICS), default="cosine", show_default=True)
@click.option("--divisor", type=click.Choice(DIVISORS), default="hits", show_default=True)
@click.option("--ties", type=click.Choice(("index", "average")), default="index", show_default=True)
@click.option(
    "--no-relevant", type=click.Choice(("zero", "skip")), default="zero", show_default=True
)
@click.option("--exclude-self", is_flag=True, help="Row i of one side does not find row i.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for scores.md, scores.tex, scores.json and pr.pdf.",
)
def score(
    image: str,
    text: str,
    labels: tuple[str, ...],
    pairs: str | None,
    ks: tuple[int, ...],
    against: tuple[tuple[str, str], ...],
    measure: str,
    test: str,
    interval: float | None,
    seed: int,
    out: Path | None,
    **options: Any,
) -> None:
    """Score embeddings from files, without a run.

    IMAGE and TEXT are rows (N, d) of any two modalities in any format that is read. Each searches
    the other. recall@k is the share of a query's relevant rows among the first k.

    With --against, differences are tested query by query, and p-values corrected by Holm for their
    number.
    """
    if bool(labels) == (pairs is not None) or len(labels) > 2:
        raise click.UsageError("expected --labels once or twice, or --pairs")
    if out is not None and options["ties"] == "index":
        refusal = "pr.pdf needs {}; install it with: pip install 'drcl[report]'"
        check_installed(refusal, "matplotlib")
        options["recall_levels"] = LEVELS
    options.update(ks=(*dict.fromkeys(ks), None), ndcg=True)
    names = _names((image, text))
    systems: list[tuple[str, Directions]] = []
    counts: list[int] = []
    for files in ((image, text), *against):
        rows = [read_rows(file) for file in files]
        counts = counts or [len(part) for part in rows]
        if [len(part) for part in rows] != counts:
            raise ValueError(
                f"{' and '.join(files)}: expected {counts[0]} and {counts[1]} rows, as in {image} "
                f"and {text}, got {len(rows[0])} and {len(rows[1])}"
            )
        relevant = _labels(labels, rows) if labels else _pairs(pairs or "", counts)
        systems.append((", ".join(files), _both_ways(names, rows, relevant, options)))
    chosen: dict[str, Any] = {} if interval is None else {"interval": interval, "seed": seed}
    summaries = {pair: found.summary(**chosen) for pair, found in systems[0][1].items()}
    level = 0.95 if interval is None else interval
    compared = _compare(systems, measure, test=test, seed=seed, interval=level)
    tables = [(_table(summaries), 1)]  # and how many columns hold words
    if compared:
        tables.append((_difference_table(compared, measure, level), 2))
    sizes = ", ".join(f"{name}: {count:,} rows" for name, count in zip(names, counts, strict=True))
    click.echo(f"{sizes}\n\n{_text(columns, tables)}")
    if out is None:
        return
    record = {
        "image": image,
        "text": text,
        "labels": labels,
        "pairs": pairs,
        "options": options,
        "measures": _by_measure(summaries),
        "compared": {
            "measure": measure,
            "test": test,
            "with": [
                {"against": name, "pair": pair, **one._asdict()} for name, pair, one in compared
            ],
        },
    }
    texts = {
        "scores.md": _text(markdown, tables) + "\n",
        "scores.tex": _text(latex, tables) + "\n",
        "scores.json": json_text(record, indent=2, ensure_ascii=False) + "\n",
    }
    contents = {out / name: content.encode() for name, content in texts.items()}
    if "recall_levels" in options:
        contents[out / "pr.pdf"] = _curves(systems)
    write_together(contents)
    click.echo(f"\nwritten: {', '.join(map(str, contents))}")


def _names(files: tuple[str, str]) -> list[str]:
    """What the sides are called: by their key or file, in full where both would be the same."""
    parts = [part_key(file) for file in files]
    short = [key or Path(file).stem for file, _, key in parts]
    return list(files) if short[0] == short[1] and files[0] != files[1] else short


def _labels(files: tuple[str, ...], rows: list[np.ndarray]) -> dict[str, Any]:
    """Labels of both sides, as :func:`drcl.metrics.retrieval_metrics` takes them."""
    both = []
    for file, part in zip((files[0], files[-1]), rows, strict=True):
        remedy = "save their transpose"
        both.append(file_labels(read_file(file), part.shape, file, remedy))
    return {"query_labels": both[0], "gallery_labels": both[1]}


def _pairs(text: str, counts: list[int]) -> dict[str, Any]:
    """Pairs (P, 2) of row numbers as the relevance."""
    if text == "rows":
        if counts[0] != counts[1]:
            raise ValueError(f"pairs: expected as many rows on both sides, got {counts}")
        return {"relevance": np.stack([np.arange(counts[0])] * 2, axis=1)}
    pairs = read_file(text)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"{text}: expected pairs (P, 2) of row numbers, got {pairs.dtype} {pairs.shape}"
        )
    return {"relevance": pairs}


def _both_ways(
    names: list[str],
    rows: list[np.ndarray],
    relevant: dict[str, Any],
    options: dict[str, Any],
) -> Directions:
    """The measures of each direction; of one set that is searched with itself there is one."""
    if "relevance" in relevant:
        back = {"relevance": relevant["relevance"][:, ::-1]}
    else:
        back = dict(zip(relevant, reversed(relevant.values()), strict=True))
    (a, b), (x, y) = names, rows
    found = {f"{a}->{b}": metrics.retrieval_metrics(x, y, **relevant, **options)}
    if a != b:
        found[f"{b}->{a}"] = metrics.retrieval_metrics(y, x, **back, **options)
    return found


def _table(summaries: Mapping[str, Mapping[str, float | Estimate]]) -> Rows:
    """A row for each measure: its mean in each direction, and the mean of these."""
    rows = [["measure", *map(_direction, summaries), "mean"]]
    for name in next(iter(summaries.values())):
        if name not in EMPTY:
            values = [means[name] for means in summaries.values()]
            rows.append([name, *map(_cell, values), f"{_mean_of(values):.4f}"])
    return rows


def _direction(pair: str) -> str:
    return shortened(pair.replace("->", " → "), 32)


def _text(layout: Callable[[Rows, int], str], tables: list[tuple[Rows, int]]) -> str:
    return "\n\n".join(layout(rows, left) for rows, left in tables)


def _mean_of(values: Iterable[float | Estimate]) -> float:
    """Of both directions, which count alike."""
    return float(np.mean([_mean(value) for value in values]))


def _mean(value: float | Estimate) -> float:
    return value.mean if isinstance(value, Estimate) else value


def _cell(value: float | Estimate) -> str:
    if isinstance(value, Estimate):
        return f"{value.mean:.4f} [{interval_text(value.low, value.high, between=', ')}]"
    return f"{value:.4f}"


def _by_measure(summaries: Mapping[str, Mapping[str, float | Estimate]]) -> dict[str, Any]:
    """Measure -> direction, or ``"mean"`` -> value, as :func:`drcl.metrics.retrieval_report`."""
    found: dict[str, Any] = {}
    for name in next(iter(summaries.values())):
        values = {pair: means[name] for pair, means in summaries.items()}
        found[name] = {
            pair: value._asdict() if isinstance(value, Estimate) else value
            for pair, value in values.items()
        }
        found[name]["mean"] = _mean_of(values.values())
    return found


def _compare(
    systems: Sequence[tuple[str, Directions]], measure: str, **options: Any
) -> list[tuple[str, str, Comparison]]:
    """The first system less each of the others in each direction, p-values corrected together."""
    (_, first), *others = systems
    found = [
        (name, pair, metrics.compare(first[pair], one, measure=measure, **options))
        for name, directions in others
        for pair, one in directions.items()
    ]
    corrected = holm([one.p for *_, one in found])
    return [
        (name, pair, one._replace(p=p))
        for (name, pair, one), p in zip(found, corrected, strict=True)
    ]


def _difference_table(
    compared: list[tuple[str, str, Comparison]], measure: str, level: float
) -> Rows:
    interval = f"{100 * level:.4g} % interval"
    rows = [["against", "direction", measure, interval, "p (Holm)"]]
    for name, pair, one in compared:
        ends = interval_text(one.low, one.high, sign="+")
        rows.append([name, _direction(pair), f"{one.difference:+.4f}", ends, f"{one.p:.4f}"])
    return rows


def _curves(systems: Sequence[tuple[str, Directions]]) -> bytes:
    """Precision–recall curves, axes for each direction and a line for each system, as PDF."""
    directions = list(systems[0][1])
    buffer = io.BytesIO()
    with canvas(4.2 * len(directions), 3.6) as figure:
        all_axes = figure.subplots(1, len(directions), squeeze=False)[0]
        for axes, pair in zip(all_axes, directions, strict=True):
            for name, found in systems:
                if found[pair].interpolated is not None:
                    label = plain(name, 30) if len(systems) > 1 else None
                    found[pair].plot_precision_recall(axes, label=label)
            axes.set_title(plain(_direction(pair)))
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()
