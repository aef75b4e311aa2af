"""What a chip may round otherwise than NumPy does, moved about inside the PTX manual's bounds.

    ex2.approx    2 units in the last place          lg2.approx    2⁻²² absolute between 0.5 and 2,
    rcp.approx    1 unit                                           2⁻²² relative elsewhere
    div.full      2 units                            sqrt.approx   2⁻²³ relative
    div.approx    2 units                            rsqrt.approx  2⁻²²·⁹ relative

Results that the manual names one by one (zeros, infinities, 2⁰) stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Rounding:
    """How far the approximate instructions of a launch are off.

    ``share`` of what is allowed: 0 is exact, −1 and 1 are the ends. With a seed every operand has
    its own share between −``share`` and ``share``: the same operand always the same, as on a chip.
    """

    def __init__(self, share: float = 0.0, seed: int | None = None) -> None:
        self.share, self.seed = share, seed

    def _shares(self, operands: tuple[np.ndarray, ...]) -> np.ndarray | float:
        if self.seed is None:
            return self.share
        mixed = np.full(len(operands[0]), self.seed, np.uint32)
        for operand in operands:  # a hash (Knuth's constant, and Wang's steps)
            mixed = (mixed ^ operand.view(np.uint32)) * np.uint32(2654435761)
            mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(0x27D4EB2D)
        mixed ^= mixed >> np.uint32(13)
        return self.share * (mixed / 2.0**31 - 1.0)

    def units(self, exact: np.ndarray, units: float, *operands: np.ndarray) -> np.ndarray:
        """``units`` in the last place of ``exact`` (float64), which is rounded first."""
        rounded = exact.astype(np.float32)
        if not self.share:
            return rounded
        unit = np.abs(np.spacing(rounded)).astype(np.float64)
        unit[~np.isfinite(unit)] = 0.0
        moved = (rounded + self._shares(operands) * units * unit).astype(np.float32)
        return np.where(rounded == 0, rounded, moved)

    def relative(self, exact: np.ndarray, bound: Any, *operands: np.ndarray) -> np.ndarray:
        """``bound`` times ``exact`` (float64), less what rounding the result takes of it."""
        if not self.share:
            return exact.astype(np.float32)
        return (exact * (1.0 + self._shares(operands) * (bound - 2.0**-24))).astype(np.float32)


def ex2(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    exact = np.exp2(x.astype(np.float64))
    return np.where(x == 0, np.float32(1), rounding.units(exact, 2, x))


def lg2(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    exact = np.log2(x.astype(np.float64))
    near = (x > 0.5) & (x < 2)
    with np.errstate(all="ignore"):
        bound = 2.0**-22 / np.where(near & (exact != 0), np.abs(exact), 1)
        return rounding.relative(exact, bound, x)


def rcp(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.units(1 / x.astype(np.float64), 1, x)


def sqrt(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.relative(np.sqrt(x.astype(np.float64)), 2.0**-23, x)


def rsqrt(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.relative(1 / np.sqrt(x.astype(np.float64)), 2.0**-22.9, x)


def div(x: np.ndarray, y: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.units(x.astype(np.float64) / y.astype(np.float64), 2, x, y)
