"""What results print, become and draw: tables, frames, JSON, LaTeX and plots."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from drcl import metrics
from drcl.metrics import RetrievalReport

KS = (1, 5, None)
SETS = {
    "two": ("image", "text"),
    "three": ("image", "text", "sound"),
    "long": ("a very long name of a modality that goes on and on", "text", "b" * 70),
}


@pytest.fixture(scope="module")
def found() -> metrics.RetrievalMetrics:
    draw = np.random.default_rng(0)
    labels = draw.integers(-1, 4, 40)
    x = np.eye(4)[labels] + draw.normal(size=(40, 4))
    return metrics.retrieval_metrics(x, x[::-1], labels, labels[::-1], ks=KS, recall_levels=11)


def reported(names: tuple[str, ...], ks: tuple[int, ...]) -> RetrievalReport:
    draw = np.random.default_rng(1)
    y = np.arange(12) % 3
    sides = {name: (np.eye(3)[y] + draw.normal(size=(12, 3)), y) for name in names}
    return metrics.retrieval_report(sides, ks=ks)


def plain_dict(report: RetrievalReport) -> dict[str, dict[str, float]]:
    return {measure: dict(values) for measure, values in report.items()}


class TestReport:
    def test_a_report_equals_a_plain_dict(self):
        report = reported(SETS["three"], (5,))
        plain = plain_dict(report)
        assert type(plain) is dict and report == plain and plain == report
        assert isinstance(report, dict) and list(report) == ["mAP@all", "mAP@5"]
        assert json.dumps(report, sort_keys=True) == json.dumps(plain, sort_keys=True)
        assert repr(report) == repr(plain)
        assert {**report} == plain and report | {} == plain and report.get("x") is None

    def test_it_is_pickled_and_copied_as_itself(self):
        report = reported(SETS["two"], (5,))
        for again in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
            assert type(again) is RetrievalReport and again == report
            assert str(again) == str(report)
        assert json.loads(report.to_json()) == report

    @pytest.mark.parametrize("ks", [(), (1, 5), tuple(range(1, 40)), (2**62, 10**12, 3)])
    @pytest.mark.parametrize("names", SETS.values(), ids=SETS)
    def test_it_prints_every_number_in_80_columns(self, names, ks):
        report = reported(names, ks)
        text = str(report)
        assert f"{report}" == text and max(map(len, text.splitlines())) <= 80
        for measure, values in report.items():
            block = next(
                block for block in text.split("\n\n") if measure in block.splitlines()[0].split()
            )
            head, *lines = block.splitlines()
            end = re.search(rf"{re.escape(measure)}(?=\s|$)", head).end()
            assert len(lines) == len(values)
            for line, value in zip(lines, values.values(), strict=True):
                assert line[:end].split()[-1] == f"{value:.4f}"

    def test_nothing_to_divide_by_is_a_dash(self):
        report = RetrievalReport({"mAP@all": {"a->b": float("nan"), "b->a": 0.5, "mean": 0.5}})
        assert "–" in str(report) and "–" in report.to_markdown() and "--" in report.to_latex()

    def test_a_frame_has_a_row_for_each_pair(self):
        report = reported(SETS["three"], (5,))
        frame = report.to_dataframe()
        assert frame.to_dict() == plain_dict(report)
        assert frame.index.name == "pair" and frame.index[-1] == "mean" and frame.shape == (7, 2)

    def test_markdown_and_latex_have_the_same_cells(self):
        report = reported(("a|b", "c_d", "50 % & more"), (5,))
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in report.to_markdown().splitlines()
        ]
        assert rows[0] == ["query → gallery", "mAP@all", "mAP@5"] and set(rows[1][1]) == {"-", ":"}
        assert rows[2][0] == r"a\|b → c_d" and rows[-1][0] == "mean"
        lines = report.to_latex().splitlines()
        assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
        body = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")]
        assert [row[1:] for row in body] == [rows[0][1:], *(row[1:] for row in rows[2:])]
        assert body[1][0] == r"a|b $\to$ c\_d"
        assert r"50 \% \& more $\to$ a|b" in report.to_latex()

    @pytest.mark.parametrize("name", ["two", "three"])
    def test_the_map_matrix_shows_every_value(self, name):
        report = reported(SETS[name], (5,))
        axes = report.plot_map_matrix(Figure().subplots(), measure="mAP@5")
        shown = sorted(text.get_text() for text in axes.texts)
        pairs = {pair: value for pair, value in report["mAP@5"].items() if pair != "mean"}
        assert shown == sorted(f"{value:.3f}" for value in pairs.values())
        assert axes.get_title() == f"mAP@5 · mean {report['mAP@5']['mean']:.3f}"
        if name == "three":
            for text in axes.texts:
                column, row = text.get_position()
                query, gallery = SETS[name][row], SETS[name][column]
                assert text.get_text() == f"{report['mAP@5'][f'{query}->{gallery}']:.3f}"

    def test_other_measures_are_refused(self):
        with pytest.raises(ValueError, match="measure: expected one of mAP@all, got 'MRR'"):
            reported(SETS["two"], ()).plot_map_matrix(Figure().subplots(), measure="MRR")


class TestMetrics:
    def test_values_of_single_queries_have_the_summary_as_their_means(self, found):
        for name, mean in found.summary().items():
            assert float(found.tables()[name].nanmean()) == pytest.approx(mean, abs=1e-15)
        assert torch.equal(found.tables()["recall@5"].nan_to_num(), found.recall[:, 1].nan_to_num())

    def test_a_frame_has_a_row_for_each_query(self, found):
        frame = found.to_dataframe()
        assert list(frame) == [*found.summary(), "relevant", "first_rank"]
        assert frame.index.name == "query" and len(frame) == 40
        assert frame.mean().to_dict() == pytest.approx(
            found.summary()
            | {name: float(getattr(found, name).nanmean()) for name in ("relevant", "first_rank")}
        )

    def test_tables_and_json_are_the_summary(self, found):
        summary, estimates = found.summary(), found.summary(interval=0.9, seed=1)
        rows = [line.strip("| ").split(" | ") for line in found.to_markdown().splitlines()]
        assert rows[0] == ["measure", "mean"]
        assert rows[2:] == [[name, f"{mean:.4f}"] for name, mean in summary.items()]
        rows = [line.split(" & ") for line in found.to_latex(0.9, seed=1).splitlines()[2:-2]]
        assert rows[0] == ["measure", "mean", r"90 \% interval \\"]
        for row, (name, one) in zip(rows[2:], estimates.items(), strict=True):
            assert row == [name, f"{one.mean:.4f}", rf"{one.low:.4f} to {one.high:.4f} \\"]
        about = {"queries": 40, "counted": int((~found.tables()["MRR"].isnan()).sum())}
        assert json.loads(found.to_json()) == {**about, "measures": summary}
        with_ends = {name: one._asdict() for name, one in estimates.items()}
        assert json.loads(found.to_json(0.9, seed=1)) == {**about, "measures": with_ends}

    @pytest.mark.parametrize("interpolated", [True, False])
    def test_the_curve_is_drawn_as_it_is(self, found, interpolated):
        axes = found.plot_precision_recall(Figure().subplots(), interpolated=interpolated)
        curve = found.interpolated if interpolated else found.raw
        (line,) = axes.lines
        np.testing.assert_array_equal(line.get_xdata(), curve.recall)
        np.testing.assert_array_equal(line.get_ydata(), curve.precision)
        assert axes.get_legend() is None

    def test_two_curves_on_one_pair_of_axes_differ_and_have_a_legend(self, found):
        axes = found.plot_precision_recall(Figure().subplots(), label="one_$2")
        assert found.plot_precision_recall(axes, interpolated=False, label="_other") is axes
        first, second = axes.lines
        assert first.get_color() != second.get_color()
        assert first.get_linestyle() != second.get_linestyle()
        shown = [text.get_text() for text in axes.get_legend().get_texts()]
        assert shown == [r"one_\$2", " _other"]

    def test_the_cmc_curve_is_the_share_of_queries_found(self, found):
        axes = found.plot_cmc(Figure().subplots(), ranks=7)
        (line,) = axes.lines
        first = found.first_rank[~found.reciprocal_rank.isnan()]
        expected = [float(((first > 0) & (first <= k)).double().mean()) for k in range(1, 8)]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=0, atol=1e-15)
        assert line.get_xdata().tolist() == list(range(1, 8))

    def test_the_cmc_curve_goes_on_beyond_the_largest_cut_off(self):
        x, y = torch.eye(3), torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
        shallow = metrics.retrieval_metrics(
            x, y + 0.01 * x, torch.arange(3), torch.arange(3), ks=(1,)
        )
        (line,) = shallow.plot_cmc(Figure().subplots(), ranks=3).lines
        np.testing.assert_allclose(line.get_ydata(), [1 / 3, 1, 1])

    def test_plots_without_axes_make_a_figure(self, found):
        pyplot = pytest.importorskip("matplotlib.pyplot")
        pyplot.switch_backend("agg")
        for plot in (found.plot_precision_recall, found.plot_cmc):
            axes = plot()
            assert axes.figure.number in pyplot.get_fignums()
            pyplot.close(axes.figure)
        axes = reported(SETS["three"], ()).plot_map_matrix()
        pyplot.close(axes.figure)

    def test_what_cannot_be_drawn_is_refused(self, found):
        x, labels = torch.eye(3), torch.arange(3)
        axes = Figure().subplots()
        shallow = metrics.retrieval_metrics(x, x, labels, labels, ks=(1, 2))
        with pytest.raises(ValueError, match="recall_levels: expected"):
            shallow.plot_precision_recall(axes)
        with pytest.raises(ValueError, match="ranks: expected an integer >= 1, got 0"):
            shallow.plot_cmc(axes, ranks=0)
        one = torch.ones(3, 1)
        tied = metrics.retrieval_metrics(one, one, labels, torch.arange(3) % 2, ties="average")
        with pytest.raises(ValueError, match='ties: expected "index" for a CMC curve'):
            tied.plot_cmc(axes)
        nothing = metrics.retrieval_metrics(x, x, -torch.ones(3), torch.tensor([0, 1, 2]))
        for call in (nothing.plot_cmc, nothing.to_markdown, nothing.to_json):
            with pytest.raises(ValueError, match="query_labels: expected a labelled query"):
                call()
        for rule in ("zero", "nan"):
            empty = metrics.retrieval_metrics(x, x, -torch.ones(3), labels, on_empty=rule)
            with pytest.raises(ValueError, match="query_labels: expected a labelled query"):
                empty.plot_cmc(axes)

    def test_an_interval_without_bounds_is_called_unbounded(self):
        """Of two queries, half of the resamples repeat one: they have no spread."""
        x, y = torch.eye(2), torch.tensor([[1.0, 0.0], [0.9, 0.1]])
        labels = torch.arange(2)
        tables = metrics.retrieval_metrics(x, y, labels, labels, ks=(), measures=("auroc", "rbp"))
        tables.measures["rbp"][:] = torch.tensor([1.0, 3.0])  # not a share: no bounds of its own
        low, high = tables.summary(interval=0.95)["RBP"][1:]
        assert (low, high) == (-np.inf, np.inf)
        assert "| RBP | 2.0000 | unbounded |" in tables.to_markdown(interval=0.95)
        assert '"RBP": {"mean": 2.0, "low": null, "high": null}' in tables.to_json(interval=0.95)

    def test_numbers_that_json_lacks_are_null(self):
        x, alike = torch.eye(3), torch.zeros(3)
        found = metrics.retrieval_metrics(x, x, alike, alike, measures=("auroc",))
        report = RetrievalReport({"AUROC": {"a->b": float("nan"), "mean": float("inf")}})

        def refuse(constant: str) -> None:
            pytest.fail(f"{constant} is not JSON")

        read = json.loads(found.to_json(), parse_constant=refuse)
        assert read["measures"]["AUROC"] is None and read["measures"]["mAP@all"] == 1
        read = json.loads(report.to_json(), parse_constant=refuse)
        assert read == {"AUROC": {"a->b": None, "mean": None}}


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("pandas", lambda report, _: report.to_dataframe()),
        ("pandas", lambda _, found: found.to_dataframe()),
        ("matplotlib", lambda report, _: report.plot_map_matrix()),
        ("matplotlib", lambda _, found: found.plot_cmc()),
    ],
)
def test_a_missing_library_is_named_and_the_rest_works(module, call, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    x = torch.eye(3), torch.arange(3)
    report = metrics.retrieval_report({"image": x, "text": x}, ks=())
    found = metrics.retrieval_metrics(x[0], x[0], x[1], x[1])
    assert str(report) and report.to_latex() and report.to_markdown() and found.to_markdown()
    with pytest.raises(ImportError, match=f"needs? {module}; install it with: pip install"):
        call(report, found)
