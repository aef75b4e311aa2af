"""Linear and kernel peers: CCA, ridge and logistic regression, support vector machines."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from drcl.compare.fitted import Embed, Fitted, Unsuited, best, unit
from drcl.data.dataset import CrossModalDataset, Labelled
from drcl.labels import is_labelled
from drcl.labels.encoded import target_rows
from drcl.metrics import mean_average_precision

DIRECTIONS = 40
CCA_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
POWERS = (0, 1, 2, 4)
RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MACHINE_SCALES = (0.125, 0.5, 1.0)
MACHINE_PENALTIES = (1.0, 10.0, 100.0)


def cca(data: CrossModalDataset, seed: int) -> Fitted:
    """Regularised CCA of all modalities at once (MAXVAR), in closed form.

    With standardised rows ``X_m`` and ``L_m = (X_mᵀX_m/N + κI)^(−1/2)``, the directions are the
    blocks of the first left singular vectors ``V`` of the stacked ``(X_m L_m)ᵀ``; a sample's
    embedding is ``x L_m V_m`` times a power of the share of variance that all modalities explain.
    For two modalities this is CCA with ridge penalty κ. κ, the power and the ranking are chosen on
    validation. Row i of all modalities must be one sample. Source: Kettenring, *Canonical Analysis
    of Several Sets of Variables* (1971); powers: Gong et al., *A Multi-View Embedding Space* (IJCV
    2014).
    """
    return _multiset(data, {name: standardizer(part) for name, part in data.train.items()}, "")


def kernel_cca(data: CrossModalDataset, seed: int) -> Fitted:
    """:func:`cca` on the leading components of a centred RBF kernel, of each modality.

    ``k(x, z) = exp(−γ|x − z|²)`` with γ = 1/(d · variance), half and a quarter of it; 200 kernel
    principal components; paired rows. Source: Hardoon et al., *Canonical Correlation Analysis: An
    Overview with Application to Learning Methods* (2004).
    """
    from sklearn.decomposition import KernelPCA

    fits = []
    for scale in (1.0, 0.5, 0.25):
        maps = {}
        for name, part in data.train.items():
            standard = standardizer(part)
            rows = standard(part.features)
            size = min(200, len(rows) - 1)
            kernel = KernelPCA(
                size, kernel="rbf", gamma=scale / rows.shape[1], random_state=seed
            ).fit(rows)
            maps[name] = _after(standard, kernel.transform)
        fits.append(_multiset(data, maps, f"γ × {scale:g}, "))
    return best([(fit.chosen, fit.embed) for fit in fits], data)


def ridge(data: CrossModalDataset, seed: int) -> Fitted:
    """Ridge regression of centred label rows; embeddings are its predictions.

    One penalty for all modalities, and the ranking, chosen on validation.
    """
    from sklearn.linear_model import Ridge

    standard = {name: standardizer(part) for name, part in data.train.items()}
    candidates = []
    for penalty in RIDGE_PENALTIES:
        models = {}
        for name, part in data.train.items():
            known = is_labelled(part.labels)
            y = _targets(part, data)[known]
            x = standard[name](part.features[known])
            models[name] = Ridge(alpha=penalty).fit(x, y - y.mean(axis=0))
        maps = {name: _after(standard[name], model.predict) for name, model in models.items()}
        candidates.append((f"penalty {penalty:g}", _by_modality(maps)))
    return best(candidates, data)


def logistic(data: CrossModalDataset, seed: int) -> Fitted:
    """Logistic regression per modality, posteriors ranked by inner product.

    The scaling of the inputs and the penalty of each modality are those with the best validation
    mAP of its posteriors within the modality. With them it is fitted again, on the training and the
    validation rows. Semantic matching: Rasiwasia et al. (ACM Multimedia 2010), which ranks by
    cosine; by inner product the score is the probability of one class.
    """
    return _classifiers(data, _regressions(), refit=True)


def logistic_train(data: CrossModalDataset, seed: int) -> Fitted:
    """:func:`logistic`, fitted to the training rows alone: validation serves the choice only."""
    return _classifiers(data, _regressions(), refit=False)


def svm(data: CrossModalDataset, seed: int) -> Fitted:
    """:func:`logistic` with support vector machines and ``k(x, z) = exp(−s|x − z|²/d)``.

    Margins become posteriors by sigmoids that are fitted to five folds, or as many as the smallest
    class has rows. Source: Platt, *Probabilistic Outputs for Support Vector Machines* (1999).
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    def machine(scale: float, penalty: float, width: int, smallest: int) -> Any:
        if smallest < 2:
            raise Unsuited("needs two rows a class")
        machine = SVC(C=penalty, gamma=scale / width)
        return CalibratedClassifierCV(machine, cv=min(5, smallest), ensemble=False)

    settings = [
        _Setting(f"s = {scale:g}, C = {penalty:g}", "standard", partial(machine, scale, penalty))
        for scale, penalty in product(MACHINE_SCALES, MACHINE_PENALTIES)
    ]
    return _classifiers(data, settings, refit=True)


