"""An encoder as the content of a file: ONNX, or PyTorch's ``.pt2``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from drcl.checks import check_installed
from drcl.deploy.frozen import FrozenEncoder

__all__ = ["FORMATS", "to_onnx", "to_pt2"]
__dir__ = __all__.copy

MOST_BYTES = 2**31 - 2**20  # of weights: a protocol buffer ends at 2 GiB


def to_onnx(encoder: FrozenEncoder, example: Tensor | None = None) -> bytes:
    """The encoder as an ONNX model, its weights inside.

    Its input is ``features`` (rows, d) float32 with any number of rows, its output ``embeddings``.

    Args:
        encoder: of :meth:`drcl.DRCL.encoder`.
        example: a batch of features; needed only for a network of your own on features that were
            not standardized, as nothing else tells their shape.

    Raises ImportError without ``onnx`` and ``onnxscript`` (the extra ``drcl[export]``), and
    ValueError for weights of 2 GiB or more, which no ONNX file can hold, or a missing example.

    >>> import pytest; _ = pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    >>> import onnx
    >>> from drcl.deploy import freeze
    >>> content = to_onnx(freeze(torch.nn.Linear(4, 8), scale=None, calibration=None))
    >>> onnx.load_model_from_string(content).graph.output[0].name
    'embeddings'
    """
    check_installed(
        "the ONNX format needs {}; install it with: pip install 'drcl[export]'",
        "onnx",
        "onnxscript",
    )
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    if size > MOST_BYTES:
        raise ValueError(
            f"encoder: expected less than 2 GiB of weights for ONNX, got {size} bytes; use pt2"
        )
    with _quiet():
        program = torch.onnx.export(
            encoder,
            (_example(encoder, example),),
            dynamo=True,
            dynamic_shapes=({0: "rows"},),
            input_names=["features"],
            output_names=["embeddings"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def to_pt2(encoder: FrozenEncoder, example: Tensor | None = None) -> bytes:
    """The encoder as ``torch.export.save`` writes it, for ``torch.export.load`` and AOTInductor.

    It takes any number of rows. The arguments are those of :func:`to_onnx`; ValueError for a
    missing example.

    >>> from drcl import DRCL, Prior
    >>> y = torch.arange(40) % 4
    >>> prior = Prior.orthogonal(dim=8, classes=4)
    >>> model = DRCL(dim=8, hidden=(16,), epochs=2)
    >>> model = model.fit({"image": (torch.eye(4)[y], y)}, prior=prior, progress=False)
    >>> content = to_pt2(model.encoder("image"))
    >>> torch.export.load(io.BytesIO(content)).module()(torch.eye(4)).shape
    torch.Size([4, 8])
    """
    rows = {0: torch.export.Dim("rows")}
    content = io.BytesIO()
    with _quiet():
        batch = _example(encoder, example)
        torch.export.save(torch.export.export(encoder, (batch,), dynamic_shapes=(rows,)), content)
    return content.getvalue()


FORMATS: dict[str, Callable[[FrozenEncoder], bytes]] = {"onnx": to_onnx, "pt2": to_pt2}


def _example(encoder: FrozenEncoder, given: Tensor | None) -> Tensor:
    """Two rows: given one, an exporter would assume that there is always one."""
    if given is not None:
        return given
    if not encoder.row_shape:
        raise ValueError(
            "example: expected a batch of features for a network that does not say what it takes, "
            "got None"
        )
    return torch.zeros(2, *encoder.row_shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's warnings about its own old names, and about torchvision's ops."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
