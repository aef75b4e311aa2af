"""Run in an environment that has only the wheel: is everything there, and is it that drcl?"""

import sys
from importlib import metadata
from pathlib import Path

import drcl
import drcl.kernels
from drcl import _C, backends

for module in (drcl, drcl.kernels, _C):
    place = Path(str(module.__file__)).resolve()
    assert place.is_relative_to(Path(sys.prefix).resolve()), f"{module.__name__} is from {place}"
assert metadata.version("drcl") == backends.build_info()["drcl"]
assert backends.build_info()["extension"]["built"]
print(f"wheel {metadata.version('drcl')}: complete in {sys.prefix}")
