"""Training every variant over seeds; each result is stored as soon as it is there.

settings.json                       what the results belong to
priors/seed-0/image.*               learned once per seed, shared by the variants
results/seed-0/full.e7bd4b51.json   mAP of one variant, of which the digits are a digest
results/baselines.json              of the linear baselines, and what they chose
table.csv, .json, .png              the comparison
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from drcl.ablate.table import Row, Table, write_table
from drcl.ablate.variants import VARIANTS, Variant, learn_all_priors, train_variant
from drcl.baselines import cca, semantic_matching
from drcl.checks import check_count, check_installed
from drcl.data import CrossModalDataset, Labelled
from drcl.prior import Prior
from drcl.run.evaluation import Metrics
from drcl.storage import sealed
from drcl.storage.files import is_empty, locked, write_bytes
from drcl.train.config import Config

BASELINES = {"CCA": cca, "semantic matching (logistic regression)": semantic_matching}
FORMAT = 4


def ablate(
    data: CrossModalDataset,
    config: Config,
    folder: Path,
    *,
    seeds: int = 5,
    variants: Sequence[Variant] = VARIANTS,
    resume: bool = False,
    progress: bool = True,
) -> Table:
    """Train every variant with the seeds ``config.seed``, ``config.seed + 1``, … and compare.

    Args:
        data: with validation and test rows.
        config: settings of the full method.
        folder: where results and tables go; it must not exist, or be empty, unless ``resume``.
        seeds: how many.
        variants: what to train, each under a name of its own; the first is what the others are
            compared with.
        resume: use the results that the folder holds; more seeds than before are welcome.
        progress: show a bar with the time that is left.

    Raises:
        ValueError: the folder holds something else, or results of other settings; ``seeds`` < 1;
            two variants have one name.
        BlockingIOError: another process writes in the folder.
        ImportError: scikit-learn or matplotlib is missing.
        NonFiniteLoss: a training diverged; what was finished before is stored.
    """
    seeds = check_count("seeds", seeds)
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"variants: {twice[0]!r} is given twice, expected names that differ")
    refusal = "an ablation needs {}: pip install 'drcl[full]' brings it"
    check_installed(refusal, "matplotlib", "sklearn")
    config.check_modalities(data.modalities)
    with locked(folder):
        study = Study(folder, data, config)
        study.open(resume)
        found, skipped, chosen = study.baselines()
        wanted = range(config.seed, config.seed + seeds)
        missing = [(seed, v) for seed in wanted for v in variants if study.read(seed, v) is None]
        bar = tqdm(missing, desc="ablate", unit="training", disable=None if progress else True)
        for seed, variant in bar:
            bar.set_postfix_str(f"seed {seed}, {variant.name}")
            study.train(seed, variant)
        rows = [Row(v.name, [study.results(seed, v) for seed in wanted], False) for v in variants]
        rows += [Row(name, [metrics], True) for name, metrics in found.items()]
        table = Table(data.name, list(wanted), rows, skipped, chosen)
        write_table(table, folder)
        return table


@dataclass(frozen=True)
class Study:
    """A folder of results that all belong to one data set and one group of settings."""

    folder: Path
    data: CrossModalDataset
    config: Config

    def open(self, resume: bool) -> None:
        """Claim the folder, or check that its results are ours."""
        path = self.folder / "settings.json"
        identity = {
            "format": FORMAT,
            "dataset": self.data.name,
            "samples": {
                split: {name: _identify(part) for name, part in modalities.items()}
                for split, modalities in self.data.splits.items()
            },
            "settings": {k: v for k, v in self.config.to_dict().items() if k != "seed"},
        }
        identity = json.loads(json.dumps(identity))
        if path.is_file():
            if not resume:
                raise ValueError(
                    f"{self.folder}: holds results; --resume uses them, or choose another folder"
                )
            stored = _read_json(path)
            if stored != identity:
                differing = _differing(stored, identity)
                raise ValueError(
                    f"{self.folder}: expected results of these settings, got others ({differing})"
                )
        elif self.folder.exists() and not is_empty(self.folder):
            raise ValueError(
                f"{self.folder}: expected an ablation or an empty folder, got other files"
            )
        else:
            sealed.write_json(path, sealed.with_checksum(identity))

    def read(self, seed: int, variant: Variant) -> Metrics | None:
        """The stored result, or None."""
        path = self._path(seed, variant)
        return _read_json(path) if path.is_file() else None

    def results(self, seed: int, variant: Variant) -> Metrics:
        """The stored result, which must be there."""
        return dict(_read_json(self._path(seed, variant)))

    def train(self, seed: int, variant: Variant) -> None:
        """Train one variant with one seed and store what it reaches."""
        config = replace(self.config, seed=seed)
        metrics = train_variant(variant, self.data, config, self.priors(seed))
        sealed.write_json(self._path(seed, variant), sealed.with_checksum(metrics))

    def priors(self, seed: int) -> dict[str, Prior]:
        """The learned prior of every modality; learned once and stored."""
        folder = self.folder / "priors" / f"seed-{seed}"
        files = {name: folder / f"{name}.safetensors" for name in self.data.modalities}
        if not all(path.is_file() for path in files.values()):
            learned = learn_all_priors(self.data, replace(self.config, seed=seed))
            for name, prior in learned.items():
                write_bytes(files[name], sealed.pack({"weight": prior.weight}, prior.metadata()))
        found = {name: sealed.read_tensors(path) for name, path in files.items()}
        return {name: Prior(tensors["weight"], **about) for name, (tensors, about) in found.items()}

    def baselines(self) -> tuple[dict[str, Metrics], dict[str, str], dict[str, dict[str, str]]]:
        """mAP of the linear baselines, why others are left out, and what they chose."""
        path = self.folder / "results" / "baselines.json"
        if not path.is_file():
            found: dict[str, Any] = {"metrics": {}, "skipped": {}, "chosen": {}}
            for name, function in BASELINES.items():
                try:
                    baseline = function(self.data)
                except ValueError as error:
                    found["skipped"][name] = str(error)
                else:
                    found["metrics"][name] = baseline.metrics
                    found["chosen"][name] = baseline.chosen
            sealed.write_json(path, sealed.with_checksum(found))
        stored = _read_json(path)
        return stored["metrics"], stored["skipped"], stored["chosen"]

    def _path(self, seed: int, variant: Variant) -> Path:
        words = "-".join(re.findall(r"[a-z0-9]+", variant.name.lower()))[:64]
        # Words alone may be those of another variant ("α = 0", "η = 0"), or of this one as it was.
        about = [variant.name, variant.prior, dict(variant.changes)]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        return self.folder / "results" / f"seed-{seed}" / f"{words}.{digest[:8]}.json"


def _identify(part: Labelled) -> list[int | str]:
    """Rows, width and a digest of the content: results of other numbers are not ours either."""
    digest = hashlib.sha256()
    for values in (part.features, part.labels):
        digest.update(values.dtype.str.encode())
        digest.update(np.ascontiguousarray(values).data)
    return [*part.features.shape, digest.hexdigest()[:16]]


def _read_json(path: Path) -> Any:
    try:
        return sealed.without_checksum(sealed.read_json(path), path)
    except ValueError as error:
        raise ValueError(f"{error}; delete it and use --resume") from error


def _differing(stored: Any, ours: dict[str, Any]) -> str:
    if not isinstance(stored, dict) or stored.get("format") != ours["format"]:
        return "format"
    for entry in ("dataset", "samples"):
        if stored.get(entry) != ours[entry]:
            return f"{entry} {stored.get(entry)}, now {ours[entry]}"
    theirs = stored["settings"]
    return ", ".join(
        f"{name} {theirs.get(name)}, now {value}"
        for name, value in ours["settings"].items()
        if theirs.get(name) != value
    )
