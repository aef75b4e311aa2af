"""Triton kernels and their launchers, one file per op family, without autograd.

The largest family has a folder with a file per stage, which says what goes from one to the next
under which name.

Installed as ``drcl.kernels``. This file imports nothing, so that the package loads without Triton.
"""
