"""Triton kernels and their launchers, one file per op family, without autograd.

The largest family has a file per stage, and ``reversible_consistency`` lists them.

Installed as ``drcl.kernels``. This file imports nothing, so that the package loads without Triton.
"""
