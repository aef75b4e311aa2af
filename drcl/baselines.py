"""Linear baselines for cross-modal retrieval, from scikit-learn: CCA and semantic matching.

Both choose their settings, the ranking by cosine or by inner product among them, on the validation
split alone, and are then measured like DRCL itself.
Source: Rasiwasia et al., *A New Approach to Cross-Modal Multimedia Retrieval* (ACM Multimedia
2010), correlation matching and semantic matching.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np

from drcl.data.dataset import CrossModalDataset, Labelled, Split, is_multi_hot
from drcl.labels import ParsedLabels, is_labelled, known_ids
from drcl.metrics import mean_average_precision, retrieval_report

__all__ = ["Baseline", "cca", "fit_scaling", "semantic_matching"]
__dir__ = __all__.copy

Scaling = Callable[[np.ndarray], np.ndarray]
T = TypeVar("T")

SCALINGS = ("none", "standard", "l2", "sqrt", "log")
DIRECTIONS = 20
POWERS = (0, 1, 2, 4, 8)
INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
RANKINGS = {"inner product": "dot", "cosine": "cosine"}


class Baseline(NamedTuple):
    """What a baseline reaches, and what it chose on the validation split.

    ``metrics`` has the form of :func:`drcl.metrics.retrieval_report`; ``chosen`` is one line per
    modality, or pair of modalities.
    """

    metrics: dict[str, dict[str, float]]
    chosen: dict[str, str]


def cca(data: CrossModalDataset, *, ks: Sequence[int] = (50,)) -> Baseline:
    """Canonical correlation analysis of every two modalities.

    For centred training rows ``X, Z`` of the same samples, finds up to 20 pairs of directions
    ``a, b``, each with the largest correlation ``ρ = corr(Xa, Zb)`` that is left. A sample's
    embedding holds its variates, scaled to unit variance over the training rows, times ``ρ^p``.
    The power p, the scaling of the inputs and the ranking are those with the best validation mAP,
    mean of both directions of retrieval. Weighting by a power of ρ: Gong et al., *A Multi-View
    Embedding Space for Modeling Internet Images, Tags, and their Semantics* (IJCV 2014).

    Args:
        data: paired: training row i of every modality is the same sample. Labels serve only for
            choosing and measuring.
        ks: cut-offs beside "all".

    Raises:
        ValueError: the training rows are not paired, or a modality has no validation or test rows.
        ImportError: scikit-learn is missing.

    >>> from drcl.data import load
    >>> cca(load("digits"))
    Traceback (most recent call last):
    ...
    ValueError: train: expected paired rows for CCA, got ... of pixels and ... of spectrum
    """
    _check_splits(data)
    for first, second in combinations(data.modalities, 2):
        _check_paired(first, data.train[first], second, data.train[second])
    pairs: dict[str, dict[str, float]] = {}
    chosen = {}
    for first, second in combinations(data.modalities, 2):
        best, report = _cca_pair(data, first, second, ks)
        chosen[f"{first}, {second}"] = best
        for metric, values in report.items():
            values.pop("mean")
            pairs.setdefault(metric, {}).update(values)
    return Baseline(
        {metric: _with_mean(pairs[metric], data.modalities) for metric in pairs}, chosen
    )


def semantic_matching(data: CrossModalDataset, *, ks: Sequence[int] = (50,)) -> Baseline:
    """Logistic regression per modality; class posteriors ``p(c | x)`` are ranked.

    Per modality, the penalty and the scaling of the inputs are those with the best validation mAP
    of its posteriors within the modality, the criterion by which DRCL keeps an encoder. The ranking
    is the one with the best validation mAP, mean over all directions: cosine, or inner product, the
    probability that two items are of one class.
    Multi-hot labels are learned as one regression per class.

    Args:
        data: unpaired modalities and unlabelled rows are welcome.
        ks: cut-offs beside "all".

    Raises:
        ValueError: a modality has no validation or test rows.
        ImportError: scikit-learn is missing.

    >>> from drcl.data import load
    >>> semantic_matching(load("digits")).metrics["mAP@all"]["mean"] > 0.8
    True
    """
    _check_splits(data)
    candidates = {modality: _posteriors(data, modality) for modality in data.modalities}
    found: list[tuple[float, dict[str, str], dict[str, dict[str, float]]]] = []
    for ranking, metric in RANKINGS.items():
        if metric == "cosine":
            candidates = {
                m: {k: _large(v) for k, v in own.items()} for m, own in candidates.items()
            }
        chosen = {
            modality: max(own, key=lambda name: _within(data, modality, own[name][0], metric))
            for modality, own in candidates.items()
        }
        validation, test = (
            {m: candidates[m][name][part] for m, name in chosen.items()} for part in (0, 1)
        )
        value = retrieval_report(_labelled(validation, data.validation), ks=(), metric=metric)
        report = retrieval_report(_labelled(test, data.test), ks=ks, metric=metric)
        named = {modality: f"{name}, {ranking}" for modality, name in chosen.items()}
        found.append((value["mAP@all"]["mean"], named, report))
    best = max(found, key=lambda one: one[0])
    return Baseline(best[2], best[1])


def _large(parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose largest number is 1. Far outside of the training rows one regression per class may
    leave nothing but tiny numbers, of which the cosine sees the direction alone."""
    one, other = (
        rows / np.maximum(rows.max(axis=1, keepdims=True), np.finfo(float).tiny) for rows in parts
    )
    return one, other


