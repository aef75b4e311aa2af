"""A trained encoder for other processes, languages and machines: one module, and its files."""

from drcl.deploy.formats import FORMATS, to_onnx, to_pt2
from drcl.deploy.frozen import FrozenEncoder, freeze

__all__ = ["FORMATS", "FrozenEncoder", "freeze", "to_onnx", "to_pt2"]
__dir__ = __all__.copy
