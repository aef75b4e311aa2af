"""An epoch of training against the released loop and against the floor of the machine.

    python -m drcl.benchmarks.workloads.training --out              batches of 1024, both phases
    python -m drcl.benchmarks.workloads.training --batch 8192 --rows 8192 --epochs 2 --out

Three contestants take turns. *Released*: ``released_loop.py``. *Ours*: the package's own training
with its default settings. *Floor*: the encoder's products alone (forward, weight gradients, input
gradients, as bare ``torch.mm`` into preallocated outputs) and one fused Adam update per step; the
forward products of judging are told apart. An epoch is the training steps and what the loop does to
judge them: for RSC the validation rows (released: loss, and test features when it improved; ours:
loss and mAP), for SPL the score on all training rows. The seconds are those of each training's last
epoch, so what a first epoch sets up is in none; medians over rounds.

The data are synthetic: features of ``--widths[0]`` columns around one centre per class. No speed
without correctness: before anything is timed, loss and gradient are held to the literal form in
float64, and both loops must report the same losses on a small training.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from tqdm import tqdm

from drcl import DRCL, Config, Prior, functional
from drcl.benchmarks.suite.timing import write_results
from drcl.benchmarks.workloads import released_loop
from drcl.benchmarks.workloads.released_loop import Part
from drcl.train.config import stream_seed

CLASSES, LR = 10, 5e-4


def samples(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (rows, width) around one centre per class, and ids."""
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 + seed)
    ids = torch.randint(0, CLASSES, (rows,), generator=generator)
    return (0.2 * centres[ids] + torch.randn(rows, width, generator=generator)).relu(), ids


def part(data: tuple[Tensor, Tensor]) -> Part:
    return Part(data[0], nnf.one_hot(data[1], CLASSES).float())


class Contest:
    """The three contestants on one problem; each call gives the seconds of a last epoch."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        width, *hidden, dim = self.widths = options.widths
        self.train = samples(options.rows, width, 0)
        self.validation = samples(options.validation, width, 1)
        self.test = samples(options.validation, width, 2)
        self.prior = Prior(torch.randn(dim, CLASSES) / dim**0.5 * 2.9)
        self.steps = max(1, options.rows // options.batch)
        self.settings: dict[str, Any] = {
            "dim": dim,
            "hidden": tuple(hidden),
            "epochs": options.epochs,
            "prior_epochs": options.epochs,
            "batch_size": options.batch,
            "lr": LR,
            "prior_lr": LR,
            "device": options.device,
        }
        if options.precision != "float32":
            self.settings["precision"] = options.precision

    def released(self, phase: str) -> dict[str, float]:
        encoder = released_loop.Encoder(self.widths).to(self.options.device)
        common = {"epochs": self.options.epochs, "batch": self.options.batch, "lr": LR}
        train = part(self.train)
        if phase == "SPL":
            start = Prior.orthogonal(self.widths[-1], CLASSES).weight
            last = released_loop.learn_prior(encoder, start, train, **common)[-1]
        else:
            last = released_loop.train_encoder(
                encoder, self.prior.weight, train, part(self.validation), part(self.test), **common
            )[-1]
        return {"epoch": last.steps + last.judging, "judging": last.judging}

    def ours(self, phase: str) -> dict[str, float]:
        began = time.perf_counter()
        if phase == "SPL":
            model = DRCL(**{**self.settings, "epochs": 1}).fit(
                {"image": self.train}, progress=False
            )
        else:
            data = {"image": self.train}, {"image": self.validation}
            model = DRCL(**self.settings).fit(*data, prior=self.prior, progress=False)
        history, whole = model.history, time.perf_counter() - began
        name = "prior" if phase == "SPL" else "encoder"
        last = [record for record in history if record["phase"] == name][-1]
        return {
            "epoch": last["seconds"],
            "outside epochs": whole - sum(record["seconds"] for record in history),
            **last.get("time", {}),
        }

    def floor(self, phase: str) -> dict[str, float]:
        """The products of the epoch's steps, its updates, and the forward products of judging."""
        products = Products(self.widths, self.options.batch, self.options.device)
        judged = self.options.rows if phase == "SPL" else self.options.validation
        judging = Products(self.widths, judged, self.options.device, backward=False)
        adam = fused_adam(self.widths, self.options.device)
        adam()
        return {
            "products": _seconds(products, self.steps),
            "adam": _seconds(adam, self.steps),
            "judging": _seconds(judging, 1),
        }


