"""What all methods are given alike: the validation split, and damaged labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from drcl.checks import check_count
from drcl.data.dataset import CrossModalDataset, Labelled, Split, is_multi_hot
from drcl.data.splits import stratified_holdout
from drcl.labels import is_labelled

__all__ = [
    "Damage", "damage_of", "with_few_labels", "with_missing_rows", "with_noise",
    "with_unseen_classes", "with_validation",
]  # fmt: skip
__dir__ = __all__.copy


class Damage(NamedTuple):
    """What is done to the training and validation rows before any method sees them.

    Attributes:
        name: for tables and folders.
        apply: (data, seed=…) -> data.
        keeps_pairs: whether row i of one modality still belongs to row i of another.

    >>> from drcl.data import load
    >>> damage = Damage("5 labels a class", partial(with_few_labels, per_class=5))
    >>> few = damage.apply(load("synthetic", scale=0.1), seed=0)
    >>> len(few.train["image"].labels), len(few.classes)
    (50, 10)
    """

    name: str
    apply: Callable[..., CrossModalDataset]
    keeps_pairs: bool = True


def damage_of(
    noise: str | None = None,
    labels_per_class: int | None = None,
    missing: float | None = None,
    unseen: int | None = None,
) -> Damage | None:
    """The damage that one of these asks for, if any does.

    ``noise`` is ``KIND:RATE`` as in ``"symmetric:0.4"``, of :func:`with_noise`; the others are of
    :func:`with_few_labels`, :func:`with_missing_rows` and :func:`with_unseen_classes`.

    >>> damage_of(missing=0.5).name
    'missing rows 0.5'
    """
    found = []
    if noise is not None:
        kind, _, rate = noise.partition(":")
        try:
            share = float(rate)
        except ValueError:
            raise ValueError(f"noise: expected KIND:RATE like symmetric:0.4, got {noise}") from None
        _check_noise(kind, share)
        found.append(Damage(f"{kind} noise {share}", partial(with_noise, kind=kind, rate=share)))
    if labels_per_class is not None:
        check_count("labels_per_class", labels_per_class)
        few = partial(with_few_labels, per_class=labels_per_class)
        found.append(Damage(f"labels per class {labels_per_class}", few))
    if missing is not None:
        _check_missing(missing)
        rows = partial(with_missing_rows, rate=missing)
        found.append(Damage(f"missing rows {missing}", rows, keeps_pairs=False))
    if unseen is not None:
        check_count("unseen", unseen)
        classes = partial(with_unseen_classes, count=unseen)
        found.append(Damage(f"unseen classes {unseen}", classes, keeps_pairs=False))
    if len(found) > 1:
        names = ", ".join(damage.name for damage in found)
        raise ValueError(
            "noise, labels per class, missing and unseen: expected one at most, got " + names
        )
    return found[0] if found else None


def with_validation(data: CrossModalDataset, seed: int, fraction: float = 0.2) -> CrossModalDataset:
    """A share of ``train`` as validation rows, for the modalities that have none of their own.

    Of every class ``round(fraction · n)`` rows, one at least, as
    :func:`drcl.data.splits.stratified_holdout` draws them. Modalities with the same labels are cut
    alike, so that pairs stay pairs.

    >>> from dataclasses import replace
    >>> from drcl.data import load
    >>> data = with_validation(replace(load("synthetic"), validation={}), seed=0)
    >>> data.validation.keys() == data.train.keys()
    True
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

    >>> from drcl.data import load
    >>> data = load("synthetic")
    >>> noisy = with_noise(data, "asymmetric", 0.5, seed=0)
    >>> right, wrong = data.train["image"].labels, noisy.train["image"].labels
    >>> abs(float((right != wrong).mean()) - 0.5) < 0.01
    True
    """
    _check_noise(kind, rate)
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

    >>> from drcl.data import load
    >>> few = with_few_labels(load("synthetic"), per_class=2, seed=0)
    >>> len(few.train["image"].labels) == 2 * len(few.classes)
    True
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


def with_missing_rows(data: CrossModalDataset, rate: float, seed: int) -> CrossModalDataset:
    """A share ``rate`` of each modality's training and validation rows taken out; test rows stay.

    Each modality loses rows of its own, so that few samples are left whole. Which: the first
    ``round(rate · n)`` of a permutation, drawn by ``numpy.random.default_rng([seed, i])`` for
    modality i of ``train``, ``[seed, i, 1]`` for the same of ``validation``.

    >>> from drcl.data import load
    >>> data = load("synthetic")
    >>> half = with_missing_rows(data, 0.5, seed=0)
    >>> len(data.train["image"].labels) - len(half.train["image"].labels) == round(
    ...     0.5 * len(data.train["image"].labels)
    ... )
    True
    """
    _check_missing(rate)

    def kept(split: Split, *mark: int) -> Split:
        found: Split = {}
        for index, (name, part) in enumerate(split.items()):
            count = len(part.labels)
            if round(rate * count) == count:
                raise ValueError(f"missing: expected a row to be left of {count} of {name}")
            order = np.random.default_rng([seed, index, *mark]).permutation(count)
            rows = np.sort(order[round(rate * count) :])
            found[name] = Labelled(part.features[rows], part.labels[rows])
        return found

    return replace(data, train=kept(data.train), validation=kept(data.validation, 1))


def with_unseen_classes(data: CrossModalDataset, count: int, seed: int) -> CrossModalDataset:
    """``count`` classes of its own that each modality has no training or validation row of, while
    all others have; test rows stay.

    Modality i goes without classes ``i·count`` to ``(i + 1)·count − 1`` of the permutation
    ``numpy.random.default_rng(seed).permutation(C)``.

    >>> from drcl.data import load
    >>> import numpy as np
    >>> data = with_unseen_classes(load("synthetic"), 1, seed=0)
    >>> [len(np.unique(part.labels)) for part in data.train.values()] == [
    ...     len(data.classes) - 1
    ... ] * len(data.train)
    True
    """
    classes, modalities = len(data.classes), len(data.train)
    if count < 1 or count * modalities >= classes:
        raise ValueError(
            f"unseen: expected at least 1 class a modality and, for {modalities} modalities, fewer "
            f"than {classes} in all, got {count} a modality"
        )
    order = np.random.default_rng(seed).permutation(classes)
    lacking = {
        name: order[index * count : (index + 1) * count] for index, name in enumerate(data.train)
    }

    def kept(split: Split) -> Split:
        found: Split = {}
        for name, part in split.items():
            if is_multi_hot(part.labels):
                raise ValueError(f"unseen: expected one class a sample, got several in {name}")
            rows = ~np.isin(part.labels, lacking[name])
            found[name] = Labelled(part.features[rows], part.labels[rows])
        return found

    return replace(data, train=kept(data.train), validation=kept(data.validation))


def _check_noise(kind: str, rate: float) -> None:
    if kind not in ("symmetric", "asymmetric"):
        raise ValueError(f"noise: expected symmetric or asymmetric, got {kind!r}")
    if not 0 <= rate <= 1:
        raise ValueError(f"noise: expected a rate from 0 to 1, got {rate}")


def _check_missing(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"missing: expected a rate from 0 to below 1, got {rate}")
