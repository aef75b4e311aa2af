"""Public names: what a module shows, and old names of modules that have moved."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import drcl
from drcl import _moved, errors

PUBLIC = [
    *(
        "ablate",
        "baselines",
        "cli",
        "compare",
        "compare.deep",
        "compare.deep.training",
        "compare.fitted",
        "compare.protocol",
        "compare.study",
        "data",
        "data.dataset",
        "data.files",
        "data.manifest",
    ),
    *("deploy", "deploy.formats", "deploy.frozen", "progress"),
    *("distributed", "errors", "estimator", "hub", "index", "model_card", "model_files"),
    "out_of_memory",
    *("data.fingerprint", "data.sets.digits", "data.sets.synthetic"),
    *("metrics.lists", "metrics.measures", "metrics.statistics", "metrics.user_models"),
    *("ops.derivatives", "reference.average_precision", "reference.reversible_consistency"),
    *("precision", "run", "serve"),
    *("tensors", "train.config", "train.prior_learning"),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_shows_its_own_names(name):
    module = importlib.import_module(f"drcl.{name}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, shown) for shown in module.__all__)


def test_the_package_shows_its_names_and_its_modules():
    hidden = [name for name in dir(drcl) if name.startswith("_")]
    assert hidden == ["__version__"]
    assert set(drcl.__all__) < set(dir(drcl))
    assert all(hasattr(drcl, shown) for shown in dir(drcl))


@pytest.mark.parametrize("old", _moved.MOVED)
def test_a_module_that_has_moved_imports_under_its_old_name(old):
    sys.modules.pop(old, None)
    new = importlib.import_module(_moved.MOVED[old])
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new.__name__}") as told:
        module = importlib.import_module(old)
    assert told[0].filename == importlib.__file__  # of whoever imports it
    for name in dir(new):
        if not name.startswith("__"):
            assert getattr(module, name) is getattr(new, name)
    assert dir(module) == dir(new)
    with pytest.raises(AttributeError):
        module.nothing  # noqa: B018


def test_exceptions_are_found_where_they_were():
    from drcl.dispatch import BackendUnavailable
    from drcl.run import RunExists
    from drcl.train.loop import NonFiniteLoss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from drcl.agreement import RankFailed
    for one in (BackendUnavailable, NonFiniteLoss, RankFailed, RunExists):
        assert getattr(errors, one.__name__) is one


def test_the_package_itself_uses_no_old_name():
    code = (
        "import importlib, pkgutil, drcl\n"
        "for module in pkgutil.walk_packages(drcl.__path__, 'drcl.'):\n"
        "    name = module.name.rpartition('.')[2]\n"
        "    if not name.startswith('_') and 'kernels' not in module.name:\n"
        "        importlib.import_module(module.name)\n"
    )
    command = [sys.executable, "-W", "error:drcl:DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# In a fork each, as what one name imports would let others be found too; names that begin alike are
# forked where they part, so that what they share is imported once.
WALK = """
import os, sys
import drcl
later = {"ablate", "cli", "compare", "data", "estimator", "index", "metrics", "run", "serve"}
later = {f"drcl.{name}" for name in later}
assert later.isdisjoint(sys.modules), later.intersection(sys.modules)
tree = {}
for name in sys.argv[1:]:
    below = tree
    for part in name.split(".")[1:]:
        below = below.setdefault(part, {})

def walk(there, name, tree):
    for part, below in tree.items():
        child = os.fork()
        if child == 0:
            try:
                walk(getattr(there, part), f"{name}.{part}", below)
            except Exception as error:
                print(f"{name}.{part}: {error}", flush=True)
            os._exit(0)
        os.waitpid(child, 0)

walk(drcl, "drcl", tree)
"""


def test_every_name_in_the_documentation_is_there_after_import_drcl_alone():
    docs = Path(__file__).parents[1] / "docs"
    dotted = re.compile(r"\bdrcl(?:\.[A-Za-z_]\w*)+")
    names = {
        name for path in docs.rglob("*.md") for name in dotted.findall(path.read_text("utf-8"))
    }
    names = {name.replace("drcl.fish", "drcl") for name in names}  # a file
    # Started with python -m; functions of the name of their module, shown without it.
    apart = ("drcl.benchmarks.", "drcl.reference.")
    assert sum(name.startswith("drcl.metrics.") for name in names) > 25
    walked = sorted(name for name in names if not name.startswith(apart))
    command = [sys.executable, "-c", WALK, *walked]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for name in names - set(walked):
        pkgutil.resolve_name(name)


def test_a_package_has_no_module_that_is_not_there():
    with pytest.raises(AttributeError, match=r"module 'drcl.metrics' has no attribute 'nothing'"):
        drcl.metrics.nothing  # noqa: B018
