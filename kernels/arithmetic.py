"""Quotients and roots on chip to the last digit: a GPU's own fast ones are some units off."""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divide(x, y, inverse):
    """``x / y`` as division rounds it (Markstein), in three instructions given 1/y.

    Not ``x · (1/y)``: at D = 1 unit rows are then exactly ±1.
    """
    quotient = x * inverse
    return tl.fma(tl.fma(-quotient, y, x), inverse, quotient)


@triton.jit
def root(x):
    """``√x`` to the last digit: the fast one and a Newton step. The exact one costs a call."""
    fast = tl.sqrt(x)
    return fast + tl.fma(-fast, fast, x) * (0.5 / tl.where(fast > 0.0, fast, 1.0))


@triton.jit
def scales_of(largest):
    """A power of two that brings a row of this largest entry to where squares keep their range,
    and its inverse.

    Rows are divided by their length after that, not before: the length itself, of entries below the
    smallest normal number, may have an infinite inverse, or count as zero where a GPU flushes it.
    """
    small = largest < 2.0**-50
    large = largest > 2.0**50
    up = tl.where(large, 2.0**-80, tl.where(small, 2.0**100, 1.0))
    return up, tl.where(large, 2.0**80, tl.where(small, 2.0**-100, 1.0))


@triton.jit
def shares(x, whole):
    """The rows of a tile divided by what they add up to; an entry that is all of it gives 1.

    Gradients are differences of such shares: what is off in one stays where nothing should be left.
    """
    up, _ = scales_of(whole)
    whole *= up
    return divide(x * up[:, None], whole[:, None], (1.0 / whole)[:, None])
