"""What one call of ``Index.add`` brings, checked and made into a segment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drcl.index.held import Held
from drcl.index.segment import Ids, Segment, make_segment, metadata_columns
from drcl.metrics.duplicates import equal_among, repeated, row_hashes
from drcl.metrics.embeddings import Embeddings
from drcl.storage.files import check_name
from drcl.storage.mmap import is_mapped
from drcl.tensors import as_features

# Longer rows, and shorter ones that are not 0, would leave the range of float32 in a product.
LONGEST = 1e15


def new_segment(
    held: Held, embeddings: Any, ids: Any, modality: str | None, metadata: Any
) -> Segment:
    """Rows to be added to those that are held; ValueError or TypeError if they do not fit."""
    given = as_features(embeddings, "embeddings")
    found = Embeddings(given, "embeddings")
    if held.width not in (None, found.width):
        raise ValueError(
            f"embeddings: expected width {held.width}, as the index has, got {found.width}"
        )
    rows = _own_rows(embeddings, given)
    count = len(rows)
    modality = None if modality is None else check_name(modality)
    columns = metadata_columns(metadata, count)
    own = new_ids(held, ids, count)
    piece = Embeddings(rows, "embeddings")  # as float32: it may be infinite only now
    lengths = piece.norms(None, count, torch.float32)
    odd = ((lengths > LONGEST) | ((lengths < 1 / LONGEST) & (lengths > 0))).nonzero()
    if len(odd):
        place = int(odd[0, 0])
        raise ValueError(
            f"embeddings: expected row lengths of {1 / LONGEST:.0e} to {LONGEST:.0e} or 0, got "
            f"{float(lengths[place]):.1e} in row {place}"
        )
    hashes = row_hashes(
        lambda start, stop: piece.rows(None, start, stop, torch.float32), count, found.width
    )
    copies, firsts = _new_copies(held, piece, hashes)
    return make_segment(
        rows,
        own,
        columns,
        modality,
        hashes=hashes.numpy(),
        copies=copies.numpy(),
        firsts=firsts.numpy(),
    )


def new_ids(held: Held, ids: Any, count: int) -> Ids:
    """Ids of rows to be added; ValueError or TypeError if they do not fit those that are held."""
    keys = held.keys()
    if ids is None:
        if held.kind == "strings":
            raise ValueError("ids: expected strings, as the index has, got None")
        first = int(keys.max()) + 1 if len(keys) else 0
        if first + count > 2**63:
            raise ValueError("ids: expected ids, as none are left above the largest, got None")
        return Ids(np.arange(first, first + count), None)
    own = Ids.of(ids, count)
    if held.kind not in (None, own.kind):
        raise ValueError(f"ids: expected {held.kind}, as the index has, got {own.kind}")
    known = np.isin(own.keys, keys).nonzero()[0].tolist()
    there = held.positions([own[place] for place in known])
    if there:
        raise ValueError(f"ids: expected new ids, got {next(iter(there))!r}, which is there")
    return own


def _new_copies(held: Held, piece: Embeddings, hashes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of new rows that equal an earlier one, of the index or of their own."""
    parts = [torch.from_numpy(np.array(part.arrays["hashes"])) for part in held.segments]
    every = torch.cat([*parts, hashes])
    before = every[: held.total]
    earlier = torch.isin(before, hashes)
    again = torch.isin(hashes, before[earlier])
    again[repeated(hashes)] = True
    candidates = torch.cat([earlier, again]).nonzero()[:, 0]

    def at(positions: Tensor) -> Tensor:
        new = positions >= held.total
        rows = torch.empty(len(positions), piece.width, dtype=torch.float32, device="cpu")
        rows[new] = piece.at(positions[new] - held.total, torch.float32)
        if held.rows is not None:
            rows[~new] = held.rows.at(positions[~new], torch.float32)
        return rows

    copies, firsts = equal_among(candidates, every[candidates], at, piece.width)
    new = copies >= held.total
    return copies[new], firsts[new]


def _own_rows(embeddings: Any, given: Tensor) -> npt.NDArray[np.float32]:
    """The rows as float32 that nobody changes: a copy, unless they are mapped as they should be."""
    as_they_are = is_mapped(embeddings) and embeddings.dtype == np.float32
    if as_they_are and embeddings.flags.c_contiguous:
        return np.asarray(embeddings)
    return given.to("cpu", torch.float32, copy=True).contiguous().numpy()
