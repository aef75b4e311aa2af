"""Ablations: what each part of the method brings, over seeds, beside linear baselines.

``variants`` says what is trained, ``study`` trains and stores it, ``table`` compares and writes it.
"""

from drcl.ablate.study import Study, ablate
from drcl.ablate.table import Row, Table
from drcl.ablate.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Row", "Study", "Table", "Variant", "ablate"]
__dir__ = __all__.copy
