"""``drcl score``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from drcl.checks import check_installed
from drcl.cli.output import folder_option
from drcl.cli.score_inputs import of_embeddings, of_runs
from drcl.cli.score_output import Scores
from drcl.metrics.comparison import TESTS
from drcl.metrics.definitions import explained
from drcl.metrics.measures import named
from drcl.metrics.scores import METRICS
from drcl.ranking import DIVISORS
from drcl.storage.files import write_together

# Of the whole gallery these say nothing: all is found, and the share of what is relevant.
EMPTY = ("recall@all", "precision@all")
LEVELS = 101  # of the precision–recall curves
OF_EMBEDDINGS = ("image", "text", "labels", "pairs", "metric", "ties", "exclude_self")


class _Lists(click.Command):
    """``--k 1 5 10`` is ``--k 1 --k 5 --k 10``: the whole numbers after ``--k`` are cut-offs.

    So it is with ``--against IMAGE TEXT``, where there is no ``--run``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        runs = any(argument.split("=")[0] == "--run" for argument in args)
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
                second = not runs
            spread.append(argument)
        if second:
            raise click.BadOptionUsage("--against", _TWO, ctx)
        return super().parse_args(ctx, spread)


_TWO = "Option '--against' requires 2 arguments."


@click.command(cls=_Lists)
@click.argument("image", metavar="IMAGE[:KEY]", required=False)
@click.argument("text", metavar="TEXT[:KEY]", required=False)
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
@click.option("--run", metavar="RUN", help="Instead of embeddings: ranked lists, a run of TREC.")
@click.option(
    "--qrels", metavar="QRELS", help="With --run: what is relevant, as TREC's judgements."
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
    "--measures",
    metavar="NAME,…",
    help="More of them, by the names of measures= in Python: hit,ap_at_r.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="IMAGE TEXT|RUN",
    help="Another system's embeddings of the same rows, or run, to be compared with; may be "
    "repeated.",
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
@click.option(
    "--divisor",
    type=click.Choice(DIVISORS),
    help="Of AP@k. Default: hits; of a run: relevant, as trec_eval.",
)
@click.option("--ties", type=click.Choice(("index", "average")), default="index", show_default=True)
@click.option(
    "--no-relevant", type=click.Choice(("zero", "skip")), default="zero", show_default=True
)
@click.option("--exclude-self", is_flag=True, help="Row i of one side does not find row i.")
@folder_option("Folder for scores.md, scores.tex, scores.json and pr.pdf.")
@click.option(
    "--explain",
    is_flag=False,
    flag_value="",
    metavar="[MEASURE]",
    help="Say how measures are defined, who uses them, and which option gives them here; nothing "
    "is scored.",
)
@click.pass_context
def score(
    context: click.Context,
    image: str | None,
    text: str | None,
    labels: tuple[str, ...],
    pairs: str | None,
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
    """Score embeddings or ranked lists from files, without a run of training.

    IMAGE and TEXT are rows (N, d) of any two modalities in any format that is read. Each searches
    the other. recall@k is the share of a query's relevant rows among the first k.

    --run and --qrels are files of TREC instead; the numbers are those of trec_eval, and queries
    without a list count 0.

    With --against, differences are tested query by query, and p-values corrected by Holm for their
    number.
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
        for name in OF_EMBEDDINGS:
            if name in given:
                raise click.UsageError(f"{name}: expected none with --run and --qrels")
        if run is None or qrels is None:
            raise click.UsageError("expected --run and --qrels together")
        asked |= {"divisor": divisor or "relevant", "adaptive_k": False}
        systems = of_runs([run, *against], qrels, asked)
        about = {"run": run, "qrels": qrels}
    else:
        if image is None or text is None:
            raise click.UsageError("expected IMAGE and TEXT, or --run and --qrels")
        if bool(labels) == (pairs is not None) or len(labels) > 2:
            raise click.UsageError("expected --labels once or twice, or --pairs")
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
