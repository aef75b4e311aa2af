"""Deep methods of the field: their losses, small networks, and one loop that trains them all.

Written from the papers' formulas. Where a paper leaves a choice open, or its authors' code does
otherwise, the method says what is done here.
"""

from drcl import _later

__all__ = ["acmr", "dscmr", "mars", "mrl", "sdml", "training"]
__dir__ = __all__.copy
__getattr__ = _later.names(__name__, *__all__)
