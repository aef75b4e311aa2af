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
from typing import Any

import torch

from drcl import use_backend
from drcl.benchmarks.gpu_first import REPLAYS, TOLERANCE, Case, Journal, parse
from drcl.kernels.launch import LOOPED_CLASSES
from drcl.out_of_memory import first_line
from drcl.precision import network_precision

KERNELS = "drcl.kernels."
LOSS = "reversible_consistency."
SHAPES = ((1024, 2048, 10), (8192, 2048, 10), (2**20, 512, 10), (1024, 2048, 1000))
TINY = ((5, 16, 3), (20, 16, 3))


Sizes = Callable[[int, int, int], bool]  # whether (B, D, C) are among them


def everywhere(b: int, d: int, c: int) -> bool:
    return True


class Absent(Exception):
    """A name that this version of the kernels does not have."""


@dataclass(frozen=True)
class Variant:
    """What it is about, the value it tries, and the attributes to replace: (module, name), new."""

    subject: str
    value: str
    replaced: Mapping[tuple[str, str], Callable[[Any], Any]]
    precision: str = "highest"
    tried_at: Sizes = everywhere

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


def fewer_rows(b: int, d: int, c: int) -> bool:
    """Where M and Z are made."""
    return b < d


def more_rows(b: int, d: int, c: int) -> bool:
    """Where FᵀF is made."""
    return b >= d


def looped(where: Sizes) -> Sizes:
    """There, with so few classes that the kernels loop over them."""
    return lambda b, d, c: where(b, d, c) and c <= LOOPED_CLASSES


def narrow(b: int, d: int, c: int) -> bool:
    """Many rows, so narrow that a program may hold several of them in a warp."""
    return b >= d and d <= 512


def variants() -> list[Variant]:
    """As they are first, for each precision; then by what the counts say is worth most."""
    found = [Variant("as it is", precision, {}, precision) for precision in TOLERANCE]
    found += [Variant("float32 products", kind, float32_as(kind)) for kind in ("ieee", "tf32x3")]
    found += [
        Variant(
            "orientation",
            f"{name}, the symmetric operand of T transposed",
            {(LOSS + "gradient", "product_with_dots"): transposed, **replaced},
            precision,
        )
        for name, replaced, precision in (
            ("ieee", float32_as("ieee"), "highest"),
            ("tf32", {}, "high"),
        )
    ]
    found += [
        Variant(
            "finish tile",
            f"{rows} x {columns}, {warps} warps",
            {
                (LOSS + "gradient", "FINISH"): changed(
                    BLOCK_B=rows, BLOCK_D=columns, num_warps=warps
                )
            },
        )
        for rows, columns, warps in ((2, 512, 4), (4, 256, 4), (8, 256, 4), (2, 1024, 4))
    ]
    tiles: dict[str, tuple[list[tuple[str, str]], dict[Sizes, list[tuple[int, int]]]]] = {
        "row tile": (
            [(LOSS + "rows", "row_tile"), (LOSS + "wide_rows", "row_tile")],
            {narrow: [(1, 1), (4, 1)], everywhere: [(1, 2), (2, 2), (4, 4)]},
        ),
        "coefficients, FᵀF": (
            [(LOSS + "gradient", "coefficient_tile")],
            {
                looped(more_rows): [(1, 1), (2, 1), (2, 4), (4, 4), (8, 8)],
                looped(narrow): [(4, 2), (8, 4)],
            },
        ),
    }
    found += [
        Variant(
            subject,
            f"{rows} rows, {warps} warps",
            dict.fromkeys(places, tiles_of(rows, warps)),
            tried_at=where,
        )
        for subject, (places, cases) in tiles.items()
        for where, sizes in cases.items()
        for rows, warps in sizes
    ]
    found += [
        Variant(
            "coefficients, M and Z",
            f"{rows} rows, {depth} deep, {warps} warps",
            {
                (LOSS + "gradient", "COEFFICIENTS_BY_ROWS"): tile_with(rows, warps),
                (LOSS + "gradient", "DEPTH_BY_ROWS"): instead(depth),
            },
            tried_at=looped(fewer_rows),
        )
        for rows, depth, warps in ((8, 64, 4), (4, 128, 4), (16, 128, 4), (16, 64, 8))
    ]
    found += [
        Variant(
            f"{kind} product",
            f"{m} x {n} x {k}, {warps} warps, {stages} stages",
            {
                **(float32_as("ieee") if kind == "ieee" else {}),
                ("product", "PRODUCT"): of_precision(
                    kind, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, num_warps=warps, num_stages=stages
                ),
            },
            "high" if kind in ("tf32", "bf16x3") else "highest",
            where,
        )
        for kind, m, n, k, warps, stages, where in (
            ("bf16x6", 64, 64, 32, 4, 3, everywhere),
            ("bf16x6", 64, 128, 32, 4, 2, everywhere),
            ("bf16x6", 128, 64, 32, 8, 2, everywhere),
            ("bf16x6", 128, 128, 32, 8, 2, everywhere),
            ("tf32", 128, 64, 32, 4, 3, more_rows),
            ("tf32", 64, 128, 32, 4, 3, more_rows),
            ("tf32", 128, 128, 32, 8, 4, more_rows),
            ("bf16x3", 128, 128, 32, 8, 3, fewer_rows),
            ("ieee", 64, 64, 32, 4, 2, everywhere),
            ("ieee", 128, 64, 16, 4, 3, everywhere),
            ("ieee", 128, 128, 16, 8, 3, everywhere),
        )
    ]
    found += [
        Variant(
            f"{kind} symmetric product",
            f"{block} x {k}, {warps} warps, {stages} stages",
            {
                **(float32_as("ieee") if kind == "ieee" else {}),
                (LOSS + "symmetric", "SYMMETRIC"): of_precision(
                    kind, BLOCK=block, BLOCK_K=k, num_warps=warps, num_stages=stages
                ),
                (LOSS + "symmetric", "symmetric_config"): as_in_table,
            },
            "high" if kind in ("tf32", "bf16x3") else "highest",
            where,
        )
        for kind, block, k, warps, stages, where in (
            ("bf16x6", 64, 32, 4, 2, more_rows),
            ("bf16x6", 64, 32, 4, 3, fewer_rows),
            ("bf16x6", 64, 64, 4, 2, everywhere),
            ("bf16x6", 128, 32, 8, 2, everywhere),
            ("tf32", 64, 32, 4, 4, fewer_rows),
            ("tf32", 128, 32, 8, 4, fewer_rows),
            ("bf16x3", 128, 32, 8, 3, more_rows),
            ("ieee", 64, 32, 4, 2, everywhere),
            ("ieee", 128, 16, 8, 3, everywhere),
        )
    ]
    found += [
        Variant(
            "sums over the batch",
            f"{height} x {width} x {rows}, {warps} warps",
            {
                (LOSS + "class_sums", "CROSS"): changed(
                    BLOCK_H=height, BLOCK_D=width, BLOCK_B=rows, num_warps=warps
                )
            },
            tried_at=looped(more_rows),
        )
        for height, width, rows, warps in ((32, 128, 32, 4), (32, 32, 32, 4), (32, 64, 64, 4))
    ]
    return found


