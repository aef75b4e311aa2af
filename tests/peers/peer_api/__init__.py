"""Every measure and option that the libraries offer, and how each is had here.

``direct`` is one call; ``by arithmetic`` needs a function of the ranks or of the tables, which
``measures=`` and ``summary`` take; ``not expressible`` has a reason. What is direct carries a check
against the library itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from peer_api.of_ir_measures import ir_measures, ir_measures_api
from peer_api.of_open_metric_learning import open_metric_learning, open_metric_learning_api
from peer_api.of_pytorch_metric_learning import pytorch_metric_learning, pytorch_metric_learning_api
from peer_api.of_pytrec_eval import pytrec_eval, pytrec_eval_api
from peer_api.of_ranx import ranx, ranx_api
from peer_api.of_sentence_transformers import sentence_transformers, sentence_transformers_api
from peer_api.of_torchmetrics import torchmetrics, torchmetrics_api
from peer_api.rows import ARITHMETIC, DIRECT, KINDS, NOTHING, Row, problems

__all__ = ["APIS", "DIRECT", "KINDS", "counts", "problems"]


class Api(NamedTuple):
    """What a library offers, found in it, and how that is had here."""

    offered: Callable[[], set[tuple[str, str]]]
    rows: Callable[[], list[Row]]


APIS = {
    "torchmetrics": Api(torchmetrics_api, torchmetrics),
    "pytorch-metric-learning": Api(pytorch_metric_learning_api, pytorch_metric_learning),
    "ranx": Api(ranx_api, ranx),
    "open-metric-learning": Api(open_metric_learning_api, open_metric_learning),
    "ir-measures": Api(ir_measures_api, ir_measures),
    "pytrec-eval-terrier": Api(pytrec_eval_api, pytrec_eval),
    "sentence-transformers": Api(sentence_transformers_api, sentence_transformers),
}


def counts(name: str) -> dict[str, Any]:
    """How many measures with an option there are of each kind, and why not all are direct."""
    rows = APIS[name].rows()
    reasons = {
        kind: {
            f"`{measure}`: {note}": sum(
                (row.measure, row.how, row.note) == (measure, kind, note) for row in rows
            )
            for measure, note in dict.fromkeys((r.measure, r.note) for r in rows if r.how == kind)
        }
        for kind in (ARITHMETIC, NOTHING)
    }
    return {DIRECT: sum(row.how == DIRECT for row in rows), **reasons}
