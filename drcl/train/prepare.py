"""From what a user gives to samples that can be trained on: once for every way in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drcl.encoder import Encoder
from drcl.labels import Label
from drcl.storage.mmap import MappedRows
from drcl.train.config import Config
from drcl.train.datasets import LoadedSamples
from drcl.train.networks import unwrapped
from drcl.train.phase import Schedule
from drcl.train.samples import Data, Modality, Samples, check_pairs, choose_classes, parse, prepare
from drcl.train.standardize import Moments, Standardizer


class Prepared(NamedTuple):
    """Samples of every modality, standardized where the settings ask for it, and with what.

    ``classes`` are the ids or names in the order of the targets' columns.
    """

    train: dict[str, Modality]
    validation: dict[str, Modality]
    standardizers: dict[str, Standardizer]
    classes: tuple[Label, ...]

    def costs(self, phase: str, config: Config) -> dict[str, float]:
        """Modality -> how many samples a phase sees in all its epochs."""
        return {
            name: len(part.targets) * Schedule.of(phase, name, config).epochs
            for name, part in self.train.items()
        }


def prepare_training(
    train: Mapping[str, Data],
    validation: Mapping[str, Data],
    classes: Iterable[Label] | None,
    config: Config,
    networks: Mapping[str, nn.Module],
) -> Prepared:
    """Checked samples, alike whether they come from arrays, files, a Dataset or a DataLoader.

    Args:
        train, validation: modality -> (features, labels), or a Dataset or DataLoader.
        classes: all of them, in order; None takes the sorted ones that occur in ``train``.
        config: the settings, which must fit the modalities.
        networks: modality -> the user's own network.

    Raises what :meth:`drcl.DRCL.fit` says of its arguments.
    """
    check_pairs(train, "train")
    check_pairs(validation, "validation")
    if not train:
        raise ValueError("train: expected at least one modality, got none")
    unknown = sorted(set(validation) - set(train))
    if unknown:
        raise ValueError(f"validation: expected modalities of {sorted(train)}, got {unknown}")
    config.check_modalities(train)
    integers = {name for name, network in networks.items() if takes_integers(network)}
    parsed = parse(train, "train", config.standardize)
    columns = choose_classes(parsed, classes, config)
    samples = prepare(parsed, columns, "train", integers)
    held_out = prepare(parse(validation, "validation"), columns, "validation", integers)
    for modality, part in held_out.items():
        if modality in networks:  # which may take rows of any shape
            continue
        shape, expected = part.shape[1:], samples[modality].shape[1:]
        if shape != expected:
            raise ValueError(
                f"validation {modality} features: expected rows of shape {tuple(expected)} as in "
                f"train, got {tuple(shape)}"
            )
    standardizers = {}
    if config.standardize:
        for name, part in samples.items():
            standardizers[name] = _moments(part, networks.get(name)).standardizer()
    return Prepared(
        {name: _standardized(part, standardizers.get(name)) for name, part in samples.items()},
        {name: _standardized(part, standardizers.get(name)) for name, part in held_out.items()},
        standardizers,
        columns,
    )


def takes_integers(network: nn.Module) -> bool:
    """Whether a network may be one of token ids: any but the package's own encoder."""
    return not isinstance(unwrapped(network), Encoder)


def _moments(samples: Modality, network: nn.Module | None) -> Moments:
    moments = (
        samples.moments if isinstance(samples, LoadedSamples) else Moments.of(samples.features)
    )
    assert moments is not None
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
        return Samples(replace(features, transform=standardizer.__call__), samples.targets)
    return Samples(standardizer(features), samples.targets)
