"""An index without the rows that were removed from it."""

from __future__ import annotations

import numpy as np

from drcl.index.held import Held


def compacted(held: Held) -> Held:
    """The rows that are not removed, numbered anew; ValueError if there are none.

    Segments that change are made in memory; one that loses no row keeps its rows where they are.
    """
    kept = held.kept
    if not len(kept):
        raise ValueError("index: expected a row that is not removed, got none")
    # Equal rows are known by the first of them; where that one is removed it is another.
    group = np.arange(held.total)
    group[held.copies.numpy()] = held.firsts.numpy()
    _, firsts, of_group = np.unique(group[kept], return_index=True, return_inverse=True)
    first = firsts[of_group]
    copies = (first != np.arange(len(kept))).nonzero()[0]
    segments = []
    for part, start, stop in zip(held.segments, held.starts, held.starts[1:], strict=False):
        low, high = np.searchsorted(kept, [start, stop])
        if low < high:
            own = copies[(copies >= low) & (copies < high)]
            segments.append(part.subset(kept[low:high] - start, own, first[own]))
    return Held(segments)
