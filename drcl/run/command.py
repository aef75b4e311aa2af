"""The command that trains a run again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from drcl.train.config import Config


def train_command(
    dataset: str, root: str | None, settings: Mapping[str, Any], *, automatic: bool = False
) -> str:
    """``drcl train`` with the settings that differ from the defaults; OUT stands for its folder.

    A model of :func:`drcl.auto` (``automatic``) takes none but seed and device.

    >>> train_command("digits", None, Config(dim=64, lr={"image": 0.1}).to_dict())
    'drcl train digits --preset none --dim 64 --lr image=0.1 --out OUT'
    """
    data = [] if root is None else ["--data", root]
    default = json.loads(json.dumps(Config().to_dict()))
    given = ("seed", "device") if automatic else tuple(settings)
    changed = (_option(k, settings[k]) for k in given if settings[k] != default[k])
    options = [word for words in changed for word in words]
    command = ["drcl", "train", dataset, *data, "--preset", "auto" if automatic else "none"]
    command += [*options, "--out", "OUT"]
    return shlex.join(command)


def _option(name: str, value: Any) -> Iterator[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
    elif isinstance(value, Mapping):
        for modality, one in value.items():
            yield from (flag, f"{modality}={one}")
    elif isinstance(value, (list, tuple)):
        yield from (flag, ",".join(map(str, value)))
    else:
        yield from (flag, "none" if value is None else str(value))
