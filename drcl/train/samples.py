"""A user's arrays, checked and brought to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.labels import encode_labels
from drcl.train.checkpoint import check_name
from drcl.train.config import Config

Arrays = tuple[npt.ArrayLike, npt.ArrayLike]


class Samples(NamedTuple):
    """One modality: features (N, d) float32 and targets, ids (N,) int64 or rows (N, C) float32."""

    features: Tensor
    targets: Tensor

    def labelled(self) -> Samples:
        """The samples with a label; the others have no part in any loss."""
        known = self.targets >= 0 if self.targets.ndim == 1 else self.targets.sum(dim=1) > 0
        return self if bool(known.all()) else Samples(self.features[known], self.targets[known])


class Standardizer(NamedTuple):
    """Column means and standard deviations (d,); a constant column has deviation 1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Standardizer:
        exact = features.double()
        std = exact.std(dim=0, correction=0)
        return cls(
            exact.mean(dim=0).float(), torch.where(std > 0, std, torch.ones_like(std)).float()
        )

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean.to(features)) / self.std.to(features)


def fit_standardizers(samples: Mapping[str, Samples], config: Config) -> dict[str, Standardizer]:
    """A standardizer per modality if the settings ask for it, else none."""
    if not config.standardize:
        return {}
    return {name: Standardizer.fit(part.features) for name, part in samples.items()}


def standardize(
    samples: Mapping[str, Samples], standardizers: Mapping[str, Standardizer]
) -> dict[str, Samples]:
    """The samples with standardized features, where there is a standardizer."""
    return {
        name: Samples(standardizers[name](part.features), part.targets)
        if name in standardizers
        else part
        for name, part in samples.items()
    }


def check_features(features: npt.ArrayLike, name: str) -> Tensor:
    """Features (N, …) as a finite float32 tensor; the error names the first bad row."""
    tensor = features.detach() if isinstance(features, Tensor) else _from_numpy(features, name)
    if tensor.ndim < 2 or 0 in tensor.shape:
        raise ValueError(
            f"{name}: expected a non-empty array (N, d), got shape {tuple(tensor.shape)}"
        )
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
    tensor = tensor.float()
    finite = tensor.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"{name}: row {row} holds NaN or infinite values (as float32)")
    return tensor.contiguous()


def _from_numpy(features: npt.ArrayLike, name: str) -> Tensor:
    """Any real array (other byte orders, reversed, read-only) as a tensor; float32 unless bool."""
    try:
        array = np.asarray(features)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths ({error})") from error
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, refused later
            array = np.require(array, np.float32, ["C", "W"])
    return torch.from_numpy(array)


def prepare(data: Mapping[str, Arrays], classes: Sequence[int], split: str) -> dict[str, Samples]:
    """Checked samples of every modality; errors name the split and the modality."""
    prepared = {}
    for modality, (features, labels) in data.items():
        where = f"{split} {check_name(modality)}"
        x = check_features(features, f"{where} features")
        y = torch.from_numpy(encode_labels(np.asarray(labels), classes, f"{where} labels"))
        if len(x) != len(y):
            raise ValueError(f"{where}: {len(x)} rows of features but {len(y)} labels")
        samples = Samples(x, y)
        if len(samples.labelled().features) == 0:
            raise ValueError(f"{where}: all {len(x)} samples are unlabelled")
        prepared[modality] = samples
    return prepared
