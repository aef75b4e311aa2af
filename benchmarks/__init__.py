"""Benchmarks of the package: one registry of workloads, ours and the peers beside it.

`registry` says what an entry is and lists them all; a file per family of ops holds its workloads
(`loss`, `mixup`, `prior_similarity`, `ranking`, `training_epochs`). `measure` runs an entry: the
correctness gate, then all contenders in turns, then their memory in a process of its own
(`worker`). `results` keeps the rows, `publish` draws plots and tables from them, `compare` sets
two revisions against each other. The doors are ``drcl bench`` and ``pytest benchmarks/``.
"""
