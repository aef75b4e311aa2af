"""``drcl score``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from drcl.checks import check_installed
from drcl.cli.output import folder_option
from drcl.cli.score_inputs import of_embeddings, of_matrices, of_runs
from drcl.cli.score_output import Scores
from drcl.metrics.comparison import TESTS
from drcl.metrics.definitions import explained
from drcl.metrics.names import named
from drcl.metrics.scores import METRICS
from drcl.ranking import DIVISORS
from drcl.storage.files import write_together

# Of the whole gallery these say nothing: all is found, and the share of what is relevant.
EMPTY = ("recall@all", "precision@all")
LEVELS = 101  # of the precision–recall curves
OF_EMBEDDINGS = ("image", "text", "metric")
OF_MATRICES = ("matrix", "labels", "pairs", "ties", "exclude_self")
F = TypeVar("F", bound=Callable[..., Any])


class _Lists(click.Command):
    """``--k 1 5 10`` is ``--k 1 --k 5 --k 10``: the whole numbers after ``--k`` are cut-offs.

    So it is with ``--against IMAGE TEXT``, where there is neither ``--run`` nor ``--scores``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        alone = any(argument.split("=")[0] in ("--run", "--scores") for argument in args)
        spread: list[str] = []
        listing, second = False, False
        for argument in args:
            before = spread[-1] if spread else ""
            if listing and argument.isdecimal() and before != "--k":
                spread.append("--k")
            elif not argument.isdecimal():
                listing = argument == "--k"
            if second and before != "--against":
                if argument.startswith("-"):
                    raise click.BadOptionUsage("--against", _TWO, ctx)
                spread.append("--against")
                second = False
            elif argument.split("=")[0] == "--against":
                second = not alone
            spread.append(argument)
        if second:
            raise click.BadOptionUsage("--against", _TWO, ctx)
        return super().parse_args(ctx, spread)


_TWO = "Option '--against' requires 2 arguments."


def _choice(flag: str, names: Sequence[str], words: str) -> Callable[[F], F]:
    """An option whose default is the first of its names."""
    return click.option(
        flag, type=click.Choice(names), default=names[0], show_default=True, help=words
    )


def _refuse(given: Collection[str], names: Sequence[str], beside: str) -> None:
    for name in names:
        if name in given:
            called = "scores" if name == "matrix" else name
            raise click.UsageError(f"{called}: expected none with {beside}")


def _check_relevance(labels: Sequence[str], pairs: str | None) -> None:
    if bool(labels) == (pairs is not None) or len(labels) > 2:
        raise click.UsageError("expected --labels once or twice, or --pairs")


@click.command(cls=_Lists)
@click.argument("image", metavar="IMAGE[:KEY]", required=False)
@click.argument("text", metavar="TEXT[:KEY]", required=False)
@click.option(
    "--labels",
    multiple=True,
    metavar="FILE[:KEY]",
    help="Classes of the rows, shared by both sides; or give it twice, for IMAGE and for TEXT (of "
    "--scores, for rows and for columns). The key of a .csv file is a column.",
)
@click.option(
    "--pairs",
    metavar="rows|FILE[:KEY]",
    help="Instead of --labels: 'rows' if row i of IMAGE belongs to row i of TEXT alone, or pairs "
    "(P, 2) of row numbers from 0 (of --scores, of row and column).",
)
@click.option(
    "--scores",
    "matrix",
    metavar="FILE[:KEY]",
    help="Instead of IMAGE and TEXT: scores (Q, N), a row for each query and a column for each "
    "item. A higher score means nearer, so negate distances.",
)
@click.option(
    "--run", metavar="RUN", help="Ranked lists in TREC's run format, instead of embeddings."
)
@click.option("--qrels", metavar="QRELS", help="With --run: TREC's relevance judgements.")
@click.option(
    "--k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 5, 10),
    show_default=True,
    help="Cut-offs in addition to the whole gallery: --k 1 5 10.",
)
@click.option(
    "--measures",
    metavar="NAME,…",
    help="Further measures, named as in measures= in Python: hit,ap_at_r.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="IMAGE TEXT|SCORES|RUN",
    help="Another system to compare with: its embeddings of the same rows, its scores, or its run; "
    "may be repeated.",
)
@click.option(
    "--measure",
    default="mAP@all",
    show_default=True,
    help="The measure that --against compares, as named in the table.",
)
@_choice("--test", TESTS, "How --against tests differences.")
@click.option(
    "--interval",
    type=float,
    metavar="LEVEL",
    help="Print confidence intervals of the means at this level, such as 0.95.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of intervals and tests.")
