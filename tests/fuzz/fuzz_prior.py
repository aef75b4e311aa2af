"""Targets: :class:`drcl.Prior` and :func:`drcl.use_backend`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from arrays import FLOATS, TAME, WILD, tensor, values
from bad_arguments import of_matrix, of_positive, of_word, refuses
from fuzz_functional import ROUNDINGS, eps
from fuzz_training import scratch
from fuzzing import Draw, array, refused, target, within
from torch import Tensor

from drcl import Prior, functional, use_backend


def draw_weight(draw: Draw, *kinds: str) -> Tensor:
    """W (D, C), C also above D; not zero everywhere."""
    width, classes = draw.choose("D", 3, 1, 2, 5, 9, 40, 300), draw.integer("C", 1, 7)
    weight = tensor(draw, "weight", values(draw, "weight", width, classes, *kinds))
    return weight if bool(weight.any()) else torch.ones_like(weight)


@target("drcl.Prior")
def prior(draw: Draw) -> None:
    weight = draw_weight(draw, *TAME, *WILD)
    classes = weight.shape[1]
    arguments: dict[str, Any] = {
        "weight": weight.requires_grad_(draw.choose("requires grad", False, True)),
        "classes": draw.choose("classes", None, tuple(range(5, 5 + classes))),
        "modality": draw.choose("modality", None, "text"),
        "score": draw.choose("score", None, 0.25),
    }
    faults = {
        **of_matrix("weight", weight.detach()),
        "weight: NaN": lambda: torch.full_like(weight, math.nan),
        "weight: infinite": lambda: torch.full_like(weight, math.inf),
        "weight: zero": lambda: torch.zeros_like(weight),
        "classes: one more": lambda: tuple(range(classes + 1)),
        "classes: one twice": lambda: (0,) * classes if classes > 1 else (),
        "classes: a word": lambda: "abcdefg"[:classes],
        "classes: empty names": lambda: ("",) * classes,
        "classes: halves": lambda: tuple(0.5 + i for i in range(classes)),
    }
    if refuses(draw, Prior, arguments, faults):
        return
    exact = array(weight)
    singular = np.linalg.svd(exact, compute_uv=False)
    dtype, unit = weight.dtype, eps(weight.dtype)
    if 1 / singular[0] > torch.finfo(dtype).max * exact.size**0.5:
        with refused("weight"):  # its inverse is no matrix of this dtype
            Prior(**arguments)
        return
    try:
        found = Prior(**arguments)
    except ValueError as error:
        # The inverse of a small singular value may be beyond the dtype too.
        largest = torch.finfo(dtype).max
        assert "weight" in str(error)
        assert 1 / singular.min() > largest / 100 or singular[0] > largest / 4
        return
    buffers = found.weight, found.inverse, found.basis, found.recast_coordinates
    for buffer in (*buffers, found.weight_coordinates):
        assert buffer.dtype == dtype and bool(buffer.isfinite().all())
        stored = buffer.T if buffer is found.basis else buffer  # its columns lie together
        assert not buffer.requires_grad and stored.is_contiguous()
    w, inverse, q, recast = (array(buffer) for buffer in buffers)
    assert np.array_equal(w, exact)
    k = min(exact.shape)
    within(q.T @ q, np.eye(k), (ROUNDINGS + len(w)) * unit, "QᵀQ")
    scale = np.abs(exact).max()
    # Coordinates are as large as a column of W is long.
    slack = ROUNDINGS * unit * k * np.linalg.norm(w / scale, axis=0).max()
    within(q @ array(found.weight_coordinates) / scale, w / scale, slack, "QQᵀW")
    # P's own rounding is relative to its largest entries. The directions that it keeps are found in
    # float64, and those of small singular values are known the less the smaller they are.
    size = np.linalg.norm(inverse) + torch.finfo(dtype).tiny * inverse.size
    turned = len(w) * np.finfo(float).eps * singular[0] / singular[found.rank - 1]
    within(recast @ q.T, inverse, (ROUNDINGS * unit + turned) * size, "PQQᵀ")
    if classes * 4 <= len(exact) and singular[-1] > singular[0] / 8:
        # Well away from any cut-off, in every dtype: W⁺W = I.
        assert found.rank == classes, found.rank
        slack = ROUNDINGS * unit * size * np.linalg.norm(w)
        within(inverse @ w, np.eye(classes), slack, "W⁺W")
    norms = np.linalg.norm(exact / scale, axis=0).mean() * scale
    if norms < torch.finfo(dtype).max / 2:
        # A sum of D squares in float64, and a rounding to the dtype.
        slack = 2 * unit + len(w) * np.finfo(float).eps
        assert math.isclose(
            float(found.column_norm), norms, rel_tol=slack, abs_tol=torch.finfo(dtype).tiny
        )
    given = arguments["classes"]
    assert found.metadata() == {
        "classes": list(range(classes) if given is None else given),
        "modality": arguments["modality"],
        "score": arguments["score"],
    }


@target("drcl.Prior.orthogonal")
def orthogonal(draw: Draw) -> None:
    width = draw.choose("D", 3, 1, 2, 9, 40)
    arguments = {
        "dim": width,
        "classes": draw.integer("C", 1, min(width, 7)),
        "seed": draw.choose("seed", 0, 1, 2**40),
        "norm": draw.choose("norm", 1.0, 3, 1e-3, 1e10),
    }
    bad = (0, -1, 1.5, "3", None, math.nan)
    faults = {
        **{f"{n}: {v!r}": lambda v=v: v for n in ("dim", "classes") for v in bad},
        "classes/dim: more than D": lambda: width + 1,
        **{f"seed: {v!r}": lambda v=v: v for v in ("0", None, 0.5)},
        **of_positive("norm"),
    }
    if refuses(draw, Prior.orthogonal, arguments, faults):
        return
    found = Prior.orthogonal(**arguments)
    w = array(found.weight) / arguments["norm"]
    within(w.T @ w, np.eye(arguments["classes"]), ROUNDINGS * eps(torch.float32), "WᵀW")
    again = Prior.orthogonal(**{**arguments, "norm": 1.0})
    assert torch.equal(Prior.orthogonal(**arguments).weight, found.weight)
    within(found.weight / arguments["norm"], again.weight, 4 * eps(torch.float32), "directions")


@target("drcl.Prior.scaled")
def scaled(draw: Draw) -> None:
    weight = draw_weight(draw, "normal", "small", "large", "equal rows", "huge")
    if weight.dtype == torch.float16:
        weight = weight.clamp(-1e3, 1e3)  # what W is multiplied with must be in range too
    try:
        found = Prior(weight, classes=tuple(range(3, 3 + weight.shape[1])), modality="a", score=0.5)
    except ValueError as error:
        assert weight.dtype == torch.float16 and "inverse out of the range" in str(error), error
        return
    if refuses(draw, found.scaled, {"norm": 1.0}, of_positive("norm")):
        return
    norm = draw.choose("norm", 1.0, 3, 0.1)
    rescaled = found.scaled(norm)
    assert rescaled.metadata() == found.metadata() and rescaled.weight.dtype == weight.dtype
    unit = eps(weight.dtype)
    within(rescaled.column_norm, norm, ROUNDINGS * unit * norm, "norm")
    exact = array(weight)
    exact *= norm / np.linalg.norm(exact, axis=0).mean()
    rounding = (4 + len(exact)) * unit * np.abs(exact) + torch.finfo(weight.dtype).tiny
    within(rescaled.weight, exact, rounding, "weight")


@target("drcl.Prior.metadata")
def metadata(draw: Draw) -> None:
    import json

    width = draw.integer("C", 1, 5)
    kind = draw.choose("classes", int, np.int64, np.uint8, np.int32)
    classes = tuple(kind(value) for value in draw.random.permutation(100)[:width])
    found = Prior(torch.eye(6)[:, :width], classes=classes, modality="m").metadata()
    assert json.loads(json.dumps(found)) == {
        "classes": [int(label) for label in classes],
        "modality": "m",
        "score": None,
    }


def draw_prior(draw: Draw) -> Prior:
    """A prior of any dtype, with names or numbers as classes."""
    weight = torch.from_numpy(draw.random.normal(size=(6, draw.integer("C", 2, 5))))
    columns = weight.shape[1]
    numbers = tuple(range(7, 7 + columns))
    return Prior(
        weight.to(draw.choose("dtype", torch.float32, torch.float64, torch.float16)),
        classes=draw.choose("classes", None, tuple("éabcd"[:columns]), numbers),
        modality=draw.choose("modality", None, "image"),
        score=draw.choose("score", None, 0.5, 1),
    )


@target("drcl.Prior.save")
def save(draw: Draw) -> None:
    """It comes back as it was, over an older one as well."""
    found, path = draw_prior(draw), scratch() / "prior.safetensors"
    if draw.fault("a folder"):
        try:
            found.save(scratch())
        except OSError as error:
            assert scratch().name in str(error)
            return
        raise AssertionError("a folder was replaced")
    again = Prior.load(found.save(draw.choose("path", str(path), path)))
    assert again.metadata() == found.metadata()
    for name, buffer in found.named_buffers():
        assert torch.equal(getattr(again, name), buffer)


@target("drcl.Prior.load")
def load(draw: Draw) -> None:
    """A damaged file is refused by name."""
    path = draw_prior(draw).save(scratch() / "damaged.safetensors")
    content = path.read_bytes()
    at = int(draw.random.integers(len(content)))
    damaged = bytearray(content)
    damaged[at] ^= 1 << int(draw.random.integers(8))
    what = draw.choose("damage", "flip", "cut", "empty", "noise")
    noise = draw.random.bytes(len(content))
    path.write_bytes({"flip": damaged, "cut": content[:at], "empty": b"", "noise": noise}[what])
    try:
        found = Prior.load(path)
    except ValueError as error:
        assert path.name in str(error), error
    else:
        raise AssertionError(f"{found} was read after {what} at byte {at}")


@target("drcl.use_backend")
def backend(draw: Draw) -> None:
    """Backends may be nested and left by an exception; what was before is in force again."""
    x = torch.from_numpy(draw.random.normal(size=(2, 3))).to(draw.choose("dtype", *FLOATS))
    ids = torch.tensor([0, 1])

    def enter(name: Any) -> None:
        with use_backend(name):
            raise AssertionError("entered")

    before = functional.generalized_cross_entropy(x, ids)
    if refuses(draw, enter, {"name": "eager"}, renamed(of_word("name"), "backend")):
        assert torch.equal(functional.generalized_cross_entropy(x, ids), before)
        return
    names = [draw.choose("backend", "eager", "reference", "native") for _ in range(3)]

    def nested(rest: list[str]) -> None:
        if not rest:
            raise KeyError("out")
        with use_backend(rest[0]):
            found = functional.generalized_cross_entropy(x, ids)
            within(found, before, 8 * eps(x.dtype), "loss")
            nested(rest[1:])

    try:
        nested(names)
    except KeyError:
        assert torch.equal(functional.generalized_cross_entropy(x, ids), before)


def renamed(faults: dict[str, Any], also: str) -> dict[str, Any]:
    """The same faults, whose errors may use another name for the argument."""
    return {key.replace(":", f"/{also}:", 1): bad for key, bad in faults.items()}


def renumbered(draw: Draw) -> tuple[Prior, torch.Tensor, torch.Tensor]:
    """A prior with ids of its own, class ids drawn from them and −1, and their columns."""
    classes = draw.choose("classes", (5, 7, 9), (0, 3, 4), (2, 1, 0), (0, 1, 2))
    columns = torch.tensor([draw.integer(f"column {i}", -1, 2) for i in range(4)])
    ids = torch.tensor([*classes, -1])[columns]
    return Prior(torch.eye(4, 3), classes=classes), ids, columns


@target("drcl.Prior.positions")
def positions(draw: Draw) -> None:
    prior, ids, columns = renumbered(draw)
    given = draw.choose("kind", ids, ids.numpy(), ids.tolist(), ids.float())
    assert torch.equal(prior.positions(given), columns)
    with refused("labels"):
        prior.positions([*ids.tolist(), 99])


@target("drcl.Prior.columns_of")
def columns_of(draw: Draw) -> None:
    prior, ids, columns = renumbered(draw)
    assert torch.equal(prior.columns_of(ids), columns)


@target("drcl.Prior.by_column")
def by_column(draw: Draw) -> None:
    prior, _, columns = renumbered(draw)
    other = prior.by_column()
    assert other.classes == (0, 1, 2) and other.weight is prior.weight
    assert torch.equal(other.columns_of(columns), columns)
