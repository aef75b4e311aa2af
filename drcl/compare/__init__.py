"""``drcl compare``: methods of the field under one protocol, over seeds, with tests."""

from drcl import _later

__getattr__ = _later.modules(__name__, "deep", "fitted", "protocol", "study")
