"""Ops that the compiled library computes on a CPU, one module per op family."""