def instead(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


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


def as_in_table(_: Any) -> Callable[[Any, str], dict[str, int]]:
    """``symmetric_config`` without exceptions for an orientation."""
    symmetric = import_module(KERNELS + LOSS + "symmetric")
    return lambda factor, precision: symmetric.SYMMETRIC[precision]


def float32_as(kind: str) -> dict[tuple[str, str], Callable[[Any], Any]]:
    """Products of float32 accuracy in another way; tiles for ``tf32x3`` are those of the parts."""

    def tables(configs: dict[str, Any]) -> dict[str, Any]:
        return {**configs, kind: configs.get(kind, configs["bf16x6"])}

    return {
        ("product", "PRODUCT"): tables,
        (LOSS + "symmetric", "SYMMETRIC"): tables,
        (LOSS + "symmetric", "LONGEST"): tables,
        ("product", "float32_precision"): instead(lambda tensor: kind),
        (LOSS + "symmetric", "float32_precision"): instead(lambda tensor: kind),
    }


def tiles_of(rows: int, warps: int) -> Callable[[Any], Any]:
    """A function of a row's tile with other numbers of rows and warps."""

    def make(of_width: Callable[[int], Any]) -> Callable[[int], Any]:
        return lambda width: tile_with(rows, warps)(of_width(width))

    return make


def tile_with(rows: int, warps: int) -> Callable[[Any], Any]:
    """A tile of rows with other numbers of rows and warps."""
    return lambda tile: tile._replace(block_rows=rows, num_warps=warps)


def transposed(product: Callable[..., Any]) -> Callable[..., Any]:
    """``product_with_dots`` with its symmetric operand, M or FᵀF, read along the other side."""

    def other(a: torch.Tensor, b: torch.Tensor, *rest: Any, b_is_symmetric: bool) -> Any:
        a, b = (a, b.T) if b_is_symmetric else (a.T, b)
        return product(a, b, *rest, b_is_symmetric=b_is_symmetric)

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
    parser.set_defaults(step="sweep")
    asked, device = parse(parser, arguments)
    journal = Journal(asked.out / "sweep.json", device, asked.tiny)
    replays = 1 if asked.tiny else REPLAYS
    cases = [Case(sizes, device, replays) for sizes in (TINY if asked.tiny else SHAPES)]
    with use_backend("triton"):
        for case, variant in itertools.product(cases, variants()):  # the first size matters most
            if variant.tried_at(*case.sizes):
                journal.add(measure(variant, case))
    as_is = [row for row in journal.rows if row["subject"] == "as it is"]
    return int(any("refused" in row for row in as_is))


if __name__ == "__main__":
    raise SystemExit(main())
