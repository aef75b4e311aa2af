"""Public names: what a module shows, and old names of modules that have moved."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

from drcl import _moved, errors

PUBLIC = [
    *("ablate", "baselines", "cli", "data", "data.dataset", "data.files", "data.manifest"),
    *("deploy", "deploy.formats", "deploy.frozen", "progress"),
    *("distributed", "errors", "estimator", "hub", "index", "model_card", "model_files"),
    "out_of_memory",
    *("precision", "run", "serve"),
    *("tensors", "train.config", "train.prior_learning"),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_shows_its_own_names(name):
    module = importlib.import_module(f"drcl.{name}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, shown) for shown in module.__all__)


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
