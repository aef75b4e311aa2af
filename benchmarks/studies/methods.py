"""All methods on the eight real sets: which is best, by how much, and is it noise?

    DRCL_DATA=... python -m drcl.benchmarks.studies.methods --out DIR [--sets ...] [--seeds ...]
        [--noise KIND:RATE | --labels-per-class N | --missing RATE | --unseen N]

Results are stored as they come, in ``DIR/DAMAGE/SET.jsonl``; the same command goes on after the
last one.
"""

from __future__ import annotations

from drcl.benchmarks.studies import damages
from drcl.benchmarks.studies.deep_sets import load_set
from drcl.compare.methods import METHODS
from drcl.compare.study import run_study, summarize, table
from drcl.data.fingerprint import fingerprint


def main() -> None:
    parser = damages.options(__doc__, seeds=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    given = parser.parse_args()
    damage, folder = damages.asked(given)
    methods = {name: METHODS[name] for name in given.methods}
    for name in given.sets:
        data = load_set(name)
        results = run_study(data, methods, given.seeds, folder / f"{name}.jsonl", damage=damage)
        titles = {method: METHODS[method].title for method in METHODS}
        print(f"\n{name}, fingerprint {fingerprint(data)}\n\n{table(summarize(results), titles)}")


if __name__ == "__main__":
    main()
