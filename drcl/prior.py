"""The prior matrix W that all modalities share, with everything the loss needs precomputed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drcl.checks import check_count, check_has_values, check_matrix, check_positive, check_seed
from drcl.labels import NO_CLASS, UNLABELLED, Label, class_list, encode_labels
from drcl.precision import widened

__all__ = ["Prior"]
__dir__ = __all__.copy


class Prior(nn.Module):
    """A prior W (D, C), its generalised inverse and its coordinates in its own column space.

    Args:
        weight: W, one column per class, (D, C), floating point.
        classes: the class each column stands for, ids or names; default ``0..C−1``. The losses
            take class ids and find their columns (:meth:`columns_of`).
        modality: the modality it was learned from, if it was.
        score: that modality's quality score, the mean true-class probability in [0, 1].

    Buffers (they move with ``.to``; computed in float64, kept in the weight's dtype):
        ``weight`` (D, C); ``inverse`` P = W⁺ (C, D); ``basis`` Q (D, K) with orthonormal columns
        that span the columns of W; ``recast_coordinates`` PQ (C, K), so that ``P = (PQ) Qᵀ``;
        ``weight_coordinates`` QᵀW (K, C), so that ``W = Q (QᵀW)``; K = min(C, D).

    A rank-deficient W is usable through the pseudo-inverse, with a warning that names the rank:
    two or more classes then share a direction and cannot be told apart. A W whose inverse leaves
    the dtype's range is a ValueError (float32: singular values below about 1e-38).

    Source: paper, selective prior learning and label recasting.

    >>> prior = Prior.orthogonal(dim=64, classes=10, seed=0)
    >>> bool(torch.allclose(prior.inverse @ prior.weight, torch.eye(10), atol=1e-5))
    True
    """

    weight: Tensor
    inverse: Tensor
    basis: Tensor
    recast_coordinates: Tensor
    weight_coordinates: Tensor
    _ids: Tensor
    _columns: Tensor

    @torch.inference_mode(False)  # its buffers are for training, wherever it was made
    def __init__(
        self,
        weight: Tensor,
        *,
        classes: Iterable[Label] | None = None,
        modality: str | None = None,
        score: float | None = None,
    ) -> None:
        super().__init__()
        check_matrix("weight", weight, "(D, C)")
        check_has_values("weight", weight)
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("weight: expected finite values, got NaN or infinite ones")
        if not bool((weight != 0).any()):
            raise ValueError("weight: expected at least one direction, got zeros everywhere")
        self.classes = class_list(range(weight.shape[1]) if classes is None else classes)
        if len(self.classes) != weight.shape[1]:
            raise ValueError(
                f"classes: expected one for each of weight's {weight.shape[1]} columns, "
                f"got {len(self.classes)}"
            )
        self.modality = modality
        self.score = score
        exact = widened(weight.detach())
        singular = torch.linalg.svdvals(exact)
        cutoff = rank_cutoff(weight)
        rank = _count_directions(singular, cutoff)
        if rank < weight.shape[1] <= weight.shape[0]:
            warnings.warn(
                f"the prior has rank {rank} with {weight.shape[1]} classes: classes that "
                "share a direction cannot be told apart (the pseudo-inverse is used)",
                stacklevel=3,  # beyond the decorator
            )
        inverse = torch.linalg.pinv(exact, rtol=cutoff)
        # QR of W: for a full-rank W its Q spans the columns of P^T too, and W's own QR stays
        # accurate where P is badly scaled.
        basis = torch.linalg.qr(exact).Q
        buffers = {
            "weight": exact,
            "inverse": inverse,
            "basis": basis,
            "recast_coordinates": inverse @ basis,
            "weight_coordinates": basis.T @ exact,
        }
        for name, value in buffers.items():
            kept = value.to(weight.device, weight.dtype)
            # whole columns of the basis are read at once: they lie together in memory
            kept = kept.T.contiguous().T if name == "basis" else kept.contiguous()
            if not bool(kept.isfinite().all()):
                raise ValueError(
                    f"weight: singular values {float(singular[-1]):.1e} to {float(singular[0]):.1e}"
                    f" take the prior's {name} out of the range of {weight.dtype}"
                )
            self.register_buffer(name, kept)
        columns_by_place = tuple(range(len(self.classes)))
        self.is_renumbered = isinstance(self.classes[0], int) and self.classes != columns_by_place
        if self.is_renumbered:
            ids, columns = torch.tensor(self.classes, device=weight.device).sort()
            self.register_buffer("_ids", ids, persistent=False)
            self.register_buffer("_columns", columns, persistent=False)

    @classmethod
    def orthogonal(cls, dim: int, classes: int, *, seed: int = 0, norm: float = 1.0) -> Prior:
        """The first C columns of a random orthogonal D×D matrix, scaled to column norm ``norm``.

        W is (dim, classes) float32, and ``WᵀW = norm² I``. The norm sets how sharp ``softmax(XW)``
        can be; about 3 is a good start for rows of unit length. Raises ValueError for more classes
        than dimensions.

        >>> weight = Prior.orthogonal(dim=8, classes=3, norm=2.0).weight
        >>> bool(torch.allclose(weight.T @ weight, 4 * torch.eye(3), atol=1e-5))
        True
        """
        classes, dim = check_count("classes", classes), check_count("dim", dim)
        if classes > dim:
            raise ValueError(
                f"classes: expected no more than dim={dim} for an orthogonal prior, got {classes}"
            )
        norm = check_positive("norm", norm)
        generator = torch.Generator("cpu").manual_seed(check_seed(seed))
        # Householder QR with the sign of R's diagonal fixed: the columns are Haar distributed.
        drawn = torch.randn(dim, classes, generator=generator, dtype=torch.float64, device="cpu")
        q, r = torch.linalg.qr(drawn)
        weight = (q * r.diagonal().sign() * norm).float()
        return cls(weight).to(torch.get_default_device())  # the meta device, too

    @property
    def dim(self) -> int:
        """Width D of the common space."""
        return self.weight.shape[0]

    @property
    def rank(self) -> int:
        """Rank of the matrix W, at the resolution of its dtype."""
        singular = torch.linalg.svdvals(widened(self.weight))
        return _count_directions(singular, rank_cutoff(self.weight))

    def positions(self, labels: Any) -> Tensor:
        """The columns (N,) int64 that labels of any kind belong to, −1 for unlabelled.

        Multi-hot rows (N, C) stay rows, float32. The result is on the device of the labels. Raises
        ValueError for a label that is none of :attr:`classes`; see :mod:`drcl.labels`.

        >>> Prior(torch.eye(4, 3), classes=(0, 3, 4)).positions([4, 0, -1])
        tensor([ 2,  0, -1])
        """
        device = labels.device if isinstance(labels, Tensor) else None
        return torch.as_tensor(encode_labels(labels, self.classes, soft=True), device=device)

    def columns_of(self, ids: Tensor) -> Tensor:
        """The columns that the losses use for class ids (B,) int64, and −1 for unlabelled.

        An id that is not a class becomes −2. If :attr:`classes` are names or count from 0, ids are
        columns already. Values are not checked, so this does not wait for a GPU.

        >>> Prior(torch.eye(4, 3), classes=(0, 3, 4)).columns_of(torch.tensor([4, 0, -1, 2]))
        tensor([ 2,  0, -1, -2])
        """
        if not self.is_renumbered:
            return ids
        place = torch.searchsorted(self._ids, ids).clamp(max=len(self.classes) - 1)
        absent = torch.where(ids == UNLABELLED, UNLABELLED, NO_CLASS)
        return torch.where(self._ids[place] == ids, self._columns[place], absent)

    def by_column(self) -> Prior:
        """The same prior for losses whose ids are columns 0..C−1; it shares the tensors.

        >>> Prior(torch.eye(4, 3), classes=(0, 3, 4)).by_column().classes
        (0, 1, 2)
        """
        other = copy.copy(self)
        other._buffers = dict(self._buffers)  # so that it moves alone
        other.classes, other.is_renumbered = tuple(range(len(self.classes))), False
        return other

    def scaled(self, norm: float) -> Prior:
        """The same directions with the mean column norm set to ``norm``, a number above 0.

        >>> float(Prior.orthogonal(dim=8, classes=3).scaled(2.9).column_norm)
        2.9...
        """
        norm = check_positive("norm", norm)
        weight = widened(self.weight)
        factor = norm / torch.linalg.vector_norm(weight, dim=0).mean()
        return Prior(
            (weight * factor).to(self.weight),
            classes=self.classes,
            modality=self.modality,
            score=self.score,
        )

    @property
    def column_norm(self) -> Tensor:
        """Mean Euclidean norm of the class columns: how sharp ``softmax(XW)`` can be."""
        norms = torch.linalg.vector_norm(widened(self.weight), dim=0)
        return norms.mean().to(self.weight)

    def metadata(self) -> dict[str, Any]:
        """What the prior was learned from, as plain JSON values."""
        return {"classes": list(self.classes), "modality": self.modality, "score": self.score}

    def save(self, path: str | Path) -> Path:
        """Write W and :meth:`metadata` as one safetensors file; returns its path.

        A file that is there is replaced in one step. Raises OSError if it cannot be written.

        >>> import tempfile
        >>> prior = Prior.orthogonal(dim=8, classes=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = Prior.load(prior.save(Path(folder) / "prior.safetensors"))
        >>> torch.equal(again.weight, prior.weight)
        True
        """
        # Here, not above: the losses go without safetensors.
        from drcl.storage import sealed
        from drcl.storage.files import write_bytes

        path = Path(path)
        write_bytes(path, sealed.pack({"weight": self.weight}, self.metadata()))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Prior:
        """Read a prior that :meth:`save` wrote, on the CPU, in the dtype it had.

        Raises OSError if the file is missing, and ValueError, naming it, if it is damaged or no
        prior's. See :meth:`save` for an example.
        """
        from drcl.storage import sealed

        path = Path(path)
        if not path.is_file():  # a named pipe, say, would be waited for
            raise FileNotFoundError(f"{path}: no such file")
        tensors, about = sealed.read_tensors(path)
        try:
            return cls(
                tensors["weight"],
                classes=about["classes"],
                modality=about["modality"],
                score=about["score"],
            )
        except KeyError as error:
            raise ValueError(f"{path}: expected a prior, got a file without {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def extra_repr(self) -> str:
        return f"dim={self.dim}, classes={len(self.classes)}, modality={self.modality!r}"


def rank_cutoff(weight: Tensor) -> float:
    """The share of the largest singular value below which one counts as zero.

    W is known to its own dtype's resolution only: what lies below is rounding, not direction.
    """
    eps = torch.finfo(weight.dtype).eps
    if weight.dtype.itemsize > 2:
        return max(weight.shape) * eps
    # In half precision that share would pass one. Rounding moves no singular value by more than
    # eps/2 · ‖W‖_F, and ‖W‖_F is at most √rank of the largest.
    return float(min(weight.shape) ** 0.5 * eps)


def _count_directions(singular: Tensor, cutoff: float) -> int:
    return int((singular > cutoff * singular[0]).sum())
