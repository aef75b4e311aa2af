"""Targets: :class:`drcl.Encoder` and :class:`drcl.Config`."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from arrays import TAME, tensor, values
from bad_arguments import Faults, of_count, of_matrix, refuses
from fuzz_functional import ROUNDINGS, eps
from fuzzing import Draw, array, refused, target, within

from drcl import Config, Encoder


@target("drcl.Encoder")
def encoder(draw: Draw) -> None:
    width = draw.choose("width", 3, 1, 8)
    arguments: dict[str, Any] = {
        "in_features": width,
        "dim": draw.choose("dim", 4, 1, 9),
        "hidden": draw.choose("hidden", (5,), (), (1,), [3, 4]),
    }
    bad_widths = (None, 4, "44", (0,), (2.5,), (3, -1), ("3",), math.nan)
    faults: Faults = {
        **of_count("in_features"),
        **of_count("dim"),
        **{f"hidden: {v!r}": lambda v=v: v for v in bad_widths},
    }
    if refuses(draw, Encoder, arguments, faults):
        return
    dtype = draw.choose("dtype", torch.float32, torch.float64, torch.float16, torch.bfloat16)
    torch.manual_seed(draw.seed)
    network = Encoder(**arguments).to(dtype)
    rows = draw.choose("B", 3, 0, 1, 8)
    x = values(draw, "features", max(rows, 1), width, *TAME, "zero", "denormal")[:rows]
    features = tensor(draw, "features", x, dtype)
    if rows:
        wrong = {
            name: bad
            for name, bad in of_matrix("features", features).items()
            # A row alone, or rows of rows, are encoded as a batch is.
            if not name.endswith(("1-D", "3-D", "no rows"))
        }
        wrong |= {
            "features: too wide": lambda: torch.zeros(rows, width + 1, dtype=dtype),
            "features: too narrow": lambda: torch.zeros(rows, width - 1, dtype=dtype),
            "features: another dtype": lambda: features.to(
                torch.float32 if dtype == torch.float64 else torch.float64
            ),
        }
        if refuses(draw, network, {"features": features}, wrong):
            return
    found = network(features)
    assert found.shape == (rows, arguments["dim"]) and found.dtype == dtype
    if not rows:
        return
    lengths = (
        array(found.norm(dim=1)) if dtype == torch.float64 else array(found.double().norm(dim=1))
    )
    zero = ~array(found).any(axis=1)
    within(lengths[~zero], np.ones((~zero).sum()), 8 * eps(dtype), "length")
    if dtype in (torch.float32, torch.float64):
        judge_layers(network, array(features), found)


def judge_layers(network: Encoder, x: np.ndarray, found: torch.Tensor) -> None:
    """Against the layers written in NumPy; before normalisation, an error is one of the sums."""
    size = np.abs(x).max(axis=1, keepdims=True)
    for layer in network.layers:
        if isinstance(layer, torch.nn.Linear):
            weight = array(layer.weight)
            bias = 0.0 if layer.bias is None else array(layer.bias)
            size = size * np.abs(weight).sum(axis=1).max() + np.abs(bias).max()
            x = x @ weight.T + bias
        else:
            x = np.maximum(x, 0)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = ROUNDINGS * eps(found.dtype)
    # What cancelled to its rounding has no direction.
    clear = (length > unit * size)[:, 0] & (length > 1e-30)[:, 0]
    bound = (unit * (1 + size / np.where(length > 0, length, 1)))[clear]
    within(array(found)[clear], (x / np.where(length > 0, length, 1))[clear], bound, "embedding")


SETTINGS: dict[str, tuple[list[Any], list[Any]]] = {
    "dim": ([1, 2048], [0, -1, 1.5, "4", None, True]),
    "hidden": ([(), (3,), [4, 5]], [4, "4", (0,), (1.5,), None, (True,)]),
    "epochs": ([1, {"a": 1, "b": 2}], [0, 1.0, {"a": 0}, None, "1"]),
    "prior_epochs": ([3, {"a": 1}], [-1, True, [1]]),
    "batch_size": ([1, 10**9], [0, None, {"a": "b"}]),
    "lr": ([1e-3, 1, {"a": 0.1}], [0.0, -1.0, math.nan, math.inf, "1", None, 1j]),
    "prior_lr": ([5e-324, {}], [0, {"a": math.nan}]),
    "alpha": ([0, 0.5], [-1e-9, math.inf, math.nan, "1", None, {"a": 1.0}]),
    "beta": ([0.1], [-1]),
    "eta": ([1], [math.nan]),
    "lam": ([0, 1, 0.9], [-0.1, 1.1, math.nan, None, "0.9"]),
    "temperature": ([1, 0.07], [0, -1, math.inf, None]),
    "prior": (["learned", "orthogonal"], ["", None, 1, ["learned"]]),
    "prior_norm": ([None, 3.0], [0.0, math.nan, "none", -1]),
    "prior_selection": (["training", "validation"], ["test", None]),
    "selection": (["map", "loss", "last"], ["MAP", None]),
    "standardize": ([True, False], [1, None, "yes"]),
    "paper_compat": ([True, False], [0, None]),
    "precision": (["float32", "tf32", "bf16"], ["float16", None]),
    "seed": ([0, -5, 2**70], [0.5, None, "0", True]),
    "device": (["auto", "cpu"], [None, 0]),
}


def draw_settings(draw: Draw) -> dict[str, Any]:
    """Some settings, each good."""
    names = [name for name in SETTINGS if draw.random.random() < 0.3]
    return {
        name: SETTINGS[name][0][int(draw.random.integers(len(SETTINGS[name][0])))] for name in names
    }


@target("drcl.Config")
def config(draw: Draw) -> None:
    given = draw_settings(draw)
    faults = {
        f"{name}: {value!r}": lambda value=value: value
        for name, (_, bad) in SETTINGS.items()
        for value in bad
    }
    if refuses(draw, Config, given, faults):
        return
    found = Config(**given)
    for name, value in given.items():
        assert getattr(found, name) == (tuple(value) if name == "hidden" else value)


@target("drcl.Config.to_dict")
def to_dict(draw: Draw) -> None:
    found = Config(**draw_settings(draw))
    assert Config.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@target("drcl.Config.from_dict")
def from_dict(draw: Draw) -> None:
    given = draw_settings(draw)
    if draw.choose("unknown", False, True):
        with refused("config"):
            Config.from_dict({**given, draw.choose("name", "dims", "", "__init__"): 1})
        return
    if draw.choose("form", "mapping", "no mapping") == "no mapping":
        with refused("config"):
            Config.from_dict(draw.choose("value", None, 3, "dim", [1]))  # type: ignore[arg-type]
        return
    assert Config.from_dict(given) == Config(**given)


@target("drcl.Config.check_modalities")
def check_modalities(draw: Draw) -> None:
    name = draw.choose("setting", "epochs", "lr", "batch_size", "prior_lr", "prior_epochs")
    known = draw.choose("modalities", ("a", "b"), ("a",), ("a", "b", "c"))
    named = draw.choose("given", ("a", "b"), ("a",), (), None)
    found = Config(**({} if named is None else {name: dict.fromkeys(named, 2)}))
    if named is None or set(named) == set(known):
        found.check_modalities(known)
    else:
        with refused(name):
            found.check_modalities(known)


@target("drcl.Config.for_modality")
def for_modality(draw: Draw) -> None:
    found = Config(**draw_settings(draw))
    own = found.for_modality(draw.choose("modality", "a", "b", "c"))
    for name in ("epochs", "prior_epochs", "batch_size", "lr", "prior_lr"):
        value = getattr(found, name)
        expected = value.get("c", getattr(Config(), name)) if isinstance(value, dict) else value
        assert not isinstance(getattr(own, name), dict)
        assert isinstance(value, dict) or getattr(own, name) == expected
