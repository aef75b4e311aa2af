"""``drcl.auto``: a strong model without a setting, chosen by cross-validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from drcl.checks import check_positive, check_seed
from drcl.ensemble.calibration import fit_matrix, fit_temperature, log_likelihood
from drcl.ensemble.choice import choose_shares, held_out_logits
from drcl.ensemble.folds import held_out_rows
from drcl.ensemble.kernel import LANDMARKS, SCALES, KernelClassifier, KernelFit, kernel_fits
from drcl.ensemble.network import Ensemble, Members
from drcl.ensemble.scaling import Scaling
from drcl.ensemble.training import Recipe, Rows, train_members
from drcl.estimator import DRCL
from drcl.labels import Label
from drcl.labels.encoded import target_rows
from drcl.model_files import StoredModel
from drcl.prior import Prior
from drcl.progress import progress_bar
from drcl.train.config import Config, stream_seed
from drcl.train.networks import pick_device
from drcl.train.prepare import prepare_training
from drcl.train.samples import Data, Modality, Samples

__all__ = ["auto"]
__dir__ = __all__.copy

MEMBERS = 5
SOME = 1000  # rows on which roots and scale of the kernel are chosen
# Tried beside the kernel where it has to leave rows out. Of the two, the consistent form of the
# likelier one is tried as well.
HIDDEN = (
    Recipe("hidden, dropout", hidden=512, dropout=0.5, input_dropout=0.3),
    Recipe("hidden, heavy dropout", hidden=512, dropout=0.7, input_dropout=0.7),
)
CONSISTENT = tuple(
    Recipe(
        "consistent, mixed",
        hidden=512,
        dim=64,
        dropout=0.5,
        input_dropout=input_dropout,
        alpha=2.0,
        mix=1.0,
    )
    for input_dropout in (0.3, 0.5)
)
# For 700 rows of 512 features; larger sets need fewer passes, narrower features more.
EPOCHS, ROWS, WIDTH = 60, 700, 512
FEWEST, MOST = 10, 240


def fitted_to(recipe: Recipe, rows: int, width: int) -> Recipe:
    """A hidden recipe for N rows of d features: epochs fall with √N and with d.

    >>> [fitted_to(HIDDEN[0], *shape).epochs for shape in ((700, 512), (2800, 512), (700, 256))]
    [60, 30, 120]
    """
    narrow = WIDTH / width
    share = math.sqrt(ROWS / rows) * max(narrow, math.sqrt(narrow))
    epochs = min(MOST, max(FEWEST, round(EPOCHS * share)))
    return replace(recipe, epochs=epochs, hidden=512 if rows * width < 10**6 else 256)


def landmarks_within(seconds: float, rows: int, step: float) -> int:
    """As many landmarks as can be had in a time, by that of one step on :data:`SOME` rows.

    A step is about 9M³ operations for M landmarks; Nyström takes two such, and 6NM² for products.

    >>> landmarks_within(math.inf, 10**5, 0.5), landmarks_within(10, 2 * 10**4, 0.5)
    (3000, 1000)
    """
    for count in (LANDMARKS, 2000, 1000):
        if step * (2 * count**3 + 2 / 3 * rows * count**2) / SOME**3 <= seconds:
            return count
    return 500


@dataclass(frozen=True)
class _Tried:
    """A part of an ensemble that could be, with the posteriors (N, C) of rows it did not see."""

    recipe: str
    part: Members | KernelClassifier
    temperature: float
    posteriors: Tensor
    log_likelihood: float
    seconds: float


def auto(
    train: Mapping[str, Data],
    validation: Mapping[str, Data] | None = None,
    *,
    classes: Iterable[Label] | None = None,
    seconds: float | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> DRCL:
    """Train a model that needs no settings, ranked by class posteriors.

    Each modality is trained alone: kernel ridge regression from its features to its labels, on the
    features or on their roots, with the scale, the penalty and the roots under which the rows are
    likeliest, each predicted by the regression on all the others, and a calibration that is chosen
    by five folds. Where a modality has more rows than the kernel can take (3,000), ensembles of
    five perceptrons are trained as well, each member without one fold: with more and with less
    dropout, and on the unit sphere with the reversible consistency loss and mixed inputs; kernel
    and perceptrons get the shares with the highest likelihood of the held-out rows. The embedding
    is the posterior ``p(c | x)``, and ``space`` is ``"posterior"``: the score of a pair is
    ``Σ_c p(c | query) p(c | item)``, the probability that the two are of one class.

    Args:
        train: modality -> (features, labels), as for :meth:`DRCL.fit`; features must fit in memory.
        validation: further labelled rows of some or all modalities. They are used like those of
            ``train``, to learn from and to choose by.
        classes: as for :meth:`DRCL.fit`.
        seconds: about how long training may take. One scale of the kernel is always tried, then
            others and perceptrons of fewer epochs while there is time. None: as long as it takes.
        seed: of folds, of the rows that are chosen by, and of all that perceptrons draw.
        device: as in :class:`drcl.Config`.
        progress: show a bar.

    Returns a :class:`DRCL` whose prior is the identity, one column a class. It keeps up to 3,000
    training rows of each modality, which its kernel compares with. Its ``tried`` says, for each
    modality and recipe, the ``features`` it was given (as they are, or roots), the held-out rows'
    mean ``log_likelihood``, the ``share`` in the model and the ``seconds`` it took.

    Raises what :meth:`DRCL.fit` raises for its data, TypeError for a Dataset or DataLoader, and
    ValueError for fewer than two labelled rows of a modality or ``seconds`` that are not positive.

    >>> y = torch.arange(60) % 3
    >>> part = {"image": (torch.eye(3)[y], y), "text": (torch.eye(5)[y], y)}
    >>> model = auto(part, seconds=1, progress=False)
    >>> model.evaluate(part, ks=())["mAP@all"]["mean"]
    1.0
    """
    seed = check_seed(seed)
    if seconds is not None:
        seconds = check_positive("seconds", seconds)
    config = Config(prior="orthogonal", space="posterior", seed=seed, device=device)
    data = prepare_training(train, validation or {}, classes, config, {})
    held_out, place = data.validation, pick_device(config.device)
    width = len(data.classes)
    rows = {
        name: _rows(name, [part, *([held_out[name]] if name in held_out else [])], width, seed)
        for name, part in data.train.items()
    }
    end = math.inf if seconds is None else time.perf_counter() + seconds
    total = sum(2 * len(SCALES) + 1 + _epochs(own) for own in rows.values())
    encoders: dict[str, nn.Module] = {}
    tried: list[dict[str, Any]] = []
    with progress_bar(total=total, desc="auto", unit="step", disable=not progress) as bar:
        for index, name in enumerate(rows):
            now = time.perf_counter()
            run = _Run(name, seed, bar, now + (end - now) / (len(rows) - index))
            encoder, records = run.fit(_to(rows[name], place))
            encoders[name] = encoder.cpu()
            tried += records
    config = replace(config, dim=width)
    model = DRCL(config)
    prior = Prior(torch.eye(width), classes=data.classes)
    model._adopt(
        StoredModel(
            config,
            prior,
            encoders,
            standardizers={},  # ensembles scale their features themselves
            history=[],
            space="posterior",
            temperatures=dict.fromkeys(encoders, 1.0),  # ensembles are calibrated within
            tried=tried,
        )
    )
    return model


def _epochs(rows: Rows) -> int:
    """Of all perceptrons together."""
    recipe = fitted_to(CONSISTENT[0], *rows.features.shape)
    return (len(HIDDEN) + 1) * recipe.epochs if len(rows.features) > LANDMARKS else 0


@dataclass(frozen=True)
class _Run:
    """A modality's model, until a time of ``time.perf_counter``."""

    modality: str
    seed: int
    bar: Any
    until: float

    def fit(self, rows: Rows) -> tuple[Ensemble, list[dict[str, Any]]]:
        """The model, and a record of each recipe."""
        scaling, tried, records = self._kernel(rows)
        if len(rows.features) > LANDMARKS:
            tried += self._hidden(replace(rows, features=scaling(rows.features)))
        shares = choose_shares([one.posteriors for one in tried], rows.targets)
        used = [(one, share) for one, share in zip(tried, shares, strict=True) if share]
        ensemble = Ensemble([one.part for one, _ in used], scaling)
        ensemble.temperatures.copy_(torch.tensor([one.temperature for one, _ in used]))
        ensemble.shares.copy_(torch.tensor([share for _, share in used]))
        records += [
            self._record(one.recipe, scaling.root, one.log_likelihood, share, one.seconds)
            for one, share in zip(tried, shares, strict=True)
        ]
        return ensemble.eval(), records

    def _kernel(self, rows: Rows) -> tuple[Scaling, list[_Tried], list[dict[str, Any]]]:
        """The kernel on all rows, with the roots and the scale that suit some of them best, and
        a record of the others."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "auto", self.modality))
        some = torch.randperm(len(rows.features), generator=generator)[:SOME]
        some = some.to(rows.features.device)
        scalings = [Scaling.of(rows.features, root) for root in (False, True)]
        found: list[tuple[float, float, Scaling]] = []
        records = []
        for scale, scaling in product(SCALES, scalings):
            begin = time.perf_counter()
            if found and begin >= self.until:
                break
            name = f"kernel, scale {scale:g}"
            self.bar.set_postfix_str(f"{self.modality}: {name}")
            value = _likeliest(
                kernel_fits(scaling(rows.features[some]), rows.targets[some], scale, generator)
            ).log_likelihood
            found.append((value, scale, scaling))
            records.append(
                self._record(name, scaling.root, value, 0.0, time.perf_counter() - begin)
            )
            self.bar.update()
        begin = time.perf_counter()
        _, scale, scaling = max(found, key=itemgetter(0))
        step = min(record["seconds"] for record in records)
        most = landmarks_within((self.until - begin) / 2, len(rows.features), step)
        fit = _likeliest(kernel_fits(scaling(rows.features), rows.targets, scale, generator, most))
        calibration = fit_matrix(fit.held_out, rows.targets, rows.held_out)
        value = float(log_likelihood(calibration.posteriors, rows.targets))
        name = f"kernel, scale {scale:g}, penalty {fit.penalty:g}, calibrated"
        self.bar.update()
        part = KernelClassifier.of(fit, calibration)
        posteriors = calibration.posteriors.float()
        spent = time.perf_counter() - begin
        return scaling, [_Tried(name, part, 1.0, posteriors, value, spent)], records

    def _hidden(self, rows: Rows) -> list[_Tried]:
        """The hidden recipes and the consistent form of the likelier one, while there is time."""
        tried: list[_Tried] = []
        for left in range(len(HIDDEN) + 1, 0, -1):
            now = time.perf_counter()
            if now >= self.until:
                break
            if left > 1:
                recipe = HIDDEN[len(tried)]
            else:
                values = [one.log_likelihood for one in tried]
                recipe = CONSISTENT[values.index(max(values))]
            recipe = fitted_to(recipe, *rows.features.shape)
            tried.append(self._perceptrons(recipe, rows, (self.until - now) / left))
        return tried

    def _perceptrons(self, recipe: Recipe, rows: Rows, seconds: float) -> _Tried:
        begin = time.perf_counter()
        self.bar.set_postfix_str(f"{self.modality}: {recipe.name}")
        members = train_members(
            recipe,
            rows,
            stream_seed(self.seed, "auto", self.modality, recipe.name),
            seconds=seconds,
            tick=self.bar.update,
        )
        logits = held_out_logits(members, rows.features, rows.held_out)
        temperature = fit_temperature(logits, rows.targets)
        posteriors = (logits / temperature).softmax(dim=1)
        value = float(log_likelihood(posteriors, rows.targets))
        spent = time.perf_counter() - begin
        return _Tried(recipe.name, members, temperature, posteriors, value, spent)

    def _record(
        self, recipe: str, root: bool, value: float, share: float, seconds: float
    ) -> dict[str, Any]:
        return {
            "modality": self.modality,
            "features": "roots" if root else "as they are",
            "recipe": recipe,
            "log_likelihood": value,
            "share": share,
            "seconds": seconds,
        }


def _likeliest(fits: Iterable[KernelFit]) -> KernelFit:
    return max(fits, key=lambda fit: fit.log_likelihood)


def _rows(name: str, parts: list[Modality], classes: int, seed: int) -> Rows:
    features, targets = [], []
    for part in parts:
        if not isinstance(part, Samples):
            raise TypeError(f"train {name}: expected (features, labels), got a Dataset or a loader")
        own = part.labelled()
        features.append(own.features[:])
        targets.append(target_rows(own.targets, classes, torch.float32))
    rows, mass = torch.cat(features), torch.cat(targets)
    if len(rows) < 2:
        raise ValueError(f"train {name}: expected two labelled rows or more, got {len(rows)}")
    generator = torch.Generator().manual_seed(stream_seed(seed, "folds"))
    held_out = held_out_rows(mass, min(MEMBERS, len(rows)), generator)
    return Rows(rows, mass / mass.sum(dim=1, keepdim=True), held_out)


def _to(rows: Rows, device: torch.device) -> Rows:
    return Rows(*(part.to(device) for part in (rows.features, rows.targets, rows.held_out)))
