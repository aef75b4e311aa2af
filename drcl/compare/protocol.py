"""What all methods are given alike: the validation split, damaged labels, and a fingerprint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drcl.data.dataset import CrossModalDataset, Labelled, Split, is_multi_hot
from drcl.data.fingerprint import fingerprint as fingerprint
from drcl.data.splits import stratified_holdout
from drcl.labels import is_labelled


def with_validation(data: CrossModalDataset, seed: int, fraction: float = 0.2) -> CrossModalDataset:
    """A share of ``train`` as validation rows, for the modalities that have none of their own.

    Of every class ``round(fraction · n)`` rows, one at least, as
    :func:`drcl.data.splits.stratified_holdout` draws them. Modalities with the same labels are cut
    alike, so that pairs stay pairs.
    """
    if set(data.validation) == set(data.train):
        return data
    train: Split = {}
    validation: Split = {}
    for name, (features, labels) in data.train.items():
        if name in data.validation:
            train[name], validation[name] = data.train[name], data.validation[name]
            continue
        kept, held = stratified_holdout(labels, fraction, seed)
        train[name] = Labelled(features[kept], labels[kept])
        validation[name] = Labelled(features[held], labels[held])
    return replace(data, train=train, validation=validation)


def with_noise(data: CrossModalDataset, kind: str, rate: float, seed: int) -> CrossModalDataset:
    """A share ``rate`` of the training and of the validation labels made wrong; test labels stay.

    ``"symmetric"``: another class, each as likely; ``"asymmetric"``: the next class, as if two were
    confused. Each modality is damaged on its own. Which rows: the first ``round(rate · n)`` of a
    permutation of the labelled ones, drawn by ``numpy.random.default_rng([seed, i])`` for modality
    i of ``train``, ``[seed, i, 1]`` for the same of ``validation``; then the classes, from the same
    generator.
    """
    if kind not in ("symmetric", "asymmetric"):
        raise ValueError(f"noise: expected symmetric or asymmetric, got {kind!r}")
    if not 0 <= rate <= 1:
        raise ValueError(f"noise: expected a rate from 0 to 1, got {rate}")
    count = len(data.classes)

    def damaged(split: Split, *mark: int) -> Split:
        found: Split = {}
        for index, (name, part) in enumerate(split.items()):
            if is_multi_hot(part.labels):
                raise ValueError(f"noise: expected one class a sample, got several in {name}")
            draw = np.random.default_rng([seed, index, *mark])
            known = draw.permutation(np.flatnonzero(is_labelled(part.labels)))
            rows = known[: round(rate * len(known))]
            step = draw.integers(1, count, len(rows)) if kind == "symmetric" else 1
            labels = part.labels.copy()
            labels[rows] = (labels[rows] + step) % count
            found[name] = Labelled(part.features, labels)
        return found

    return replace(data, train=damaged(data.train), validation=damaged(data.validation, 1))


def with_few_labels(data: CrossModalDataset, per_class: int, seed: int) -> CrossModalDataset:
    """``per_class`` labelled rows of each class and modality, in ``train`` and in ``validation``
    each; the others go.

    Drawn by ``numpy.random.default_rng(seed)``; modalities with the same labels keep the same rows.
    """
    if per_class < 1:
        raise ValueError(f"per_class: expected at least 1, got {per_class}")

    def thinned(split: Split) -> Split:
        kept: dict[bytes, np.ndarray] = {}
        found: Split = {}
        for name, part in split.items():
            if is_multi_hot(part.labels):
                raise ValueError(f"per_class: expected one class a sample, got several in {name}")
            key = part.labels.tobytes()
            if key not in kept:
                draw = np.random.default_rng(seed)
                rows = [
                    draw.permutation(np.flatnonzero(part.labels == label))[:per_class]
                    for label in range(len(data.classes))
                ]
                kept[key] = np.concatenate(rows)
            found[name] = Labelled(part.features[kept[key]], part.labels[kept[key]])
        return found

    return replace(data, train=thinned(data.train), validation=thinned(data.validation))
