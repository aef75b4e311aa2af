"""From what a user gives to samples that can be trained on: once for every way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drcl.encoder import Encoder
from drcl.labels import Label
from drcl.storage.mmap import MappedRows
from drcl.train.config import Config
from drcl.train.datasets import LoadedSamples
from drcl.train.networks import unwrapped
from drcl.train.samples import Data, Labelled, Modality, Samples, prepare, with_labels
from drcl.train.standardize import Moments, Standardizer, in_chunks


class Prepared(NamedTuple):
    """Samples of every modality, standardized where the settings ask for it, and with what."""

    train: dict[str, Modality]
    validation: dict[str, Modality]
    standardizers: dict[str, Standardizer]


def prepare_training(
    train: Mapping[str, Data | Labelled],
    validation: Mapping[str, Data],
    classes: tuple[Label, ...],
    config: Config,
    networks: Mapping[str, nn.Module],
) -> Prepared:
    """Checked samples, alike whether they come from arrays, files, a Dataset or a DataLoader."""
    integers = {name for name, network in networks.items() if takes_integers(network)}
    samples = prepare(with_labels(train, "train", config.standardize), classes, "train", integers)
    held_out = prepare(validation, classes, "validation", integers)
    for modality, part in held_out.items():
        # A network of the user's own may take any.
        if modality in networks or modality not in samples:
            continue
        shape, expected = part.shape[1:], samples[modality].shape[1:]
        if shape != expected:
            raise ValueError(
                f"validation {modality} features: rows of shape {tuple(shape)}, expected "
                f"{tuple(expected)} as in train"
            )
    standardizers = {}
    if config.standardize:
        for name, part in samples.items():
            standardizers[name] = _moments(part, networks.get(name)).standardizer()
    return Prepared(
        {name: _standardized(part, standardizers.get(name)) for name, part in samples.items()},
        {name: _standardized(part, standardizers.get(name)) for name, part in held_out.items()},
        standardizers,
    )


def takes_integers(network: nn.Module) -> bool:
    """Whether a network may be one of token ids: any but the package's own encoder."""
    return not isinstance(unwrapped(network), Encoder)


def _moments(samples: Modality, network: nn.Module | None) -> Moments:
    if isinstance(samples, LoadedSamples):
        assert samples.moments is not None
        moments = samples.moments
    else:
        moments = Moments("features")
        for chunk in in_chunks(samples.features):
            moments.add(chunk)
    # Processes that train one network on samples of their own have to see one scale.
    if isinstance(network, DistributedDataParallel):
        return moments.over(network.process_group)
    return moments


def _standardized(samples: Modality, standardizer: Standardizer | None) -> Modality:
    if standardizer is None:
        return samples
    if isinstance(samples, LoadedSamples):
        return samples._replace(standardizer=standardizer)
    features = samples.features
    if isinstance(features, MappedRows):
        return Samples(features.transformed(standardizer.__call__), samples.targets)
    return Samples(standardizer(features), samples.targets)