class Products:
    """The encoder's matrix products on a batch, into preallocated outputs."""

    def __init__(
        self, widths: list[int], batch: int, device: str, *, backward: bool = True
    ) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        x = [torch.randn(batch, width, device=device) for width in widths]
        for index, (width, out) in enumerate(itertools.pairwise(widths)):
            weight = torch.randn(out, width, device=device) / width**0.5
            self._add(x[index], weight.T, batch, out)
            if backward:
                self._add(x[index + 1].T, x[index], out, width)
            if backward and index > 0:  # the features take no gradient
                self._add(x[index + 1], weight, batch, width)

    def _add(self, left: Tensor, right: Tensor, rows: int, columns: int) -> None:
        # Zeros that are written, so that no page is first touched while the clock runs.
        self.calls.append((left, right, torch.zeros(rows, columns, device=left.device)))

    def __call__(self) -> None:
        for left, right, out in self.calls:
            torch.mm(left, right, out=out)


def fused_adam(widths: list[int], device: str) -> Callable[[], Any]:
    """One fused Adam update of all parameters of the encoder."""
    parameters = list(released_loop.Encoder(widths).to(device).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return torch.optim.Adam(parameters, lr=LR, betas=(0.5, 0.999), fused=True).step


def _seconds(call: Callable[[], Any], times: int) -> float:
    _synchronize()
    began = time.perf_counter()
    for _ in range(times):
        call()
    _synchronize()
    return time.perf_counter() - began


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- correctness


def check_loss(batch: int, dim: int) -> None:
    """Mixed loss and gradient on one batch with one permutation, against the literal in float64."""
    generator = torch.Generator().manual_seed(0)
    x = nnf.normalize(torch.randn(batch, dim, generator=generator)).requires_grad_()
    ids = torch.randint(0, CLASSES, (batch,), generator=generator)
    permutation = torch.randperm(batch, generator=generator)
    prior = Prior(torch.randn(dim, CLASSES, generator=generator) / dim**0.5 * 2.9)
    exact, weight = x.detach().double().requires_grad_(), prior.weight.double()
    rows = nnf.one_hot(ids, CLASSES).double()
    for q in (0.01, 0.5, 1.0):
        mixed, labels = released_loop.mix(exact, rows, permutation, 0.9)
        inverse = torch.linalg.pinv(weight)
        literal = released_loop.consistency_loss(mixed, labels, weight, inverse, q)
        ours = functional.reversible_consistency_loss(
            x, ids, prior, q=q, lam=0.9, permutation=permutation
        ).total
        wanted = torch.autograd.grad(literal, exact)[0]
        error = (torch.autograd.grad(ours, x)[0] - wanted).norm() / wanted.norm()
        values = ours.item(), literal.item()
        if not (abs(values[0] / values[1] - 1) < 1e-5 and error.item() < 1e-5):
            raise SystemExit(f"q={q}: loss and literal loss {values}, gradient off by {error:.1e}")


def check_loops() -> None:
    """Both loops from one start, one batch an epoch, no augmentation: the same numbers, to 1e-4.

    So no random draw has a part in the outcome, and an epoch's numbers depend on all updates before
    it. In the first epoch of prior learning, at q = 0, the released loss is NaN.
    """
    widths, epochs = [24, 32, 32, 16], 5
    train, validation = samples(90, widths[0], 0), samples(30, widths[0], 1)
    prior = Prior.orthogonal(widths[-1], CLASSES, seed=stream_seed(0, "prior"))
    literal: dict[str, Any] = {"epochs": epochs, "batch": 90, "lr": 1e-3}
    config = Config(
        dim=widths[-1],
        lam=1.0,
        paper_compat=True,
        device="cpu",
        lr=1e-3,
        prior_lr=1e-3,
        epochs=epochs,
        prior_epochs=epochs,
        batch_size=90,
    )
    start = released_loop.Encoder(widths)
    model = DRCL(config, networks={"image": start})
    model.fit({"image": train}, {"image": validation}, prior=prior, progress=False)
    encoder = copy.deepcopy(start)
    parts = part(train), part(validation), part(validation)
    history = released_loop.train_encoder(encoder, prior.weight, *parts, lam=1.0, **literal)
    _same([epoch.loss for epoch in history], [record["loss"] for record in model.history])
    judged = [record.get("validation_loss") for record in model.history]
    _same([epoch.judgement for epoch in history], judged)

    model.fit({"image": train}, progress=False)
    records = [record for record in model.history if record["phase"] == "prior"]
    encoder = copy.deepcopy(start)
    history = released_loop.learn_prior(encoder, prior.weight, part(train), **literal)
    _same([epoch.loss for epoch in history], [record["loss"] for record in records], first=1)
    _same([epoch.judgement for epoch in history], [record["score"] for record in records])


def _same(literal: list[float], ours: list[Any], first: int = 0) -> None:
    for epoch in range(first, len(literal)):
        if not abs(ours[epoch] / literal[epoch] - 1) < 1e-4:
            raise SystemExit(f"epoch {epoch}: {ours[epoch]}, released loop {literal[epoch]}")


# --- the contest


def contest(options: argparse.Namespace, phase: str) -> dict[str, Any]:
    problem = Contest(options)
    found: dict[str, dict[str, list[float]]] = {}
    calls = {"released": problem.released, "ours": problem.ours, "floor": problem.floor}
    for _ in tqdm(range(options.repeats), desc=phase, leave=False, disable=None):
        for name, call in calls.items():
            for key, seconds in call(phase).items():
                found.setdefault(name, {}).setdefault(key, []).append(seconds)
    median = {
        name: {key: statistics.median(values) for key, values in parts.items()}
        for name, parts in found.items()
    }
    ours, released = median["ours"]["epoch"], median["released"]["epoch"]
    steps = median["floor"]["products"] + median["floor"]["adam"]
    return {
        "phase": phase,
        "batch": options.batch,
        "rows": options.rows,
        "validation_rows": options.validation,
        "widths": options.widths,
        "precision": options.precision,
        "released_s": released,
        "ours_s": ours,
        "floor_s": steps + median["floor"]["judging"],
        "floor_without_judging_s": steps,
        "speedup": released / ours,
        "over_floor": ours / (steps + median["floor"]["judging"]),
        "over_floor_without_judging": ours / steps,
        "parts": median,
        "rounds": {
            name: parts.get("epoch", []) for name, parts in found.items() if name != "floor"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4096, help="training rows: an epoch")
    parser.add_argument("--validation", type=int, default=512, help="validation rows, test rows")
    parser.add_argument("--widths", type=int, nargs=4, default=[4096, 4096, 4096, 2048])
    parser.add_argument("--phases", nargs="+", choices=["RSC", "SPL"], default=["RSC", "SPL"])
    parser.add_argument("--epochs", type=int, default=2, help="per training; the last one counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", action="store_true", help="write results/<device>/training….json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    check_loss(min(options.batch, 1024), options.widths[-1])
    check_loops()
    rows = []
    for phase in options.phases:
        rows.append(contest(options, phase))
        shown = {k: v for k, v in rows[-1].items() if isinstance(v, (int, float, str))}
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in shown.items()}, flush=True)
        for name, parts in rows[-1]["parts"].items():
            print(f"   {name}: { ({k: round(v, 3) for k, v in parts.items()}) }", flush=True)
    if options.out:
        suffix = "" if options.precision == "float32" else f"_{options.precision}"
        print(write_results(f"training_{options.batch}{suffix}", rows))


if __name__ == "__main__":
    main()
