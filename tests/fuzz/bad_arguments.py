"""What can be wrong with an argument: the same faults for every function that takes its kind.

A table of faults maps ``"argument: what is wrong"`` to a function that makes the bad value. Where
the error may name another argument instead (the one that does not fit), it is ``"one/other: …"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fuzzing import Draw, refused
from torch import Tensor

Faults = dict[str, Callable[[], Any]]


def refuses(
    draw: Draw, call: Callable[..., Any], arguments: dict[str, Any], faults: Faults
) -> bool:
    """Whether this case had a fault, which was then refused as it must be."""
    fault = draw.fault(*faults)
    if not fault:
        return False
    names = fault.partition(":")[0].split("/")
    with refused(*names):
        call(**{**arguments, names[0]: faults[fault]()})
    return True


def of_matrix(name: str, x: Tensor) -> Faults:
    """Of a floating-point matrix on the CPU."""
    return {
        f"{name}: None": lambda: None,
        f"{name}: a list": x.tolist,
        f"{name}: a NumPy array": x.detach().float().numpy,
        f"{name}: 1-D": lambda: x[0],
        f"{name}: 3-D": lambda: x[None],
        f"{name}: no rows": lambda: x[:0],
        f"{name}: no columns": lambda: x[:, :0],
        f"{name}: integers": lambda: x.clamp(-100, 100).long(),
        f"{name}: bool": lambda: x > 0,
        f"{name}: complex": lambda: x.to(torch.complex64),
        f"{name}: eight bits": lambda: x.to(torch.float8_e4m3fn),
        f"{name}: sparse": lambda: x.detach().float().to_sparse(),
        f"{name}/meta: on meta": lambda: x.to("meta"),
    }


def of_targets(name: str, y: Tensor, rows: int, classes: int) -> Faults:
    """Of class ids (B,) or rows (B, C) for a batch of features on the CPU."""
    wide = torch.zeros(rows, classes)

    def spoiled(value: float) -> Tensor:
        bad = wide.clone()
        bad[rows - 1, classes - 1] = value
        return bad

    return {
        f"{name}: a list": y.tolist,
        f"{name}: 0-D": lambda: torch.tensor(0),
        f"{name}: 3-D": lambda: wide[None],
        f"{name}: another length": lambda: torch.zeros(rows + 1, dtype=torch.int64),
        f"{name}: fractions": lambda: torch.full((rows,), 0.5),
        f"{name}: complex ids": lambda: torch.zeros(rows, dtype=torch.complex64),
        f"{name}: an id above": lambda: torch.full((rows,), classes),
        f"{name}: an id below": lambda: torch.full((rows,), -2),
        f"{name}: NaN": lambda: spoiled(math.nan),
        f"{name}: infinite": lambda: spoiled(math.inf),
        f"{name}: negative": lambda: spoiled(-0.5),
        f"{name}: complex rows": lambda: wide.to(torch.complex64),
        f"{name}: sparse rows": wide.to_sparse,
        f"{name}: on meta": lambda: y.to("meta"),
    }


def of_number(name: str, *outside: Any) -> Faults:
    """Of a number, with values outside its range."""
    bad = (None, "0.5", [0.5], 0.5j, math.nan, *outside)
    return {f"{name}: {value!r}": lambda value=value: value for value in bad}


def of_share(name: str) -> Faults:
    """Of a number in [0, 1]."""
    return of_number(name, -1e-9, 1.0 + 1e-9, math.inf, -math.inf)


def of_positive(name: str) -> Faults:
    """Of a positive finite number."""
    return of_number(name, 0.0, -1.0, math.inf)


def of_count(name: str) -> Faults:
    """Of a whole number above 0."""
    bad = ("1", [1], 1.5, math.nan, 0, -1)
    return {f"{name}: {value!r}": lambda value=value: value for value in bad}


def of_word(name: str) -> Faults:
    """Of one of some words."""
    return {f"{name}: {value!r}": lambda value=value: value for value in ("", "other", None, 1)}


def of_permutation(name: str, rows: int) -> Faults:
    """Of row numbers 0..B-1, each once."""
    order = torch.arange(rows)
    faults = {
        f"{name}: a list": order.tolist,
        f"{name}: another length": lambda: torch.arange(rows + 1),
        f"{name}: int32": order.int,
        f"{name}: beyond the rows": lambda: order + 1,
        f"{name}: negative": lambda: order - 1,
        f"{name}: 2-D": lambda: order[None],
        f"{name}: on meta": lambda: order.to("meta"),
    }
    if rows > 1:
        faults[f"{name}: one row twice"] = lambda: torch.zeros_like(order)
    return faults