class _Setting(NamedTuple):
    """A classifier of scikit-learn, made for the width of its inputs and the smallest class."""

    about: str
    scaling: str
    make: Callable[[int, int], Any]


def _regressions() -> list[_Setting]:
    from sklearn.linear_model import LogisticRegression

    def regression(penalty: float, width: int, smallest: int) -> Any:
        return LogisticRegression(C=penalty, max_iter=300, tol=1e-3)

    return [
        _Setting(f"{scaling}, C = {penalty:g}", scaling, partial(regression, penalty))
        for scaling, penalty in product(("standard", "unit"), INVERSE_PENALTIES)
    ]


def _classifiers(data: CrossModalDataset, settings: list[_Setting], refit: bool) -> Fitted:
    maps, chosen = {}, []
    for name, part in data.train.items():
        held_out = data.validation[name]
        found = None
        for setting in settings:
            posterior = _posterior(data, [part], setting)
            rows = posterior(held_out.features)
            value = mean_average_precision(
                rows, rows, held_out.labels, held_out.labels, exclude_self=True, metric="dot"
            )
            if found is None or value > found[0]:
                found = value, setting, posterior
        assert found is not None
        _, setting, posterior = found
        maps[name] = _posterior(data, [part, held_out], setting) if refit else posterior
        chosen.append(f"{name}: {setting.about}")
    return Fitted(_by_modality(maps), "; ".join(chosen))


def _posterior(
    data: CrossModalDataset, parts: list[Labelled], setting: _Setting
) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.multiclass import OneVsRestClassifier

    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    known = is_labelled(labels)
    standard = standardizer(Labelled(features, labels))
    # Unit rows, then scaled alike: the penalty means the same.
    scale = standard if setting.scaling == "standard" else (lambda x: unit(x) * np.sqrt(x.shape[1]))
    several = labels.ndim == 2
    answers = labels[known].T.astype(int) if several else labels[known][None]
    smallest = min(np.unique(answer, return_counts=True)[1].min() for answer in answers)
    model = setting.make(features.shape[1], int(smallest))
    if several:
        model = OneVsRestClassifier(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scale(features[known]), labels[known])
    columns = np.arange(len(data.classes)) if several else model.classes_

    def posterior(rows: np.ndarray) -> np.ndarray:
        full = np.zeros((len(rows), len(data.classes)))
        full[:, columns] = model.predict_proba(scale(rows))
        return full

    return posterior


def _multiset(data: CrossModalDataset, maps: dict[str, Callable], about: str) -> Fitted:
    rows = {name: maps[name](part.features) for name, part in data.train.items()}
    candidates: list[tuple[str, Embed]] = []
    for penalty in CCA_PENALTIES:
        whiten = {name: _inverse_root(x.T @ x / len(x), penalty) for name, x in rows.items()}
        stacked = np.concatenate([rows[name] @ whiten[name] for name in rows], axis=1)
        _, values, axes = np.linalg.svd(stacked / np.sqrt(len(stacked)), full_matrices=False)
        share = values[:DIRECTIONS] ** 2 / len(rows)
        ends = np.cumsum([x.shape[1] for x in rows.values()])[:-1]
        blocks = dict(zip(rows, np.split(axes[:DIRECTIONS].T, ends), strict=True))
        for power in POWERS:
            projected = {
                name: _after(maps[name], _times(whiten[name] @ blocks[name] * share**power))
                for name in rows
            }
            candidates.append((f"{about}κ {penalty:g}, power {power}", _by_modality(projected)))
    return best(candidates, data)


def _inverse_root(covariance: np.ndarray, penalty: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    size = np.trace(covariance) / len(covariance)
    scaled: np.ndarray = vectors / np.sqrt(np.maximum(values, 0) + penalty * size)
    return scaled @ vectors.T


def standardizer(part: Labelled) -> Callable[[np.ndarray], np.ndarray]:
    mean, std = part.features.mean(axis=0), part.features.std(axis=0)
    return lambda x: ((x - mean) / np.where(std > 1e-8, std, 1.0)).astype(np.float64)


def _targets(part: Labelled, data: CrossModalDataset) -> np.ndarray:
    import torch

    rows = target_rows(torch.from_numpy(part.labels), len(data.classes), torch.float64)
    found: np.ndarray = rows.numpy()
    return found


def _times(matrix: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: x @ matrix


def _after(
    first: Callable[[np.ndarray], np.ndarray], second: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: second(first(x))


def _by_modality(maps: dict[str, Callable[[np.ndarray], np.ndarray]]) -> Embed:
    return lambda modality, features: maps[modality](features)
