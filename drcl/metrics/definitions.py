"""What published measures are: names, formulas, who uses them, and the option that gives them here.

The one source of ``drcl score --explain`` and of the tables in the documentation. Of a ranking of N
items R are relevant, hit j is the j-th relevant one, at rank ρⱼ.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DEFINITIONS", "Definition", "explained"]
__dir__ = __all__.copy

WIDTH = 80


@dataclass(frozen=True)
class Definition:
    """One published definition.

    ``called`` are its names, the usual first; ``measure`` what a summary calls its mean and
    ``options`` what asks for it; ``worked`` is its formula, in Python, for relevant items at ranks
    1, 3, 4 and 5 of ten and k = 3.

    >>> one = DEFINITIONS[1]
    >>> one.measure, one.worked, round(eval(one.worked), 4)
    ('mAP@k', '(1/1 + 2/3) / 3', 0.5556)
    """

    called: str
    formula: str
    used_by: str
    measure: str
    worked: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> str:
        """All that it is called, in small letters."""
        by_name = self.options.get("measures", ())
        return "\n".join((self.called, self.measure, *by_name, self.used_by)).casefold()

    @property
    def here(self) -> str:
        """The options as they are typed, and the name in a summary.

        >>> DEFINITIONS[1].here
        'divisor="min": mAP@k'
        """
        typed = ", ".join(
            f"{name}={value!r}".replace("'", '"') for name, value in self.options.items()
        )
        return f"{typed}: {self.measure}" if typed else self.measure


def _named(name: str) -> dict[str, Any]:
    return {"measures": (name,)}


DEFINITIONS = (
    Definition(
        "mAP@k over the hits found",
        "Σ (j/ρⱼ) over ρⱼ ≤ k, over the number of such hits",
        "cross-modal retrieval papers; torchmetrics RetrievalMAP(top_k=k); open-metric-learning "
        "map",
        "mAP@k",
        "(1/1 + 2/3) / 2",
        {"divisor": "hits"},
    ),
    Definition(
        "mAP@k over min(R, k)",
        "Σ (j/ρⱼ) over ρⱼ ≤ k, over the smaller of R and k",
        "sentence-transformers map@k; the truncated form, which a perfect ranking brings to 1",
        "mAP@k",
        "(1/1 + 2/3) / 3",
        {"divisor": "min"},
    ),
    Definition(
        "mAP@k over R",
        "Σ (j/ρⱼ) over ρⱼ ≤ k, over R",
        "trec_eval map_cut_k; ir-measures AP@k; ranx map@k; pytorch-metric-learning "
        "mean_average_precision with k",
        "mAP@k",
        "(1/1 + 2/3) / 4",
        {"divisor": "relevant"},
    ),
    Definition(
        "mAP@k over the first k hits",
        "Σ (j/ρⱼ) over j ≤ m, over m = min(k, R)",
        "calc_map_k of deep cross-modal hashing (Jiang and Li, 2017) and its successors",
        "mAP_first_hits@k",
        "(1/1 + 2/3 + 3/4) / 3",
        _named("ap_first_hits"),
    ),
    Definition(
        "mAP@R",
        "Σ (j/ρⱼ) over ρⱼ ≤ R, over R",
        "Musgrave, Belongie and Lim (2020); pytorch-metric-learning mean_average_precision_at_r",
        "mAP@R",
        "(1/1 + 2/3 + 3/4) / 4",
        _named("ap_at_r"),
    ),
    Definition(
        "mAP",
        "Σ (j/ρⱼ) over all hits, over R",
        "trec_eval map; ir-measures AP; ranx map; torchmetrics RetrievalMAP; "
        "pytorch-metric-learning mean_average_precision; scikit-learn average_precision_score",
        "mAP@all",
        "(1/1 + 2/3 + 3/4 + 4/5) / 4",
    ),
    Definition(
        "recall@k: the share of the relevant items",
        "hits with ρⱼ ≤ k, over R",
        "trec_eval recall_k; ir-measures R@k; ranx recall@k; torchmetrics "
        "RetrievalRecall(top_k=k); sentence-transformers recall@k",
        "recall@k",
        "2 / 4",
    ),
    Definition(
        "R@k, hit rate, success, rank-k accuracy, CMC: any relevant item",
        "1 if ρ₁ ≤ k, else 0",
        "R@K of COCO and Flickr30k tables; CMC of re-identification; Recall@K of metric learning; "
        "torchmetrics RetrievalHitRate(top_k=k); trec_eval success_k; ir-measures Success@k; ranx "
        "hit_rate@k; "
        "open-metric-learning cmc; sentence-transformers accuracy@k; pytorch-metric-learning "
        "precision_at_1",
        "hit@k",
        "1",
        _named("hit"),
    ),
    Definition(
        "hits@k",
        "the number of hits with ρⱼ ≤ k",
        "ranx hits@k; of the whole list trec_eval num_rel_ret, ir-measures NumRet(rel=1)",
        "hits@k",
        "2",
        _named("hits"),
    ),
    Definition(
        "precision@k over the items there are",
        "hits with ρⱼ ≤ k, over the smaller of k and N",
        "torchmetrics RetrievalPrecision(adaptive_k=True, top_k=k)",
        "precision@k",
        "2 / 3",
    ),
    Definition(
        "precision@k over k",
        "hits with ρⱼ ≤ k, over k, also where k > N",
        "trec_eval P_k; ir-measures P@k; ranx precision@k; torchmetrics "
        "RetrievalPrecision(top_k=k); sentence-transformers precision@k",
        "precision@k",
        "2 / 3",
        {"adaptive_k": False},
    ),
    Definition(
        "precision@k over min(R, k)",
        "hits with ρⱼ ≤ k, over the smaller of R and k",
        "open-metric-learning precision; trec_eval relative_P_k",
        "precision_min@k",
        "2 / min(4, 3)",
        _named("precision_min"),
    ),
    Definition(
        "R-precision",
        "hits with ρⱼ ≤ R, over R",
        "trec_eval Rprec; ir-measures Rprec; ranx r-precision; torchmetrics RetrievalRPrecision; "
        "pytorch-metric-learning r_precision; at multiples of R, trec_eval Rprec_mult: "
        "partial(measures.r_precision, multiple=0.2)",
        "R-precision",
        "3 / 4",
        _named("r_precision"),
    ),
    Definition(
        "F1@k",
        "2·hits / (k + R)",
        "ranx f1@k; of the whole list trec_eval set_F, ir-measures SetF",
        "F1@k",
        "2 * 2 / (3 + 4)",
        _named("f1"),
    ),
    Definition(
        "MRR",
        "1/ρ₁",
        "trec_eval recip_rank; ir-measures RR; ranx mrr; torchmetrics RetrievalMRR; "
        "pytorch-metric-learning mean_reciprocal_rank",
        "MRR",
        "1 / 1",
    ),
    Definition(
        "MRR@k",
        "1/ρ₁ if ρ₁ ≤ k, else 0",
        "MS MARCO; ir-measures RR@k; ranx mrr@k; torchmetrics RetrievalMRR(top_k=k); "
        "sentence-transformers mrr@k",
        "MRR@k",
        "1 / 1",
        _named("reciprocal_rank"),
    ),
    Definition(
        "nDCG@k",
        "Σ gain/log₂(ρ + 1) over ρ ≤ k, over that of the best ranking; the gain is the number of "
        "shared labels, or the relevance",
        "Järvelin and Kekäläinen (2002); trec_eval ndcg_cut_k; ir-measures nDCG@k; ranx ndcg@k; "
        "torchmetrics RetrievalNormalizedDCG(top_k=k); sentence-transformers ndcg@k; scikit-learn "
        "ndcg_score",
        "nDCG@k",
        "(1 + 1/log2(4)) / (1 + 1/log2(3) + 1/log2(4))",
        {"ndcg": True},
    ),
    Definition(
        "nDCG@k of exponential gains",
        "the same of 2^gain − 1",
        'Burges et al. (2005); LETOR; ranx ndcg_burges@k; ir-measures nDCG(dcg="exp-log2")@k',
        "nDCG_exponential@k",
        "(1 + 1/log2(4)) / (1 + 1/log2(3) + 1/log2(4))",
        _named("ndcg_exponential"),
    ),
    Definition(
        "DCG@k",
        "Σ gain/log₂(ρ + 1) over ρ ≤ k",
        "scikit-learn dcg_score; ranx dcg@k",
        "DCG@k",
        "1 + 1/log2(4)",
        _named("dcg"),
    ),
    Definition(
        "DCG@k of exponential gains",
        "Σ (2^gain − 1)/log₂(ρ + 1) over ρ ≤ k",
        "ranx dcg_burges@k",
        "DCG_exponential@k",
        "1 + 1/log2(4)",
        _named("dcg_exponential"),
    ),
    Definition(
        "ERR@k",
        "Σ sᵨ/ρ · Π (1 − s) over better ranks, s = (2^gain − 1) / 2^max",
        "Chapelle et al. (2009); gdeval, by its description: partial(measures.err, max_gain=4)",
        "ERR@k",
        "1/2 + (1 - 1/2) * 1/2 / 3",
        _named("err"),
    ),
    Definition(
        "RBP",
        "(1 − p)·Σ p^(ρⱼ − 1), p = 0.8",
        "Moffat and Zobel (2008); ranx rbp.80 of binary relevance, of gains with "
        "partial(measures.rbp, graded=True); ir-measures RBP(rel=1)",
        "RBP",
        "(1 - 0.8) * (1 + 0.8**2 + 0.8**3 + 0.8**4)",
        _named("rbp"),
    ),
    Definition(
        "bpref",
        "Σ (1 − min(nⱼ, R)/min(R, N − R)) / R, nⱼ irrelevant items before hit j",
        "Buckley and Voorhees (2004); trec_eval bpref; ir-measures Bpref",
        "bpref",
        "(1 + 3 * (1 - 1/4)) / 4",
        _named("bpref"),
    ),
    Definition(
        "fall-out@k",
        "(k − hits) / (N − R)",
        "torchmetrics RetrievalFallOut(top_k=k)",
        "fall-out@k",
        "(3 - 2) / (10 - 4)",
        _named("fall_out"),
    ),
    Definition(
        "AUROC",
        "1 − Σ (ρⱼ − j) / (R·(N − R))",
        "scikit-learn roc_auc_score; torchmetrics RetrievalAUROC; up to a rate, torchmetrics "
        "RetrievalAUROC(max_fpr=0.3): partial(measures.auroc, max_fpr=0.3)",
        "AUROC",
        "1 - 3 / 24",
        _named("auroc"),
    ),
    Definition(
        "AUROC@k, of the first k alone",
        "1 − Σ (ρⱼ − j) / (h·(k − h)) over the h hits with ρⱼ ≤ k",
        "torchmetrics RetrievalAUROC(top_k=k); ir-measures Accuracy@k",
        "AUROC@k",
        "1 - 1 / (2 * 1)",
        _named("auroc_at_k"),
    ),
    Definition(
        "set mAP@k",
        "precision@k · recall@k",
        "of the whole list trec_eval set_map, ir-measures SetAP",
        "set_mAP@k",
        "2 / 3 * 2 / 4",
        _named("set_map"),
    ),
    Definition(
        "11-point average precision",
        "the mean over r = 0, 0.1, …, 1 of the highest precision at recall ≥ r",
        "trec_eval 11pt_avg",
        "11pt_avg",
        "(3 * 1 + 8 * 4/5) / 11",
        _named("eleven_point"),
    ),
    Definition(
        "binG",
        "Σ 1/log₂(2 + nⱼ) / R, nⱼ irrelevant items before hit j",
        "trec_eval binG",
        "binG",
        "(1 + 3 / log2(3)) / 4",
        _named("binary_g"),
    ),
    Definition(
        "G",
        "Σ gⱼ/log₂(2 + Cⱼ − Gⱼ) / Σ g, Gⱼ the gains and Cⱼ the best gains, each 1 at least, up to "
        "rank ρⱼ",
        "trec_eval G",
        "G",
        "(1 + 3 / log2(3)) / 4",
        _named("normalized_g"),
    ),
    Definition(
        "nDCG at the hits",
        "the mean of nDCG@ρⱼ over the relevant items",
        "trec_eval ndcg_rel",
        "ndcg_rel",
        "(1 + (1 + 1/log2(4)) / (1 + 1/log2(3) + 1/log2(4)) + "
        "((1 + 1/log2(4) + 1/log2(5)) + (1 + 1/log2(4) + 1/log2(5) + 1/log2(6))) / "
        "(1 + 1/log2(3) + 1/log2(4) + 1/log2(5))) / 4",
        _named("ndcg_at_hits"),
    ),
    Definition(
        "nDCG at the levels",
        "the mean of nDCG@k over the k where gains of the best ranking fall, and N",
        "trec_eval Rndcg",
        "Rndcg",
        "((1 + 1/log2(4) + 1/log2(5)) + (1 + 1/log2(4) + 1/log2(5) + 1/log2(6))) / "
        "(1 + 1/log2(3) + 1/log2(4) + 1/log2(5)) / 2",
        _named("ndcg_at_levels"),
    ),
    Definition(
        "utility@k",
        "hits less other items with ρ ≤ k, or other weights of these",
        "of the whole list trec_eval utility",
        "utility@k",
        "2 - 1",
        _named("utility"),
    ),
    Definition(
        "number of queries",
        "1 if N > 0, else 0",
        "trec_eval num_q; ir-measures NumQ",
        "num_q",
        "1",
        _named("num_q"),
    ),
    Definition(
        "number of relevant items",
        "R",
        "trec_eval num_rel; ir-measures NumRel",
        "num_rel",
        "4",
        _named("num_rel"),
    ),
    Definition(
        "number of items in the list",
        "N",
        "trec_eval num_ret; ir-measures NumRet",
        "num_ret",
        "10",
        _named("num_ret"),
    ),
    Definition(
        "number of irrelevant items@k",
        "k − hits with ρⱼ ≤ k",
        "with judged_only=True of the whole list trec_eval num_nonrel_judged_ret",
        "num_nonrel@k",
        "3 - 2",
        _named("num_nonrel"),
    ),
    Definition(
        "BPM@k",
        "Σ gⱼ over ρⱼ ≤ s, over s, the rank where gains reach T = 1, or k",
        "Zhang et al. (2017); ir-measures BPM(max_rel=1)@k",
        "BPM@k",
        "1 / 1",
        _named("bpm"),
    ),
    Definition(
        "SDCG@k",
        "DCG@k over that of k items of the greatest gain",
        "ir-measures SDCG(max_rel=1)@k",
        "SDCG@k",
        "(1 + 1/log2(4)) / (1 + 1/log2(3) + 1/log2(4))",
        _named("sdcg"),
    ),
    Definition(
        "INSQ",
        "Σ gⱼ·wᵨ / Σ w over 1,000 ranks, w₁ = 1, wᵨ₊₁ = wᵨ·((ρ + 2T − 1)/(ρ + 2T))², T = 1",
        "Moffat et al. (2012); ir-measures INSQ(max_rel=1)",
        "INSQ",
        "sum(1 / (i + 1)**2 for i in (1, 3, 4, 5)) / sum(1 / (i + 1)**2 for i in range(1, 1001))",
        _named("insq"),
    ),
    Definition(
        "INST",
        "the same with ((ρ + T + Tᵨ − 1)/(ρ + T + Tᵨ))², Tᵨ = T − the gains up to ρ",
        "Moffat et al. (2015); ir-measures INST(max_rel=1)",
        "INST",
        "(1 + 1/9 + 4/81 + 16/729) / (1 + 1/4 + 1/9 + 4/81 + 16/729 + "
        "64/729 * sum(1 / (i - 3)**2 for i in range(6, 1001)))",
        _named("inst"),
    ),
    Definition(
        "NERR8@k",
        "Σ gⱼ·wᵨ / Σ w over ρ ≤ k, w₁ = 1, wᵨ₊₁ = wᵨ·(1 − gᵨ)",
        "Azzopardi et al. (2021); ir-measures NERR8(max_rel=1)@k",
        "NERR8@k",
        "1 / 1",
        _named("nerr8"),
    ),
    Definition(
        "NERR9@k",
        "the same with ρ/(ρ + 1)·(1 − gᵨ)",
        "Azzopardi et al. (2021); ir-measures NERR9(max_rel=1)@k",
        "NERR9@k",
        "1 / 1",
        _named("nerr9"),
    ),
    Definition(
        "NERR10",
        "the same with p·(1 − gᵨ) over 1,000 ranks, p = 0.9",
        "Azzopardi et al. (2021); ir-measures NERR10(max_rel=1)",
        "NERR10",
        "1 / 1",
        _named("nerr10"),
    ),
    Definition(
        "NERR11",
        "the same with INSQ's factor times (1 − gᵨ)",
        "Azzopardi et al. (2021); ir-measures NERR11(max_rel=1)",
        "NERR11",
        "1 / 1",
        _named("nerr11"),
    ),
)


def explained(measure: str = "") -> str:
    """The definitions whose name, here or elsewhere, has ``measure`` in it; all for "".

    Names are those of ``measures=`` too, and what a summary calls a mean: ``recall@10`` is
    ``recall@k``, and ``RBP(p=0.95)`` is ``RBP``. At most 80 columns wide. Raises ValueError where
    no name does.

    >>> print(explained("mAP@R"))
    mAP@R
      formula  Σ (j/ρⱼ) over ρⱼ ≤ R, over R
      used by  Musgrave, Belongie and Lim (2020); pytorch-metric-learning
               mean_average_precision_at_r
      here     measures=("ap_at_r",): mAP@R
    """
    plain = re.sub(r"\(.*\)", "", measure)
    spellings = measure, plain, re.sub(r"@(\d+|all)$", "@k", plain)
    chosen: list[Definition] = []
    for wanted in spellings:
        chosen = chosen or [one for one in DEFINITIONS if wanted.casefold() in one.names]
    if not chosen:
        names = ", ".join(dict.fromkeys(one.measure for one in DEFINITIONS))
        raise ValueError(f"explain: expected a part of a name such as {names}, got {measure!r}")
    return "\n\n".join(map(_block, chosen))


def _block(one: Definition) -> str:
    parts = {"formula": one.formula, "used by": one.used_by, "here": one.here}
    lines = [one.called]
    for title, text in parts.items():
        head = f"  {title:<9}"
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,  # in the names of libraries
        )
    return "\n".join(lines)
