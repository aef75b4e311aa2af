"""Which rows a search looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drcl.index.held import Held
from drcl.index.values import listed, spellings


def allowed_rows(held: Held, modality: Any, where: Any) -> Tensor | None:
    """Mask of the rows that are searched; None for all."""
    if modality is None and where is None and not len(held.removed):
        return None
    mask = np.ones(held.total, bool)
    mask[held.removed] = False
    if modality is not None:
        names = [modality] if isinstance(modality, str) else list(modality)
        strangers = [name for name in names if name not in held.modalities]
        if strangers:
            raise ValueError(f"modality: expected one of {held.modalities}, got {strangers[0]!r}")
        mask &= np.repeat([p.modality in names for p in held.segments], np.diff(held.starts))
    if isinstance(where, Mapping):
        for column, wanted in where.items():
            if column not in held.columns:
                raise ValueError(f"where: expected columns of {held.columns}, got {column!r}")
            name = f"where {column!r}"
            column_of_frame = hasattr(wanted, "to_list") or getattr(wanted, "ndim", 0) == 1
            collection = isinstance(wanted, (Sequence, Set))
            several = column_of_frame or (collection and not isinstance(wanted, (str, bytes)))
            some = listed(name, wanted) if several else [wanted]
            texts = list(set().union(*(spellings(name, value) for value in some)))
            mask &= np.concatenate([p.matching(column, texts) for p in held.segments])
    elif where is not None:
        given = np.asarray(where)
        if given.dtype != bool or given.shape != (held.total,):
            raise ValueError(
                f"where: expected a mapping, or a mask ({held.total},) of truth values, got "
                f"{given.dtype} {given.shape}"
            )
        mask &= given
    return torch.from_numpy(mask)
