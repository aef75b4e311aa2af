"""What every loader returns: modalities, each with its own samples and labels, in three splits.

Modalities need not be paired: row 7 of the images and row 7 of the texts may have nothing to do
with each other, and one modality may have ten times the samples of another.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from drcl.labels import clean_name, encode_labels, is_labelled

__all__ = ["CrossModalDataset", "Labelled", "Split", "is_multi_hot"]
__dir__ = __all__.copy


class Labelled(NamedTuple):
    """Samples of one modality.

    Attributes:
        features: (N, d) float32, finite; or (N, …), for a network of your own.
        labels: (N,) int64 class ids in ``0..C-1``, ``-1`` where a sample is unlabelled; or
            (N, C) float32 or uint8 rows, one-hot or multi-hot, all zero where unlabelled.

    >>> image = Labelled(np.zeros((3, 8), np.float32), np.array([0, 1, -1]))
    >>> image.features.shape, image.labels.tolist()
    ((3, 8), [0, 1, -1])
    """

    features: np.ndarray
    labels: np.ndarray


Split = dict[str, Labelled]

UNPRINTED = ("Cc", "Cs")
"""Unicode's control characters and half pairs: in a name they would act on the terminal."""


def is_multi_hot(labels: np.ndarray) -> bool:
    """Whether ``labels`` are (N, C) rows rather than (N,) class ids.

    >>> is_multi_hot(np.array([0, 2, -1])), is_multi_hot(np.eye(3, dtype=np.uint8))
    (False, True)
    """
    return labels.ndim == 2


@dataclass(frozen=True)
class CrossModalDataset:
    """Features and labels of several modalities, checked when built.

    Attributes:
        name: what the set is called in tables.
        classes: class names; the index is the class id.
        train, validation, test: modality name → :class:`Labelled`. ``validation`` and ``test`` may
            be empty or lack a modality; what they hold must exist in ``train``.
        pictures: for the report: modality → (N_test, h, w) grey pictures of its test rows; ``{}``
            where there are none.
        numbers: what stands for each class in the set's files, where its manifest has a table of
            them; a modality that is added later is read by it.

    Raises:
        ValueError: the contents break what is said above; see :meth:`check`.
        TypeError: a features or labels array has another dtype than :class:`Labelled` names.

    >>> image = Labelled(np.ones((3, 2), np.float32), np.array([0, 1, -1]))
    >>> data = CrossModalDataset("pets", ("cat", "dog"), {"image": image}, {}, {"image": image})
    >>> data.modalities
    ('image',)
    >>> print(data.describe())
    pets: 2 classes
    split       modality  samples  width  labelled
    train       image           3      2     66.7%
    test        image           3      2     66.7%
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(clean_name(name) for name in self.classes))
        self.check()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names, in the order of the training split."""
        return tuple(self.train)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def check(self) -> None:
        """Refuse contents that would only fail later, and far from their cause.

        Raises:
            ValueError: no class or a class named twice; a name with control characters; no training
                modality; a modality with no sample, or unknown to ``train``, or of another width
                there; features without rows of numbers or not finite (the first bad row is named);
                features and labels of different lengths; a label outside the classes; class ids in
                one place and multi-hot rows in another; pictures that are not one per test row.
            TypeError: an array of another dtype than :class:`Labelled` names.
        """
        if not self.classes:
            raise ValueError(f"{self.name}: expected at least one class, got none")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise ValueError(
                f"{self.name}: expected distinct classes, got {', '.join(map(repr, twice))} twice"
            )
        for name in (
            self.name,
            *self.classes,
            *(m for split in self.splits.values() for m in split),
        ):
            if any(unicodedata.category(letter) in UNPRINTED for letter in name):
                raise ValueError(f"name: expected one without control characters, got {name!r}")
        if not self.train:
            raise ValueError(f"{self.name}: expected a modality in train, got none")

        kinds: dict[bool, str] = {}
        for split, modalities in self.splits.items():
            for modality, samples in modalities.items():
                where = f"{split}/{modality}"
                if modality not in self.train:
                    known = ", ".join(self.train)
                    raise ValueError(f"{where}: expected a modality of train ({known})")
                _check_features(where, samples.features)
                _check_labels(where, samples, len(self.classes))
                width, expected = _width(samples), _width(self.train[modality])
                if width != expected:
                    raise ValueError(
                        f"{where} features: expected width {expected} as in train, got {width}"
                    )
                kinds.setdefault(is_multi_hot(samples.labels), where)
        if len(kinds) == 2:
            raise ValueError(
                f"{self.name} labels: expected one kind, got class ids in {kinds[False]} and "
                f"multi-hot rows in {kinds[True]}"
            )
        for modality, pictures in self.pictures.items():
            rows = len(self.test[modality].features) if modality in self.test else 0
            if pictures.ndim != 3 or len(pictures) != rows:
                raise ValueError(
                    f"pictures of {modality!r}: expected shape ({rows}, height, width), one for "
                    f"each test row, got {pictures.shape}"
                )

    def describe(self) -> str:
        """A table of split, modality, samples, feature width and the share of labelled rows."""
        name = max(10, *(len(modality) + 2 for modality in self.modalities))
        lines = [
            f"{self.name}: {len(self.classes)} classes",
            f"{'split':<12}{'modality':<{name}}{'samples':>7}{'width':>7}{'labelled':>10}",
        ]
        for split, modalities in self.splits.items():
            for modality, (features, labels) in modalities.items():
                share = is_labelled(labels).mean()
                rows, width = len(features), _width(Labelled(features, labels))
                lines.append(f"{split:<12}{modality:<{name}}{rows:>7}{width:>7}{share:>10.1%}")
        return "\n".join(lines)


def _width(samples: Labelled) -> str:
    """The shape of a sample: ``"128"``, or ``"32×32×3"``."""
    return "×".join(map(str, samples.features.shape[1:]))


def _check_features(where: str, features: np.ndarray) -> None:
    if not isinstance(features, np.ndarray):
        raise TypeError(f"{where} features: expected an array, got {type(features).__name__}")
    if features.ndim < 2:
        raise ValueError(f"{where} features: expected shape (samples, width), got {features.shape}")
    if features.dtype != np.float32:
        raise TypeError(f"{where} features: expected float32, got {features.dtype}")
    if 0 in features.shape:
        raise ValueError(
            f"{where} features: expected at least one value, got shape {features.shape}"
        )
    finite = np.isfinite(features).all(axis=tuple(range(1, features.ndim)))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"{where} features: expected finite values, got NaN or infinity in {len(bad)} of "
            f"{len(features)} rows, first in row {bad[0]}"
        )


def _check_labels(where: str, samples: Labelled, classes: int) -> None:
    features, labels = samples
    if not isinstance(labels, np.ndarray):
        raise TypeError(f"{where} labels: expected an array, got {type(labels).__name__}")
    if is_multi_hot(labels) and labels.dtype not in (np.float32, np.uint8):
        raise TypeError(f"{where} labels: expected rows of float32 or uint8, got {labels.dtype}")
    if labels.ndim == 1 and labels.dtype != np.int64:
        raise TypeError(f"{where} labels: expected ids of int64, got {labels.dtype}")
    encode_labels(labels, range(classes), where, count=len(features), soft=True)
