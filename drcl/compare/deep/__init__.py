"""Deep methods of the field: their losses, small networks, and one loop that trains them all.

Written from the papers' formulas. Where a paper leaves a choice open, or its authors' code does
otherwise, the method says what is done here.
"""

from drcl import _later

__getattr__ = _later.modules(__name__, "acmr", "dscmr", "mars", "mrl", "sdml", "training")
