"""Measurements of their own, each a script: ``python -m drcl.benchmarks.studies.NAME``."""
