"""Retrieval quality from embeddings: exact, all measures in one pass, in bounded memory.

Embeddings may be torch tensors, NumPy arrays (also memory-mapped ones), frames, SciPy's sparse
matrices, arrays of h5py or zarr (these three are read whole), or, for the gallery, a sequence or
iterator of chunks of these; of any real dtype. Labels are class ids (N,) or multi-hot rows (N, C)
of 0 and 1. Class ids are whole numbers, 0 to 2⁶³ − 1 or −1, in any real dtype; others, also those
below −1, are refused. An item is relevant to a query of the same class or, multi-label, one that
shares a label. Items labelled −1 (class ids) have unknown relevance: they are left out as queries
and from the gallery. A multi-hot row without any label is relevant to nothing. Ties are ranked by
gallery index unless told otherwise; the cosine with a zero row is 0; rows with NaN or infinite
entries are refused.

For labels of other kinds, names among them, and for what −1 means, see :mod:`drcl.labels`. For
scores that are there already, :func:`score_metrics`; for ranked lists, :mod:`drcl.metrics.trec`.
"""

from __future__ import annotations

from drcl import _later
from drcl.metrics.comparison import Comparison, compare, compare_all
from drcl.metrics.estimates import Estimate
from drcl.metrics.hamming import HammingMetrics, hamming_metrics
from drcl.metrics.means import (
    average_precision,
    cmc_curve,
    hit_at_k,
    mean_average_precision,
    precision_recall_curve,
    recall_at_k,
)
from drcl.metrics.options import MAX_BYTES, RetrievalOptions
from drcl.metrics.ranks import Ranks
from drcl.metrics.report import RetrievalReport, retrieval_report
from drcl.metrics.results import PrecisionRecall, RetrievalMetrics
from drcl.metrics.retrieval import retrieval_metrics
from drcl.metrics.score_matrix import score_metrics
from drcl.metrics.search import Nearest, nearest
from drcl.metrics.streaming import RetrievalMetric

__all__ = [
    "retrieval_metrics", "RetrievalMetrics", "RetrievalOptions", "average_precision",
    "mean_average_precision", "recall_at_k", "hit_at_k", "precision_recall_curve", "cmc_curve",
    "PrecisionRecall", "Ranks", "retrieval_report", "RetrievalReport", "nearest", "Nearest",
    "score_metrics", "hamming_metrics", "HammingMetrics", "RetrievalMetric", "Estimate", "compare",
    "compare_all", "Comparison", "MAX_BYTES",
]  # fmt: skip
__dir__ = __all__.copy
__getattr__ = _later.names(__name__, "definitions", "trec")
