"""Labels that are encoded already: class ids with −1 for unlabelled, or rows (N, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from drcl.checks import can_look_at, check_device, check_tensor

UNLABELLED = -1
NO_CLASS = -2  # what an id that is no class becomes where its value cannot be looked at

_UNSIGNED = torch.uint16, torch.uint32, torch.uint64
_FLOAT8 = (
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)  # fmt: skip
_PLAIN = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
    torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64,
    torch.complex128,  # which are refused by name
}  # fmt: skip

Label: TypeAlias = int | str
AnyArray = TypeVar("AnyArray", Tensor, npt.NDArray[Any])


def is_labelled(labels: AnyArray) -> AnyArray:
    """Which rows of encoded labels have one (N,) bool: an id other than −1, a row with any mass.

    >>> import numpy as np
    >>> is_labelled(np.array([0, -1, 2])).tolist(), is_labelled(torch.eye(2, 2) * 0.5).tolist()
    ([True, False, True], [True, True])
    """
    # Neither NaN nor an id that is no class is "unlabelled": it would vanish from a loss.
    return labels != UNLABELLED if labels.ndim == 1 else labels.sum(1) != 0


def target_rows(targets: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Ids (B,) as one-hot rows (B, C), −1 as a zero row; rows as they are, in ``dtype``.

    An id that is no class gives a row with NaN.
    """
    if targets.ndim == 2:
        return targets.to(dtype)
    columns, outside = in_range(targets, classes)
    mass = is_labelled(targets).to(dtype).masked_fill(outside, float("nan"))
    rows = torch.zeros(targets.shape[0], classes, dtype=dtype, device=targets.device)
    return rows.scatter_(1, columns[:, None], mass[:, None])


def in_range(ids: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Ids that can be indexed with, and which (B,) are neither a class nor −1."""
    return ids.clamp(0, classes - 1), (ids < UNLABELLED) | (ids >= classes)


def check_targets(
    targets: Any, features: Tensor, classes: int | None, numbering: Any = None
) -> Tensor:
    """Targets of a loss: ids (B,) int64, −1 for unlabelled, or non-negative rows (B, C).

    Args:
        targets: ids of any integer dtype, bools or whole floats, (B,) or (B, 1); or rows. With
            C = 1, a column of floats or bool is of rows, and one of integers is refused.
        features: (B, …), for the number of rows and the device.
        classes: C, or None where the rows say it.
        numbering: a :class:`drcl.Prior`, whose classes the ids are; by default they are columns.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"targets: expected a tensor, got {type(targets).__name__}; make one with "
            "torch.as_tensor, of names with Prior.positions"
        )
    check_tensor("targets", targets)
    given, targets = targets.dtype, computable("targets", targets)
    check_device("targets", targets, "features", features)
    if targets.ndim == 0 or targets.shape[0] != features.shape[0]:
        raise ValueError(
            f"targets: expected shape ({features.shape[0]},) or ({features.shape[0]}, "
            f"{classes or 'C'}) for {features.shape[0]} rows of features, got "
            f"{tuple(targets.shape)}"
        )
    if targets.ndim == 2 and targets.shape[1] == (classes or targets.shape[1]):
        if targets.shape[1] == 1 and not (targets.is_floating_point() or given == torch.bool):
            raise ValueError(
                f"targets: expected ids (B,), or rows (B, 1) of floats or bool, got {given} of "
                f"shape {tuple(targets.shape)}, which with one class may be either"
            )
        if targets.is_complex() or 0 in targets.shape:
            raise ValueError(
                f"targets: expected real rows (B, C), got {targets.dtype} of shape "
                f"{tuple(targets.shape)}"
            )
        if can_look_at(targets):
            low, high = map(float, targets.aminmax())  # NaN where there is one
            if not 0.0 <= low <= high < math.inf:
                raise ValueError("targets: expected finite rows that are not negative, got others")
        return targets
    if targets.shape[1:] not in ((), (1,)) or targets.is_complex():
        raise ValueError(
            f"targets: expected ids (B,) or rows (B, {classes or 'C'}), got {targets.dtype} of "
            f"shape {tuple(targets.shape)}"
        )
    if classes is None:
        raise ValueError("classes: expected their number, as targets are class ids, got None")
    column = targets if targets.ndim == 1 else targets[:, 0]
    ids = _as_ids(column)
    if numbering is not None:
        ids = numbering.columns_of(ids)
    if can_look_at(ids):
        low, high = map(int, ids.aminmax())
        if low < UNLABELLED or high >= classes:
            row = int(in_range(ids, classes)[1].nonzero()[0])
            expected = f"class ids in 0..{classes - 1}"
            if numbering is not None and numbering.is_renumbered:
                expected = f"ids among the prior's classes {shortened(numbering.classes)}"
            raise ValueError(
                f"targets: expected {expected}, or −1 for unlabelled; got {column[row].item()} in "
                f"row {row}"
            )
    return ids


def _as_ids(targets: Tensor) -> Tensor:
    """Ids of any real dtype as int64; what int64 does not hold as no class."""
    if targets.dtype == torch.int64:
        return targets
    if targets.is_floating_point():
        whole = (targets == targets.round()) & (targets.abs() < 2.0**63)
        return torch.where(whole, targets, NO_CLASS).long()
    return targets.long()


def computable(name: str, labels: Tensor) -> Tensor:
    """Labels of a dtype that PyTorch does little else with than hold, in one that it computes with.

    Those of 8-bit floats become float32. Unsigned integers of 16 to 64 bits become int64, and what
    that does not hold, −2: neither a class nor a row's entry.

    Raises TypeError for what are no numbers of one entry each, such as packed or quantized ones.

    >>> computable("labels", torch.tensor([0, 3], dtype=torch.uint16))
    tensor([0, 3])
    """
    if labels.dtype in _PLAIN:
        return labels
    if labels.dtype in _UNSIGNED:
        whole = labels.long()
        return whole if labels.dtype != torch.uint64 else whole.where(whole >= 0, NO_CLASS)
    if labels.dtype in _FLOAT8:
        return labels.float()
    raise TypeError(
        f"{name}: expected bool, integers of 8 to 64 bits or floats of 8 to 64, got {labels.dtype}"
    )


def shortened(classes: Sequence[Label]) -> str:
    """The classes as errors list them."""
    shown = ", ".join(repr(label) for label in classes[:10])
    return f"[{shown}{', …' if len(classes) > 10 else ''}]"
