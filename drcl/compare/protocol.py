"""What all methods are given alike: the validation split, damaged labels, and a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from drcl.data.dataset import CrossModalDataset, Labelled, Split, is_multi_hot
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
    """A share ``rate`` of the training labels made wrong, in each modality on its own.

    ``"symmetric"``: another class, each as likely; ``"asymmetric"``: the next class, as if two were
    confused. Which rows: the first ``round(rate · n)`` of a permutation of the labelled ones, drawn
    by ``numpy.random.default_rng([seed, i])`` for modality i; then the classes, from the same
    generator.
    """
    if kind not in ("symmetric", "asymmetric"):
        raise ValueError(f"noise: expected symmetric or asymmetric, got {kind!r}")
    if not 0 <= rate <= 1:
        raise ValueError(f"noise: expected a rate from 0 to 1, got {rate}")
    train: Split = {}
    for index, (name, part) in enumerate(data.train.items()):
        if is_multi_hot(part.labels):
            raise ValueError(f"noise: expected one class a sample, got several in {name}")
        draw = np.random.default_rng([seed, index])
        known = draw.permutation(np.flatnonzero(is_labelled(part.labels)))
        rows = known[: round(rate * len(known))]
        count = len(data.classes)
        step = draw.integers(1, count, len(rows)) if kind == "symmetric" else 1
        labels = part.labels.copy()
        labels[rows] = (labels[rows] + step) % count
        train[name] = Labelled(part.features, labels)
    return replace(data, train=train)


def with_few_labels(data: CrossModalDataset, per_class: int, seed: int) -> CrossModalDataset:
    """``per_class`` labelled training rows of each class and modality; the others go.

    Drawn by ``numpy.random.default_rng(seed)``; modalities with the same labels keep the same rows.
    """
    if per_class < 1:
        raise ValueError(f"per_class: expected at least 1, got {per_class}")
    kept: dict[bytes, np.ndarray] = {}
    train: Split = {}
    for name, part in data.train.items():
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
        train[name] = Labelled(part.features[kept[key]], part.labels[kept[key]])
    return replace(data, train=train)


def fingerprint(data: CrossModalDataset) -> str:
    """12 hexadecimal digits of what two results must share to be comparable.

    SHA-256 over the classes and, split by split and modality by modality, names, shapes, features
    as float32 and labels.

    >>> from drcl.data import load
    >>> fingerprint(load("digits")) == fingerprint(load("digits"))
    True
    """
    digest = hashlib.sha256(repr(data.classes).encode())
    for split, parts in data.splits.items():
        for name, part in parts.items():
            digest.update(repr((split, name, part.features.shape, part.labels.shape)).encode())
            digest.update(np.ascontiguousarray(part.features, dtype="<f4").tobytes())
            digest.update(np.ascontiguousarray(part.labels, dtype="<f8").tobytes())
    return digest.hexdigest()[:12]
