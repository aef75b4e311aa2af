"""Benchmarks of the package: one registry of workloads, ours and the peers beside it.

`suite` holds the machinery: `registry` says what an entry is and lists them all, `measure` runs an
entry (the correctness gate, then all contenders in turns, then their memory in a process of its
own, `worker`), `results` keeps the rows, `publish` draws plots and tables from them, `compare` sets
two revisions against each other. `workloads` has a module per family of ops, `studies` what is
measured by a script of its own. The entry points are ``drcl bench`` and ``pytest benchmarks/``.
"""
