"""A fingerprint of a data set: what two results must share to be comparable."""

from __future__ import annotations

import hashlib

import numpy as np

from drcl.data.dataset import CrossModalDataset

__all__ = ["fingerprint"]
__dir__ = __all__.copy


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
