"""Triton kernels, one file per op family: each holds the kernel and its launcher, without autograd.

Installed as ``drcl.kernels``. This file imports nothing, so that the package loads without Triton.
"""
