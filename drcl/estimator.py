"""DRCL as one object: fit, encode, evaluate, search, add a modality, save, load."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from drcl import metrics
from drcl.duplicates import equal_rows
from drcl.encoder import normalize
from drcl.labels import encode_labels, find_classes
from drcl.model_files import read_model, write_model
from drcl.prior import Prior
from drcl.train.config import Config
from drcl.train.consistency import train_encoder
from drcl.train.loop import stream_seed
from drcl.train.networks import apply_in_chunks, build_network, pick_device
from drcl.train.prior_learning import best_prior, learn_priors
from drcl.train.samples import (
    Arrays,
    Samples,
    Standardizer,
    check_features,
    fit_standardizers,
    prepare,
    standardize,
)


class SearchResult(NamedTuple):
    """Cosines (Q, k), falling, and positions in the gallery (Q, k) int64."""

    scores: Tensor
    indices: Tensor


class DRCL:
    """Deep Reversible Consistency Learning over any number of modalities.

    Args:
        config: the settings; the default is the paper's.
        networks: modality -> ``nn.Module`` with output (B, dim), instead of the perceptron
        encoder. The
            module given is a template: each phase trains a copy.
        settings: single settings of :class:`Config`, on top of ``config``.

    Features are (N, d) arrays or tensors; labels are integer class ids (any integers, −1 for
    unlabelled) or multi-hot rows (N, C). Modalities need not be paired or of one size.

    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> image, text = rng.normal(size=(60, 8)) + y[:, None], rng.normal(size=(60, 5)) - y[:, None]
    >>> model = DRCL(dim=16, hidden=(32,), epochs=5, prior_epochs=5)
    >>> model = model.fit({"image": (image, y), "text": (text, y)}, progress=False)
    >>> sorted(model.evaluate({"image": (image, y), "text": (text, y)}))
    ['mAP@50', 'mAP@all']
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        networks: Mapping[str, nn.Module] | None = None,
        **settings: Any,
    ) -> None:
        self.config = dataclasses.replace(config or Config(), **settings)
        self.networks = dict(networks or {})
        self.encoders: dict[str, nn.Module] = {}
        self.standardizers: dict[str, Standardizer] = {}
        self.history: list[dict[str, Any]] = []
        self._prior: Prior | None = None

    @property
    def prior(self) -> Prior:
        """The prior that all encoders were trained against."""
        if self._prior is None:
            raise RuntimeError("this DRCL has no prior yet: call fit() first, or DRCL.load()")
        return self._prior

    @property
    def classes(self) -> tuple[int, ...]:
        """The class labels, in the order of the prior's columns."""
        return self.prior.classes

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities with a trained encoder."""
        return tuple(self.encoders)

    def fit(
        self,
        train: Mapping[str, Arrays],
        validation: Mapping[str, Arrays] | None = None,
        *,
        prior: Prior | None = None,
        checkpoints: str | Path | None = None,
        progress: bool = True,
    ) -> DRCL:
        """Select the prior, then train every modality's encoder against it.

        Args:
            train: modality -> (features, labels), one modality or more.
            validation: the same for some or all modalities; without it the last epoch is kept.
            prior: use this prior and skip prior learning.
            checkpoints: a folder; a run that was interrupted continues from what it finds there and
                ends as it would have. It must have been written with the same settings and data.
            progress: show a bar per phase and modality.

        Raises ValueError for non-finite features, lengths that differ, labels outside the classes,
        fewer than two classes, per-modality settings that do not fit the modalities;
        :class:`NonFiniteLoss` when training diverges.
        """
        if not train:
            raise ValueError("train: no modality given")
        validation = validation or {}
        unknown = sorted(set(validation) - set(train))
        if unknown:
            raise ValueError(f"validation: modalities {unknown} are not in train {sorted(train)}")
        self.config.check_modalities(train)
        classes = (
            find_classes([np.asarray(labels) for _, labels in train.values()])
            if prior is None
            else prior.classes
        )
        if len(classes) < 2:
            raise ValueError(f"train: needs at least two classes, got {list(classes)}")
        if prior is not None and prior.dim != self.config.dim:
            raise ValueError(f"prior: has dimension {prior.dim}, but dim is {self.config.dim}")
        strangers = sorted(set(self.networks) - set(train))
        if strangers:
            raise ValueError(
                f"networks: given for {strangers}, which are not in train {sorted(train)}"
            )
        if self.config.dim < len(classes):
            raise ValueError(
                f"dim: {self.config.dim} is below the number of classes ({len(classes)}); the "
                "prior needs a direction for each"
            )
        samples = prepare(train, classes, "train")
        held_out = prepare(validation, classes, "validation")
        standardizers = fit_standardizers(samples, self.config)
        samples = standardize(samples, standardizers)
        held_out = standardize(held_out, standardizers)
        folder = None if checkpoints is None else Path(checkpoints)
        history: list[dict[str, Any]] = []
        if prior is None:
            prior, history = self._choose_prior(samples, held_out, classes, folder, progress)
        encoders = {}
        for modality in samples:
            encoders[modality], records = self._train(
                modality, samples, held_out, prior, self.config, self.networks, folder, progress
            )
            history += records
        # Only now, with nothing left that can fail, does the model change.
        self._prior, self.encoders = prior, encoders
        self.standardizers, self.history = standardizers, history
        return self

    def add_modality(
        self,
        name: str,
        train: Arrays,
        validation: Arrays | None = None,
        *,
        network: nn.Module | None = None,
        checkpoints: str | Path | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> DRCL:
        """Train a further modality against the existing prior; the other encoders stay as they are.

        Args:
            name: of the new modality.
            train, validation: (features, labels), with labels among :attr:`classes`.
            network, checkpoints, progress: as in :meth:`fit`.
            settings: settings of :class:`Config` for this modality only.
        """
        if name in self.encoders:
            raise ValueError(f"name: modality {name!r} exists already, next to {self.modalities}")
        config = dataclasses.replace(self.config.for_modality(name), **settings)
        if config.dim != self.prior.dim:
            raise ValueError(f"dim: {config.dim}, but the prior has dimension {self.prior.dim}")
        samples = prepare({name: train}, self.classes, "train")
        held_out = prepare({name: validation} if validation else {}, self.classes, "validation")
        standardizers = fit_standardizers(samples, config)
        networks = {**self.networks, **({name: network} if network is not None else {})}
        encoder, history = self._train(
            name,
            standardize(samples, standardizers),
            standardize(held_out, standardizers),
            self.prior,
            config,
            networks,
            None if checkpoints is None else Path(checkpoints),
            progress,
        )
        # Only now, with nothing left that can fail, does the model change.
        self.networks, self.encoders[name] = networks, encoder
        self.standardizers |= standardizers
        self.history += history
        return self

    def encode(self, modality: str, features: npt.ArrayLike | Tensor) -> Tensor:
        """Embeddings (N, dim) float32 on the CPU, rows of unit length."""
        network = self._encoder(modality)
        x = check_features(features, f"{modality} features")
        width = getattr(network, "in_features", x.shape[1])
        if x.shape[1] != width:
            raise ValueError(f"{modality} features: width {x.shape[1]}, expected {width}")
        if modality in self.standardizers:
            x = self.standardizers[modality](x)
        device = pick_device(self.config.device)
        network.to(device)
        chunks = [
            apply_in_chunks(network, part.to(device)).float().cpu() for part in x.split(65536)
        ]
        return normalize(torch.cat(chunks))

    def evaluate(
        self,
        test: Mapping[str, Arrays],
        *,
        ks: Sequence[int] = (50,),
        no_relevant: str = "zero",
    ) -> dict[str, dict[str, float]]:
        """mAP@all and mAP@k of every ordered pair; see :func:`metrics.retrieval_report`."""
        embeddings = {
            name: (
                self.encode(name, features),
                encode_labels(np.asarray(labels), self.classes, f"test {name} labels"),
            )
            for name, (features, labels) in test.items()
        }
        return metrics.retrieval_report(embeddings, ks=ks, no_relevant=no_relevant)

    def search(
        self,
        source: str,
        queries: npt.ArrayLike | Tensor,
        target: str,
        gallery: npt.ArrayLike | Tensor,
        *,
        k: int = 10,
    ) -> SearchResult:
        """The k nearest items of another modality by cosine, ties by gallery index.

        Args:
            source, queries: the queries' modality and features (Q, d).
            target, gallery: the gallery's modality and features (N, d').
            k: how many; above N it means N.
        """
        if k < 1:
            raise ValueError(f"k: expected an integer >= 1, got {k}")
        found, items = self.encode(source, queries), self.encode(target, gallery)
        parts = []
        copies, firsts = equal_rows(
            lambda start, stop: items[start:stop], items.__getitem__, *items.shape
        )
        for block in found.split(max(1, 2**24 // len(items))):
            scores = block @ items.T
            scores[:, copies] = scores[:, firsts]
            parts.append(scores.sort(dim=1, descending=True, stable=True))
        return SearchResult(
            torch.cat([part.values[:, :k] for part in parts]),
            torch.cat([part.indices[:, :k] for part in parts]),
        )

    def save(self, folder: str | Path) -> Path:
        """Write prior, encoders and settings as safetensors and JSON; returns the folder.

        Saving over an older model replaces it in one step: at any moment the folder holds one whole
        model. User-supplied networks are stored as parameters; give the modules again to
        :meth:`load`.
        """
        return write_model(Path(folder), self)

    @classmethod
    def load(cls, folder: str | Path, *, networks: Mapping[str, nn.Module] | None = None) -> DRCL:
        """Read a model that :meth:`save` or ``drcl train`` wrote."""
        stored = read_model(Path(folder), networks or {})
        model = cls(stored.config, networks=networks)
        model._prior, model.encoders = stored.prior, stored.encoders
        model.standardizers, model.history = stored.standardizers, stored.history
        return model

    def _choose_prior(
        self,
        samples: dict[str, Samples],
        held_out: dict[str, Samples],
        classes: tuple[int, ...],
        folder: Path | None,
        progress: bool,
    ) -> tuple[Prior, list[dict[str, Any]]]:
        config = self.config
        if config.prior == "orthogonal":
            start = Prior.orthogonal(
                config.dim, len(classes), seed=stream_seed(config.seed, "prior")
            )
            return Prior(start.weight * (config.prior_norm or 1.0), classes=classes), []
        priors, history = learn_priors(
            samples,
            held_out,
            classes,
            config,
            networks=self.networks,
            checkpoints=folder,
            progress=progress,
        )
        return best_prior(priors, config), history

    def _train(
        self,
        modality: str,
        samples: dict[str, Samples],
        held_out: dict[str, Samples],
        prior: Prior,
        config: Config,
        networks: Mapping[str, nn.Module],
        folder: Path | None,
        progress: bool,
    ) -> tuple[nn.Module, list[dict[str, Any]]]:
        network = build_network(modality, samples[modality], networks, config, "encoder")
        outcome = train_encoder(
            modality,
            network,
            samples[modality],
            held_out.get(modality),
            prior,
            config,
            checkpoints=folder,
            progress=progress,
        )
        network.load_state_dict(outcome.state)
        return network.eval(), outcome.history

    def _encoder(self, modality: str) -> nn.Module:
        if modality not in self.encoders:
            raise ValueError(f"modality: {modality!r} is not one of {self.modalities}")
        return self.encoders[modality]
