"""``drcl.auto``: a strong model without a setting, chosen by cross-validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from drcl.checks import check_positive, check_seed
from drcl.ensemble.choice import choose_shares, fit_temperature, held_out_logits, log_likelihood
from drcl.ensemble.folds import held_out_rows
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
# Seconds together, so they are tried whatever the time allowed.
LINEAR = tuple(Recipe(f"linear, penalty {p:g}", penalty=p) for p in (0.1, 0.03, 0.01, 0.003, 0.001))
# Of the two, the consistent form of the likelier one is tried as well.
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


@dataclass(frozen=True)
class _Tried:
    recipe: Recipe
    members: Members
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
    """Train a model that needs no settings: an ensemble per modality, ranked by class posteriors.

    Each modality is trained alone. Its rows are dealt into five folds; every recipe trains five
    members, each without one fold, as one batched network. On the rows held out of them, the
    members' posteriors are calibrated (temperature scaling). The recipes are logistic regression
    with several penalties, on features and on their roots; then, on what suited these better,
    perceptrons with more and with less dropout, and perceptrons on the unit sphere trained with the
    reversible consistency loss and mixed inputs. They get the shares with the highest likelihood
    of the held-out rows (ensemble selection). The embedding is the ensemble's posterior
    ``p(c | x)``, and ``space`` is ``"posterior"``: the score of a pair is
    ``Σ_c p(c | query) p(c | item)``, the probability that the two are of one class.

    Args:
        train: modality -> (features, labels), as for :meth:`DRCL.fit`; features must fit in memory.
        validation: further labelled rows of some or all modalities. They are used like those of
            ``train``: held out of one member, seen by the others.
        classes: as for :meth:`DRCL.fit`.
        seconds: about how long training may take; epochs are saved first, then recipes. The linear
            recipes are always tried. None: as long as it takes.
        seed: of folds, weights, batches, dropout and mixing.
        device: as in :class:`drcl.Config`.
        progress: show a bar.

    Returns a :class:`DRCL` whose prior is the identity, one column a class. Its ``tried`` says, for
    each modality and recipe, the ``features`` it was given (as they are, or roots), the held-out
    rows' mean ``log_likelihood``, the ``temperature``, the ``share`` in the ensemble and the
    ``seconds`` it took.

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
    epochs = sum(fitted_to(CONSISTENT[0], *own.features.shape).epochs for own in rows.values())
    total = 2 * len(LINEAR) * len(rows) + (len(HIDDEN) + 1) * epochs
    encoders: dict[str, nn.Module] = {}
    tried: list[dict[str, Any]] = []
    with progress_bar(total=total, desc="auto", unit="epoch", disable=not progress) as bar:
        runs = {name: _Run(name, seed, bar) for name in rows}
        started = {name: _linear(run, _to(rows[name], place)) for name, run in runs.items()}
        for index, (name, (scaling, own, candidates)) in enumerate(started.items()):
            now = time.perf_counter()
            until = now + (end - now) / (len(rows) - index)
            candidates += _hidden(runs[name], own, until)
            encoder, records = _chosen(name, scaling, candidates, own.targets)
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


@dataclass(frozen=True)
class _Run:
    """What trying a recipe needs beside recipe and rows."""

    modality: str
    seed: int
    bar: Any

    def attempt(self, recipe: Recipe, rows: Rows, seconds: float = math.inf) -> _Tried:
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
        return _Tried(recipe, members, temperature, posteriors, value, spent)


def _linear(run: _Run, rows: Rows) -> tuple[Scaling, Rows, list[_Tried]]:
    """The linear recipes on features and on their roots: what suits them better, the hidden ones
    take too. With the scaling, the rows scaled, and all that was tried on them."""
    found = []
    for root in (False, True):
        scaling = Scaling.of(rows.features, root)
        scaled = replace(rows, features=scaling(rows.features))
        tried = [run.attempt(recipe, scaled) for recipe in LINEAR]
        found.append((scaling, scaled, tried))
    return max(found, key=lambda one: max(tried.log_likelihood for tried in one[2]))


def _hidden(run: _Run, rows: Rows, until: float) -> list[_Tried]:
    """The hidden recipes and the consistent form of the likelier one, while there is time."""
    tried: list[_Tried] = []
    for left in range(len(HIDDEN) + 1, 0, -1):
        now = time.perf_counter()
        if now >= until:
            break
        if left > 1:
            recipe = HIDDEN[len(tried)]
        else:
            values = [one.log_likelihood for one in tried]
            recipe = CONSISTENT[values.index(max(values))]
        recipe = fitted_to(recipe, *rows.features.shape)
        tried.append(run.attempt(recipe, rows, (until - now) / left))
    return tried


def _chosen(
    name: str, scaling: Scaling, tried: Sequence[_Tried], targets: Tensor
) -> tuple[Ensemble, list[dict[str, Any]]]:
    """The ensemble of highest likelihood, and a record of each recipe."""
    shares = choose_shares([one.posteriors for one in tried], targets)
    used = [(one, share) for one, share in zip(tried, shares, strict=True) if share]
    ensemble = Ensemble([one.members for one, _ in used], scaling)
    ensemble.temperatures.copy_(torch.tensor([one.temperature for one, _ in used]))
    ensemble.shares.copy_(torch.tensor([share for _, share in used]))
    records: list[dict[str, Any]] = [
        {
            "modality": name,
            "features": "roots" if scaling.root else "as they are",
            "recipe": one.recipe.name,
            "log_likelihood": one.log_likelihood,
            "temperature": one.temperature,
            "share": share,
            "seconds": one.seconds,
        }
        for one, share in zip(tried, shares, strict=True)
    ]
    return ensemble.eval(), records


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
