"""What a chip may round otherwise than NumPy does, moved about inside the PTX manual's bounds.

    ex2.approx    2 units in the last place          lg2.approx    2⁻²² absolute between 0.5 and 2,
    rcp.approx    1 unit                                           2⁻²² relative elsewhere
    div.full      2 units                            sqrt.approx   2⁻²³ relative
    div.approx    2 units                            rsqrt.approx  2⁻²²·⁹ relative

Results that the manual names one by one (zeros, infinities, 2⁰) stay as they are.
"""

from __future__ import annotations

import numpy as np


class Rounding:
    """How far the approximate instructions of a launch are off.

    ``share`` of what is allowed: 0 is exact, −1 and 1 are the ends. With a generator every result
    draws its own share between −``share`` and ``share``.
    """

    def __init__(self, share: float = 0.0, generator: np.random.Generator | None = None) -> None:
        self.share, self.generator = share, generator

    def _shares(self, size: int) -> np.ndarray | float:
        if self.generator is None:
            return self.share
        return self.generator.uniform(-self.share, self.share, size)

    def units(self, exact: np.ndarray, units: float) -> np.ndarray:
        """``units`` in the last place of ``exact`` (float64), which is rounded first."""
        rounded = exact.astype(np.float32)
        if not self.share:
            return rounded
        unit = np.abs(np.spacing(rounded)).astype(np.float64)
        unit[~np.isfinite(unit)] = 0.0
        moved = (rounded + self._shares(len(exact)) * units * unit).astype(np.float32)
        return np.where(rounded == 0, rounded, moved)

    def relative(self, exact: np.ndarray, bound: float | np.ndarray) -> np.ndarray:
        """``bound`` times ``exact`` (float64), less what rounding the result takes of it."""
        if not self.share:
            return exact.astype(np.float32)
        return (exact * (1.0 + self._shares(len(exact)) * (bound - 2.0**-24))).astype(np.float32)


def ex2(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    exact = np.exp2(x.astype(np.float64))
    return np.where(x == 0, np.float32(1), rounding.units(exact, 2))


def lg2(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    exact = np.log2(x.astype(np.float64))
    near = (x > 0.5) & (x < 2)
    with np.errstate(all="ignore"):
        return rounding.relative(exact, 2.0**-22 / np.where(near & (exact != 0), np.abs(exact), 1))


def rcp(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.units(1 / x.astype(np.float64), 1)


def sqrt(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.relative(np.sqrt(x.astype(np.float64)), 2.0**-23)


def rsqrt(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.relative(1 / np.sqrt(x.astype(np.float64)), 2.0**-22.9)


def div(x: np.ndarray, y: np.ndarray, rounding: Rounding) -> np.ndarray:
    return rounding.units(x.astype(np.float64) / y.astype(np.float64), 2)
