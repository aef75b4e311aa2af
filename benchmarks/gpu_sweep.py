"""Configurations of the loss's kernels, one changed at a time: which is the fastest on this card?

python -m drcl.benchmarks.gpu_sweep  --out FOLDER  [--device cpu --tiny]

A variant replaces what the launchers read: a dict of tiles, or a function, by its name in its
module. One whose name is not there, or that the compiler or the gate refuses, is a row with its
reason. Every time follows the gate of that variant at that size.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from drcl import use_backend
from drcl.benchmarks.gpu_first import REPLAYS, TOLERANCE, Case, Journal
from drcl.memory import first_line
from drcl.precision import network_precision

KERNELS = "drcl.kernels."
SHAPES = ((1024, 2048, 10), (8192, 2048, 10), (2**20, 512, 10), (1024, 2048, 1000))
TINY = ((5, 16, 3), (20, 16, 3))


class Absent(Exception):
    """A name that this version of the kernels does not have."""


@dataclass(frozen=True)
class Variant:
    """What it is about, the value it tries, and the attributes to replace: (module, name), new."""

    subject: str
    value: str
    replaced: Mapping[tuple[str, str], Callable[[Any], Any]]
    precision: str = "highest"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replaces them; each new one is made from the one that is there."""
        before = []
        try:
            for (module, name), make in self.replaced.items():
                place = import_module(KERNELS + module)
                if not hasattr(place, name):
                    raise Absent(f"{module}.{name} is not there")
                before.append((place, name, getattr(place, name)))
                setattr(place, name, make(getattr(place, name)))
            yield
        finally:
            for place, name, value in reversed(before):
                setattr(place, name, value)


def variants() -> list[Variant]:
    """As they are first, for each precision; then by what the counts say is worth most."""
    found = [Variant("as it is", precision, {}, precision) for precision in TOLERANCE]
    found.append(
        Variant(
            "orientation",
            "the symmetric operand of T transposed",
            {("consistency_gradient", "product_with_dots"): transposed},
        )
    )
    found += [
        Variant(
            "row tile",
            f"{rows} rows, {warps} warps",
            {
                ("consistency_rows", "row_tile"): tiles_of(rows, warps),
                ("consistency_gradient", "row_tile"): tiles_of(rows, warps),
            },
        )
        for rows, warps in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (4, 4))
    ]
    found += [
        Variant(
            "products",
            "tf32x3",
            {
                ("product", "PRODUCT"): with_tf32x3,
                ("symmetric", "SYMMETRIC"): with_tf32x3,
                ("product", "matmul_precision"): always("tf32x3"),
                ("symmetric", "matmul_precision"): always("tf32x3"),
            },
        )
    ]
    found += [
        Variant(
            "finish tile",
            f"{rows} x {columns}, {warps} warps",
            {
                ("consistency_gradient", "FINISH"): changed(
                    BLOCK_B=rows, BLOCK_D=columns, num_warps=warps
                )
            },
        )
        for rows, columns, warps in ((4, 512, 4), (4, 256, 4), (8, 256, 4), (2, 1024, 4))
    ]
    sizes = ((64, 64, 32, 4), (128, 64, 16, 4), (128, 128, 16, 8))
    found += [
        Variant(
            "ieee product",
            f"{m} x {n} x {k}, {warps} warps",
            {
                ("product", "PRODUCT"): of_precision(
                    "ieee", BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, num_warps=warps
                )
            },
        )
        for m, n, k, warps in sizes
    ]
    found += [
        Variant(
            "tf32 product",
            f"{m} x {n} x {k}, {warps} warps, {stages} stages",
            {
                ("product", "PRODUCT"): of_precision(
                    "tf32", BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, num_warps=warps, num_stages=stages
                )
            },
            "high",
        )
        for m, n, k, warps, stages in ((128, 64, 32, 4, 3), (64, 64, 32, 4, 4), (64, 128, 32, 4, 3))
    ]
    return found


def always(value: str) -> Callable[[Any], Any]:
    return lambda _: lambda: value


def changed(**new: int) -> Callable[[Any], Any]:
    """A dict of a tile with other entries."""
    return lambda config: {**config, **new}


def of_precision(name: str, **new: int) -> Callable[[Any], Any]:
    """A dict of tiles by precision, one of them with other entries."""

    def make(configs: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        if name not in configs:
            raise Absent(f"no tile for {name!r}, only for {', '.join(configs)}")
        return {**configs, name: {**configs[name], **new}}

    return make


def with_tf32x3(configs: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The tile that is there for tf32x3, or 64 x 64 x 32 in four warps."""
    own = {**configs["ieee"], "BLOCK_K": 32, "num_warps": 4, "num_stages": 3}
    return {"tf32x3": own, **configs}


def tiles_of(rows: int, warps: int) -> Callable[[Any], Any]:
    """``row_tile`` with other numbers of rows and warps, where it holds a whole row at all."""

    def make(row_tile: Callable[..., Any]) -> Callable[..., Any]:
        def tile(*arguments: Any, **options: Any) -> Any:
            return row_tile(*arguments, **options)._replace(block_rows=rows, num_warps=warps)

        return tile

    return make


def transposed(product: Callable[..., Any]) -> Callable[..., Any]:
    """``product_with_dots`` with its symmetric operand, M or FᵀF, read along the other side."""

    def other(left: torch.Tensor, right: torch.Tensor, *rest: Any) -> Any:
        if left.shape[0] == left.shape[1]:
            return product(left.T, right, *rest)
        return product(left, right.T, *rest)

    return other


def measure(variant: Variant, case: Case) -> dict[str, Any]:
    """The row of one variant at one size."""
    row: dict[str, Any] = {
        **dict(zip("BDC", case.sizes, strict=True)),
        "subject": variant.subject,
        "value": variant.value,
        "precision": variant.precision,
    }
    try:
        with variant.applied(), network_precision(variant.precision):
            row["error"] = float(f"{case.error():.3g}")
            if row["error"] <= TOLERANCE[variant.precision]:
                row["replay_us"] = case.replay_us(case.replay())
            else:
                row["refused"] = f"error above {TOLERANCE[variant.precision]:.0e}"
    except Exception as failure:  # any: of names, of the compiler, of memory; the others go on
        row["refused"] = f"{type(failure).__name__}: {first_line(failure)}"
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("sweep: no CUDA device here; nothing measured")
    journal = Journal(asked.out / "sweep.json", device, asked.tiny)
    replays = 1 if asked.tiny else REPLAYS
    cases = [Case(sizes, device, replays) for sizes in (TINY if asked.tiny else SHAPES)]
    with use_backend("triton"):
        for case, variant in itertools.product(cases, variants()):  # the first size matters most
            journal.add(measure(variant, case))
    as_is = [row for row in journal.rows if row["subject"] == "as it is"]
    return int(any("refused" in row for row in as_is))


if __name__ == "__main__":
    raise SystemExit(main())
