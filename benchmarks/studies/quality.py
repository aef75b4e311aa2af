"""Does the fast training reach what the formulas reach? mAP of both, several seeds.

    DRCL_DATA=... python -m drcl.benchmarks.studies.quality --out

On each data set every seed is trained three times: by ``DRCL.fit`` in float32 and in bfloat16, and
by a plain loop written out below, in which autograd differentiates the literal formulas of
``drcl.reference`` and ``torch.optim.Adam`` updates. All three start from the same weights and draw
the same batches and permutations, so what differs is arithmetic only; chaos does the rest, which is
why means are compared. The means of five seeds should agree within one standard error, and bfloat16
within 0.005.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per core

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drcl import DRCL, Config, Prior, metrics, reference
from drcl.benchmarks.suite.timing import write_results
from drcl.data import CrossModalDataset, load
from drcl.data.dataset import Labelled
from drcl.train.config import PRESETS, setting, stream_seed
from drcl.train.networks import build_network
from drcl.train.phase import schedule_q
from drcl.train.samples import Samples

FORMS = ("float32", "reference", "bf16")
SETS = {"uci": "uci", "wikipedia": "wikipedia-raw"}  # name -> preset


class Literal:
    """DRCL as the formulas have it, one statement after the other; settings from a Config."""

    def __init__(self, data: CrossModalDataset, config: Config) -> None:
        self.config, self.count = config, len(data.classes)
        if config.standardize or config.paper_compat or config.prior != "learned":
            raise ValueError("the plain loop has no standardize, paper_compat or orthogonal prior")
        self.train = {name: self._tensors(part) for name, part in data.train.items()}
        self.validation = {name: self._tensors(part) for name, part in data.validation.items()}
        self.test = {name: self._tensors(part) for name, part in data.test.items()}

    def _tensors(self, part: Labelled) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(part.labels)
        return torch.from_numpy(part.features), nnf.one_hot(labels, self.count).float()

    def fit(self) -> dict[str, float]:
        """mAP@all on the test split."""
        learned = [self.learn_prior(name) for name in self.train]
        _, weight = max(learned, key=lambda pair: pair[0])
        if self.config.prior_norm is not None:
            weight = Prior(weight).scaled(self.config.prior_norm).weight
        embeddings = {}
        for name in self.train:
            encoder = self.train_encoder(name, weight)
            features, labels = self.test[name]
            with torch.inference_mode():
                embeddings[name] = encoder(features), labels
        return metrics.retrieval_report(embeddings)["mAP@all"]

    def learn_prior(self, name: str) -> tuple[float, Tensor]:
        """The best score and its W."""
        config, (features, labels) = self.config, self.train[name]
        seed = stream_seed(config.seed, "prior")
        start = Prior.orthogonal(config.dim, self.count, seed=seed).weight
        encoder, weight = self._encoder(name, "prior"), nn.Parameter(start.clone())
        optimizer = self._adam([*encoder.parameters(), weight], setting(config.prior_lr, name))
        best = -math.inf, start
        for epoch, generator in self._epochs("prior", name, setting(config.prior_epochs, name)):
            for rows in self._batches(name, generator):
                logits = encoder(features[rows]) @ weight / config.temperature
                loss = reference.generalized_cross_entropy(logits, labels[rows], schedule_q(epoch))
                self._update(optimizer, loss)
            with torch.inference_mode():
                logits = encoder(features) @ weight / config.temperature
                score = float((logits.softmax(dim=1) * labels).sum(dim=1).mean())
            if score > best[0]:
                best = score, weight.detach().clone()
        return best

    def train_encoder(self, name: str, weight: Tensor) -> nn.Module:
        """The encoder of the epoch with the best validation mAP."""
        config, (features, labels) = self.config, self.train[name]
        encoder = self._encoder(name, "encoder")
        optimizer = self._adam(list(encoder.parameters()), setting(config.lr, name))
        best, kept = -math.inf, encoder
        for epoch, generator in self._epochs("encoder", name, setting(config.epochs, name)):
            for rows in self._batches(name, generator):
                partner = torch.randperm(len(rows), generator=generator)
                x, y = encoder(features[rows]), labels[rows]
                x = config.lam * x + (1 - config.lam) * x[partner]
                y = config.lam * y + (1 - config.lam) * y[partner]
                loss, *_ = reference.reversible_consistency(
                    x,
                    y,
                    weight,
                    q=schedule_q(epoch),
                    alpha=config.alpha,
                    beta=config.beta,
                    eta=config.eta,
                    temperature=config.temperature,
                )
                self._update(optimizer, loss)
            held_out, targets = self.validation[name]
            with torch.inference_mode():
                rows = encoder(held_out)
            found = metrics.mean_average_precision(rows, rows, targets, targets, exclude_self=True)
            if found > best:
                best, kept = found, copy.deepcopy(encoder)
        return kept

    def _encoder(self, name: str, phase: str) -> nn.Module:
        return build_network(name, Samples(*self.train[name]), {}, self.config, phase)

    def _adam(self, parameters: list[nn.Parameter], lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.999))

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _epochs(self, phase: str, name: str, count: int) -> Iterator[tuple[int, torch.Generator]]:
        seed = stream_seed(self.config.seed, phase, name)
        generator = torch.Generator().manual_seed(seed)
        return ((epoch, generator) for epoch in range(count))

    def _batches(self, name: str, generator: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(self.train[name][0]), generator=generator)
        yield from order.split(setting(self.config.batch_size, name))


def reach(dataset: str, seed: int, form: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The mean mAP@all that one form of the training reaches with one seed."""
    torch.set_num_threads(1)
    data = load(dataset)
    config = PRESETS[SETS[dataset]]
    settings = {**config.to_dict(), **changes, "seed": seed, "device": "cpu"}
    config = Config.from_dict(settings | {"precision": "bf16" if form == "bf16" else "float32"})
    began = time.perf_counter()
    if form == "reference":
        found = Literal(data, config).fit()
    else:
        model = DRCL(config).fit(data.train, data.validation, progress=False)
        found = model.evaluate(data.test)["mAP@all"]
    return {
        "dataset": dataset,
        "seed": seed,
        "form": form,
        "mAP@all": found["mean"],
        "seconds": time.perf_counter() - began,
    }


