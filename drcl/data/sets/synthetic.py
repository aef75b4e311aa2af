"""Random sets with the shapes and sizes of the paper's five, for speed and memory measurements.

How far the sizes are known, the feature files themselves not having been at hand:

- Counts of Wikipedia, NUS-WIDE and INRIA-Websearch, and the image and text widths 4096, 300 and
  1000: as released loaders and preprocessing scripts of this line of work state them.
- XMedia: the held-out counts are those at which released loaders cut it; training counts are the
  published totals (5000 images, 5000 texts, 1000 audio clips, 500 3-D models, 1143 video clips)
  less these. The text, audio and 3-D widths are as commonly reported, not read from the file.
- XMediaNet: totals of 40000, 40000, 10000, 2000 and 10000 with four fifths for training, as
  published (81600 training objects). Halving the rest between validation and test is confirmed for
  images and texts only; audio and 3-D widths are not known, and those of XMedia stand in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from drcl.checks import check_count, check_option, check_positive
from drcl.data.dataset import CrossModalDataset, Labelled

__all__ = ["SHAPES", "Shape", "synthetic"]
__dir__ = __all__.copy


class Shape(NamedTuple):
    """Sizes of a set: ``modalities`` maps a name to (width, train, validation, test)."""

    classes: int
    modalities: dict[str, tuple[int, ...]]


def _paired(classes: int, text_width: int, *counts: int) -> Shape:
    """Images and texts, so many of each in train, validation and test."""
    return Shape(classes, {"image": (4096, *counts), "text": (text_width, *counts)})


def _five(classes: int, text_width: int, *counts: tuple[int, ...]) -> Shape:
    """Five modalities; ``counts`` are those of train, validation and test, one per modality."""
    widths = {"image": 4096, "text": text_width, "audio": 29, "3d": 4700, "video": 4096}
    columns = zip(widths.items(), *counts, strict=True)
    return Shape(classes, {name: (width, *own) for (name, width), *own in columns})


SHAPES = {
    "wikipedia": _paired(10, 300, 2173, 231, 462),
    "xmedia": _five(
        20, 3000, (4000, 4000, 800, 400, 969), (500, 500, 100, 50, 87), (500, 500, 100, 50, 87)
    ),
    "xmedianet": _five(
        200,
        300,
        (32000, 32000, 8000, 1600, 8000),
        (4000, 4000, 1000, 200, 1000),
        (4000, 4000, 1000, 200, 1000),
    ),
    "nus-wide": _paired(10, 300, 42941, 5000, 23661),
    "inria": _paired(100, 1000, 9000, 1332, 4366),
}

LATENT = 32
SPREAD = 1.5  # of a class about its centre, in units of the centres' own spread
NOISE = 0.1


def synthetic(shape: str = "wikipedia", scale: float = 1.0, seed: int = 0) -> CrossModalDataset:
    """Gaussian classes seen through a random linear map per modality; unpaired, all labelled.

    The same seed gives the same numbers, however many threads there are.

    With class centres ``m_c ~ N(0, I)`` in 32 dimensions, shared by the modalities, a sample of
    class c is ``x = (m_c + 1.5 e) A + 0.1 n``, where ``e, n ~ N(0, I)`` are new for each sample and
    ``A`` (32×d, entries N(0, 1/32)) for each modality. Classes overlap, so retrieval is neither
    hopeless nor perfect.

    Args:
        shape: one of :data:`SHAPES`.
        scale: multiplies the sample counts; every split keeps at least one sample of each class.
            Widths and classes stay.
        seed: of everything random.

    Raises:
        ValueError: unknown shape, or a scale that is not positive.

    >>> synthetic("xmedia", scale=0.01).train["audio"].features.shape
    (20, 29)
    """
    check_option("shape", shape, tuple(SHAPES))
    check_positive("scale", scale)
    check_count("seed", seed, least=0)
    classes, modalities = SHAPES[shape]
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, LATENT), np.float32)
    splits: dict[str, Any] = {"train": {}, "validation": {}, "test": {}}
    for modality, (width, *counts) in modalities.items():
        view = random.standard_normal((LATENT, width), np.float32) / np.float32(LATENT**0.5)
        for split, count in zip(splits, counts, strict=True):
            labels = random.permutation(max(classes, round(count * scale))) % classes
            latent = random.standard_normal((len(labels), LATENT), np.float32)
            latent = centres[labels] + np.float32(SPREAD) * latent
            # Not by BLAS, whose sums depend on how many threads it has.
            features = np.einsum("nk,kd->nd", latent, view, optimize=False)
            features += NOISE * random.standard_normal(features.shape, np.float32)
            splits[split][modality] = Labelled(features, labels.astype(np.int64))
    return CrossModalDataset(f"synthetic {shape}", tuple(map(str, range(classes))), **splits)