@_choice("--metric", METRICS, "Similarity that the gallery is ranked by.")
@click.option(
    "--divisor",
    type=click.Choice(DIVISORS),
    help="What AP@k is divided by. Default: hits; with --run: relevant, as in trec_eval.",
)
@_choice(
    "--ties",
    ("index", "average"),
    "Equal scores: ranked by row number, or averaged over all their orders.",
)
@_choice(
    "--no-relevant", ("zero", "skip"), "Queries with nothing relevant: count as 0, or are left out."
)
@click.option(
    "--exclude-self", is_flag=True, help="Row i of one side never finds row i of the other."
)
@folder_option("Folder for scores.md, scores.tex, scores.json and pr.pdf.")
@click.option(
    "--explain",
    is_flag=False,
    flag_value="",
    metavar="[MEASURE]",
    help="Print how measures are defined, who uses them, and the option that gives them here, "
    "without scoring anything.",
)
@click.pass_context
def score(
    context: click.Context,
    image: str | None,
    text: str | None,
    labels: tuple[str, ...],
    pairs: str | None,
    matrix: str | None,
    run: str | None,
    qrels: str | None,
    ks: tuple[int, ...],
    measures: str | None,
    against: tuple[str, ...],
    out: Path | None,
    explain: str | None,
    divisor: str | None,
    no_relevant: str,
    **options: Any,
) -> None:
    """Score embeddings, score matrices or ranked lists from files.

    IMAGE and TEXT are files of rows (N, d) of any two modalities, in any supported format. Each
    side searches the other. recall@k is the share of a query's relevant rows among the first k.

    To score a matrix of scores computed elsewhere, give it with --scores instead; its rows search
    its columns.

    To score ranked lists, give TREC files with --run and --qrels instead. The numbers are those of
    trec_eval; a query without a list counts as 0.

    With --against, systems are compared query by query, and p-values are corrected for their number
    by Holm's method.
    """
    typed = ParameterSource.COMMANDLINE
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is typed
    }
    if explain is not None:
        del given["explain"]
        if given:
            beside = ", ".join(given.values())
            raise click.UsageError(f"--explain: expected no file or option beside it, got {beside}")
        click.echo(explained(explain))
        return
    compared = {name: options.pop(name) for name in ("measure", "test", "interval", "seed")}
    asked: dict[str, Any] = {"ks": (*dict.fromkeys(ks), None), "no_relevant": no_relevant}
    if measures is not None:
        asked["measures"] = tuple(dict.fromkeys(map(str.strip, measures.split(","))))
        if "" in asked["measures"]:
            raise ValueError(
                f"measures: expected names parted by single commas, hit,ap_at_r, got {measures!r}"
            )
        named(asked["measures"])  # refused before files are read
    curves = out is not None and options["ties"] == "index"
    if curves:
        refusal = "pr.pdf needs {}; install it with: pip install 'drcl[report]'"
        check_installed(refusal, "matplotlib")
        asked["recall_levels"] = LEVELS
    about: dict[str, Any]
    if run is not None or qrels is not None:
        _refuse(given, (*OF_EMBEDDINGS, *OF_MATRICES), "--run and --qrels")
        if run is None or qrels is None:
            raise click.UsageError("expected --run and --qrels together")
        asked |= {"divisor": divisor or "relevant", "adaptive_k": False}
        systems = of_runs([run, *against], qrels, asked)
        about = {"run": run, "qrels": qrels}
    elif matrix is not None:
        _refuse(given, OF_EMBEDDINGS, "--scores")
        _check_relevance(labels, pairs)
        del options["metric"]
        asked |= {**options, "divisor": divisor or "hits", "ndcg": True}
        systems = of_matrices([matrix, *against], labels, pairs, asked)
        about = {"scores": matrix, "labels": labels, "pairs": pairs}
    elif image is None or text is None:
        raise click.UsageError("expected IMAGE and TEXT, --scores, or --run and --qrels")
    else:
        _check_relevance(labels, pairs)
        asked |= {**options, "divisor": divisor or "hits", "ndcg": True}
        others = zip(against[::2], against[1::2], strict=True)
        systems = of_embeddings([(image, text), *others], labels, pairs, asked)
        about = {"image": image, "text": text, "labels": labels, "pairs": pairs}
        if systems.of_bytes and "metric" not in given:
            click.echo(
                f"note: {' and '.join(systems.of_bytes)}: uint8 rows, ranked by their cosine; for "
                "packed binary codes: --metric hamming",
                err=True,
            )
    scores = Scores(systems.found, hidden=() if run else EMPTY, **compared)
    click.echo(f"{systems.about}\n\n{scores}")
    if out is not None:
        contents = {
            out / name: content
            for name, content in scores.files({**about, "options": asked}, curves).items()
        }
        write_together(contents)
        click.echo(f"\nwritten: {', '.join(map(str, contents))}")
        if not curves:
            click.echo("no pr.pdf: averages over ties have no precision–recall curves")
