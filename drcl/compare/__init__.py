"""``drcl compare``: methods of the field under one protocol, over seeds, with tests."""

from drcl import _later

__all__ = ["deep", "fitted", "methods", "protocol", "study"]
__dir__ = __all__.copy
__getattr__ = _later.names(__name__, *__all__)
