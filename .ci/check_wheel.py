"""Run in an environment that has only the wheel: is everything there, and is it that drcl?"""

import sys
from importlib import metadata, resources
from pathlib import Path

import drcl
import drcl.kernels
from drcl import _C, backends

for module in (drcl, drcl.kernels, _C):
    place = Path(str(module.__file__)).resolve()
    assert place.is_relative_to(Path(sys.prefix).resolve()), f"{module.__name__} is from {place}"
assert metadata.version("drcl") == backends.build_info()["drcl"]
assert backends.build_info()["extension"]["built"]
for name in ("template.html.jinja", "report.css"):
    assert resources.files("drcl.report").joinpath(name).is_file(), f"{name} is not in the wheel"
print(f"wheel {metadata.version('drcl')}: complete in {sys.prefix}")
