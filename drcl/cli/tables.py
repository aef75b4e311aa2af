"""Numbers in columns, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from drcl.tables import columns


def map_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """One block per metric: a row per query modality, a column per gallery modality, the mean.

    >>> print(map_table({"mAP@all": {"a->b": 0.25, "b->a": 0.5, "mean": 0.375}}))
    mAP@all    → a    → b
    a            –  0.250
    b        0.500      –
    mean     0.375
    """
    blocks = []
    for name, values in metrics.items():
        queries = list(dict.fromkeys(pair.split("->")[0] for pair in values if pair != "mean"))
        rows = [[name, *(f"→ {gallery}" for gallery in queries)]]
        for query in queries:
            cells = (values.get(f"{query}->{gallery}") for gallery in queries)
            rows.append([query, *("–" if value is None else f"{value:.3f}" for value in cells)])
        rows.append(["mean", f"{values['mean']:.3f}", *[""] * (len(queries) - 1)])
        blocks.append(columns(rows))
    return "\n\n".join(blocks)
