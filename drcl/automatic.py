"""``drcl.auto``: a strong model without settings, chosen by cross-validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from drcl.checks import check_positive, check_seed
from drcl.ensemble.calibration import (
    MatrixCalibration,
    fit_matrix,
    fit_temperature,
    log_likelihood,
)
from drcl.ensemble.choice import choose_shares, held_out_logits
from drcl.ensemble.folds import has_mate, held_out_rows, mates_first
from drcl.ensemble.kernel import LANDMARKS, SCALES, KernelClassifier, kernel_fits
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
SOME = 700  # rows on which the features' scaling and the kernel's scale are chosen
JUDGES = 3000  # rows, at most, whose likelihood chooses and calibrates
# Where no row has another of its class, nothing can be learned by leaving it out. What was best on
# five sets with one row a class, judged by all other rows of the training set.
ALONE = {"scale": 0.5, "penalty": 0.1, "temperature": 0.05}
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

    >>> landmarks_within(math.inf, 10**5, 0.5), landmarks_within(30, 2 * 10**4, 0.5)
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


@torch.inference_mode(False)
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

    Each modality is trained alone: kernel ridge regression from its features to its labels, with
    the scale, the penalty and the scaling of features under which the rows are likeliest, each
    predicted by the regression on all the others, and a calibration that is chosen by five folds.
    Where a modality has more rows than the kernel can take (3,000), ensembles of five perceptrons
    are trained as well, each member without one fold: with more and with less dropout, and on the
    unit sphere with the reversible consistency loss and mixed inputs; kernel and perceptrons get
    the shares with the highest likelihood of held-out rows. A row alone in its class says nothing
    when it is held out: where all are, fixed settings are taken. The embedding is the posterior
    ``p(c | x)``, and ``space`` is ``"posterior"``: the score of a pair is
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
    modality and recipe, the ``features`` it was given (as they are or roots; one scale for all
    columns or one for each), the held-out rows' mean ``log_likelihood``, the ``share`` in the model
    and the ``seconds`` it took.

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
    steps = {name: 4 * len(SCALES) + 1 + _epochs(own) for name, own in rows.items()}
    encoders: dict[str, nn.Module] = {}
    tried: list[dict[str, Any]] = []
    with progress_bar(
        total=sum(steps.values()), desc="auto", unit="step", disable=not progress
    ) as bar:
        for index, name in enumerate(rows):
            now = time.perf_counter()
            run = _Run(name, seed, bar, now + (end - now) / (len(rows) - index))
            due = bar.n + steps[name]
            encoder, records = run.fit(_to(rows[name], place))
            bar.update(due - bar.n)  # what there was no time for
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
class _Choice:
    """A scaling by name and a scale of the kernel, and how likely labels are with them."""

    features: str
    scale: float
    log_likelihood: float
    seconds: float


@dataclass(frozen=True)
class _Run:
    """A modality's model, until a time of ``time.perf_counter``."""

    modality: str
    seed: int
    bar: Any
    until: float

    def fit(self, rows: Rows) -> tuple[Ensemble, list[dict[str, Any]]]:
        """The model, and a record of each recipe."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "auto", self.modality))
        order = mates_first(rows.targets, generator)
        scalings = {
            f"{taken}, {of}": Scaling.of(rows.features, root, common)
            for taken, root in (("as they are", False), ("roots", True))
            for of, common in (("one scale", True), ("scale by column", False))
        }
        choices = self._choices(scalings, rows, order[:SOME], generator)
        chosen = max(choices, key=lambda choice: choice.log_likelihood)
        judges = order[:JUDGES]
        judges = judges[has_mate(rows.targets)[judges]]
        scaled = replace(rows, features=scalings[chosen.features](rows.features))
        tried = [self._kernel(scaled, chosen, judges, generator)]
        if len(rows.features) > LANDMARKS:
            tried += self._hidden(scaled, judges)
        shares = choose_shares([one.posteriors for one in tried], rows.targets[judges])
        used = [(one, share) for one, share in zip(tried, shares, strict=True) if share]
        ensemble = Ensemble([one.part for one, _ in used], scalings[chosen.features])
        ensemble.temperatures.copy_(torch.tensor([one.temperature for one, _ in used]))
        ensemble.shares.copy_(torch.tensor([share for _, share in used]))
        records = [
            self._record(
                f"kernel, scale {one.scale:g}", one.features, one.log_likelihood, 0.0, one.seconds
            )
            for one in choices
        ]
        records += [
            self._record(one.recipe, chosen.features, one.log_likelihood, share, one.seconds)
            for one, share in zip(tried, shares, strict=True)
        ]
        return ensemble.eval(), records

    def _choices(
        self, scalings: dict[str, Scaling], rows: Rows, some: Tensor, generator: torch.Generator
    ) -> list[_Choice]:
        """Every scaling and scale on some of the rows, in half of the time."""
        features, targets = rows.features[some], rows.targets[some]
        judges = has_mate(targets).nonzero()[:, 0]
        if not len(judges):
            return [_Choice("as they are, one scale", ALONE["scale"], _chance(targets), 0.0)]
        found: list[_Choice] = []
        half = (time.perf_counter() + self.until) / 2
        for scale, name in product(SCALES, scalings):
            begin = time.perf_counter()
            if found and begin >= half:
                break
            self.bar.set_postfix_str(f"{self.modality}: kernel, scale {scale:g}")
            fits = kernel_fits(scalings[name](features), targets, scale, judges, generator)
            value = max(fit.log_likelihood for fit in fits)
            found.append(_Choice(name, scale, value, time.perf_counter() - begin))
            self.bar.update()
        return found

    def _kernel(
        self, rows: Rows, chosen: _Choice, judges: Tensor, generator: torch.Generator
    ) -> _Tried:
        """The kernel on all rows, calibrated."""
        begin = time.perf_counter()
        self.bar.set_postfix_str(f"{self.modality}: kernel, all rows")
        most = landmarks_within((self.until - begin) / 2, len(rows.features), chosen.seconds)
        fits = kernel_fits(rows.features, rows.targets, chosen.scale, judges, generator, most)
        own = rows.targets[judges]
        if len(judges):
            fit = max(fits, key=lambda fit: fit.log_likelihood)
            folds = rows.held_out[:, judges]
            calibration = fit_matrix(fit.held_out[judges], own, folds, self.until)
            value = float(log_likelihood(calibration.posteriors, own))
        else:
            (fit,) = (fit for fit in fits if fit.penalty == ALONE["penalty"])
            calibration = MatrixCalibration.of_temperature(ALONE["temperature"], own)
            value = _chance(own)
        self.bar.update()
        name = f"kernel, scale {fit.scale:g}, penalty {fit.penalty:g}, calibrated"
        part = KernelClassifier.of(fit, calibration)
        spent = time.perf_counter() - begin
        return _Tried(name, part, 1.0, calibration.posteriors.float(), value, spent)

    def _hidden(self, rows: Rows, judges: Tensor) -> list[_Tried]:
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
            tried.append(self._perceptrons(recipe, rows, judges, (self.until - now) / left))
        return tried

    def _perceptrons(self, recipe: Recipe, rows: Rows, judges: Tensor, seconds: float) -> _Tried:
        begin = time.perf_counter()
        self.bar.set_postfix_str(f"{self.modality}: {recipe.name}")
        members = train_members(
            recipe,
            rows,
            stream_seed(self.seed, "auto", self.modality, recipe.name),
            seconds=seconds,
            tick=self.bar.update,
        )
        own = rows.targets[judges]
        logits = held_out_logits(members, rows.features[judges], rows.held_out[:, judges])
        temperature = fit_temperature(logits, own)
        posteriors = (logits / temperature).softmax(dim=1)
        value = float(log_likelihood(posteriors, own))
        spent = time.perf_counter() - begin
        return _Tried(recipe.name, members, temperature, posteriors, value, spent)

    def _record(
        self, recipe: str, features: str, value: float, share: float, seconds: float
    ) -> dict[str, Any]:
        return {
            "modality": self.modality,
            "features": features,
            "recipe": recipe,
            "log_likelihood": value,
            "share": share,
            "seconds": seconds,
        }


def _chance(targets: Tensor) -> float:
    return -math.log(targets.shape[1])


def _rows(name: str, parts: list[Modality], classes: int, seed: int) -> Rows:
    features, targets = [], []
    for part in parts:
        if not isinstance(part, Samples):
            raise TypeError(f"train {name}: expected (features, labels), got a Dataset or a loader")
        own = part.labelled()
        x = own.features[:]
        if x.ndim != 2:
            shape = tuple(x.shape)
            raise ValueError(f"train {name} features: expected rows (N, d), got shape {shape}")
        features.append(x)
        targets.append(target_rows(own.targets, classes, torch.float32))
    rows, mass = torch.cat(features), torch.cat(targets)
    if len(rows) < 2:
        raise ValueError(f"train {name}: expected two labelled rows or more, got {len(rows)}")
    generator = torch.Generator().manual_seed(stream_seed(seed, "folds"))
    held_out = held_out_rows(mass, min(MEMBERS, len(rows)), generator)
    return Rows(rows, mass / mass.sum(dim=1, keepdim=True), held_out)


def _to(rows: Rows, device: torch.device) -> Rows:
    return Rows(*(part.to(device) for part in (rows.features, rows.targets, rows.held_out)))