def compare(rows: list[dict[str, Any]], dataset: str) -> list[dict[str, Any]]:
    """Mean and standard error of each form, and how far it is from the reference."""
    reached = {
        form: {
            r["seed"]: r["mAP@all"] for r in rows if (r["dataset"], r["form"]) == (dataset, form)
        }
        for form in FORMS
    }
    seeds = sorted(set.intersection(*(set(values) for values in reached.values())))
    found: list[dict[str, Any]] = []
    for form in FORMS if len(seeds) > 1 else ():
        values = [reached[form][seed] for seed in seeds]
        error = statistics.stdev(values) / len(seeds) ** 0.5
        literal = statistics.mean(reached["reference"][seed] for seed in seeds)
        difference = statistics.mean(values) - literal
        found.append(
            {
                "dataset": dataset,
                "form": form,
                "seeds": len(seeds),
                "mean": statistics.mean(values),
                "standard_error": error,
                "minus_reference": difference,
            }
        )
    for row in found:
        allowed = 0.005 if row["form"] == "bf16" else found[1]["standard_error"]
        row["allowed"], row["agrees"] = allowed, abs(row["minus_reference"]) <= allowed
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--epochs", type=int, help="of both phases, instead of the preset's")
    parser.add_argument("--keep", type=Path, help="file that results are added to, and taken from")
    parser.add_argument("--out", action="store_true", help="write results/<device>/quality.json")
    options = parser.parse_args()
    short = options.epochs
    changes = {} if short is None else {"epochs": short, "prior_epochs": short}
    jobs = [
        (name, seed, form)
        for seed in range(options.seeds)
        for name in options.sets
        for form in FORMS
    ]
    rows: list[dict[str, Any]] = []
    if options.keep and options.keep.exists():
        rows = [json.loads(line) for line in options.keep.read_text().splitlines()]
        jobs = [
            job for job in jobs if job not in {(r["dataset"], r["seed"], r["form"]) for r in rows}
        ]
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(reach, *job, changes) for job in jobs]):
            rows.append(done.result())
            print(rows[-1], flush=True)
            if options.keep:
                with options.keep.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    summary = [row for name in options.sets for row in compare(rows, name)]
    for row in summary:
        print({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
    if options.out:
        rows.sort(key=lambda row: (row["dataset"], row["seed"], row["form"]))
        print(write_results("quality", summary + rows))


if __name__ == "__main__":
    main()