def _within(data: CrossModalDataset, modality: str, rows: np.ndarray, metric: str) -> float:
    """mAP of a modality's validation rows among themselves."""
    labels = known_ids(data.validation[modality].labels)
    return mean_average_precision(rows, rows, labels, labels, exclude_self=True, metric=metric)


def fit_scaling(name: str, train: np.ndarray) -> Scaling:
    """One of :data:`SCALINGS`, as a function of rows (N, d), fitted to the training rows.

    ``sqrt`` and ``log`` keep the sign: ``sign(x)·√|x|`` and ``sign(x)·log(1 + |x|)``.

    >>> fit_scaling("l2", np.zeros((1, 2)))(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    if name == "standard":
        mean, std = train.mean(axis=0), train.std(axis=0)
        return lambda x: (x - mean) / np.where(std > 0, std, 1.0)
    if name == "l2":
        return lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    scalings: dict[str, Scaling] = {
        "none": lambda x: x,
        "sqrt": lambda x: np.sign(x) * np.sqrt(np.abs(x)),
        "log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    }
    if name not in scalings:
        raise ValueError(f"scaling: expected one of {SCALINGS}, got {name!r}")
    return scalings[name]


def _cca_pair(
    data: CrossModalDataset, first: str, second: str, ks: Sequence[int]
) -> tuple[str, dict[str, dict[str, float]]]:
    from sklearn.cross_decomposition import CCA

    best, best_value, best_metric = "", -1.0, ""
    best_scores: dict[str, np.ndarray] = {}
    for scaling in SCALINGS:
        if scaling == "standard":
            continue  # scikit-learn's CCA standardises its inputs: the same as "none"
        rows = _scaled(data, (first, second), scaling)
        x, z = rows["train"][first], rows["train"][second]
        count = min(np.linalg.matrix_rank(x), np.linalg.matrix_rank(z), DIRECTIONS)
        with _quiet():
            model = CCA(n_components=count).fit(x, z)
        scores = {split: _project(model, rows[split], first, second) for split in rows}
        deviations = {m: values.std(axis=0) for m, values in scores["train"].items()}
        # A constant modality has scores without variance.
        scale = {m: np.where(std > 0, std, 1.0) for m, std in deviations.items()}
        one, other = (scores["train"][m] / scale[m] for m in (first, second))
        correlation = np.clip((one * other).mean(axis=0), 0.0, 1.0)
        for power in POWERS:
            weighted = {
                split: {m: v / scale[m] * correlation**power for m, v in scores[split].items()}
                for split in ("validation", "test")
            }
            rows_of = _labelled(weighted["validation"], data.validation)
            for ranking, metric in RANKINGS.items():
                value = retrieval_report(rows_of, ks=(), metric=metric)["mAP@all"]["mean"]
                if value > best_value:
                    best, best_value = f"{scaling}, power {power}, {ranking}", value
                    best_metric, best_scores = metric, weighted["test"]
    return best, retrieval_report(_labelled(best_scores, data.test), ks=ks, metric=best_metric)


def _project(
    model: Any, rows: Mapping[str, np.ndarray], first: str, second: str
) -> dict[str, np.ndarray]:
    """Scores of both sides; each side is projected alone, its rows need no partner."""
    x, z = rows[first], rows[second]
    filler = np.zeros((len(z), x.shape[1]))
    return {first: model.transform(x), second: model.transform(filler, z)[1]}


def _scaled(
    data: CrossModalDataset, modalities: Sequence[str], scaling: str
) -> dict[str, dict[str, np.ndarray]]:
    """Split -> modality -> scaled float64 rows."""
    functions = {
        m: fit_scaling(scaling, data.train[m].features.astype(np.float64)) for m in modalities
    }
    return {
        split: {m: functions[m](rows[m].features.astype(np.float64)) for m in modalities}
        for split, rows in data.splits.items()
    }


def _posteriors(data: CrossModalDataset, modality: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Candidate settings -> posteriors of the validation rows and of the test rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    labels = data.train[modality].labels
    known = is_labelled(labels)
    classes = np.arange(len(data.classes))
    found = {}
    for scaling in SCALINGS:
        rows = {split: part[modality] for split, part in _scaled(data, [modality], scaling).items()}
        for penalty in INVERSE_PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=1000)
            if is_multi_hot(labels):
                model = OneVsRestClassifier(model)
            with _quiet():
                model.fit(rows["train"][known], labels[known])
            columns = classes if is_multi_hot(labels) else model.classes_

            def posterior(x: np.ndarray, model: Any = model, columns: Any = columns) -> np.ndarray:
                # A class this modality never saw has probability zero in it.
                full = np.zeros((len(x), len(classes)))
                full[:, columns] = model.predict_proba(x)
                return full

            found[f"{scaling}, C = {penalty:g}"] = (
                posterior(rows["validation"]),
                posterior(rows["test"]),
            )
    return found


def _labelled(
    embeddings: Mapping[str, np.ndarray], split: Split
) -> dict[str, tuple[np.ndarray, ParsedLabels]]:
    return {name: (values, known_ids(split[name].labels)) for name, values in embeddings.items()}


def _with_mean(values: Mapping[str, float], modalities: Sequence[str]) -> dict[str, float]:
    """The pairs in the order of :func:`retrieval_report`, and their mean."""
    keys = [f"{a}->{b}" for a in modalities for b in modalities if a != b]
    return {**{key: values[key] for key in keys}, "mean": float(np.mean(list(values.values())))}


def _check_splits(data: CrossModalDataset) -> None:
    if len(data.modalities) < 2:
        raise ValueError(f"{data.name}: expected at least two modalities, got {data.modalities}")
    for split in ("validation", "test"):
        missing = sorted(set(data.modalities) - set(data.splits[split]))
        if missing:
            raise ValueError(
                f"{data.name}: expected {split} rows of every modality, got none of {missing}"
            )


def _check_paired(first: str, one: Labelled, second: str, other: Labelled) -> None:
    if len(one.labels) != len(other.labels):
        raise ValueError(
            f"train: expected paired rows for CCA, got {len(one.labels)} of {first} and "
            f"{len(other.labels)} of {second}"
        )
    differ = np.flatnonzero((one.labels != other.labels).reshape(len(one.labels), -1).any(axis=1))
    if len(differ):
        raise ValueError(
            f"train: expected paired rows for CCA, got another label of row {differ[0]} in {first} "
            f"than in {second}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about convergence: validation discards such settings anyway."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label not .* is present in all training examples")
        yield
