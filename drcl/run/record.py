"""``run.json``: which data, which settings, which versions, how long."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from drcl._version import __version__
from drcl.data import CrossModalDataset, load
from drcl.labels import clean_name
from drcl.run.added import AddedModality, read_added
from drcl.storage.files import check_name
from drcl.storage.sealed import is_number, read_json, to_json, with_checksum, without_checksum
from drcl.train.config import Config

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """What ``run.json`` says.

    Attributes:
        dataset: name, or absolute path of a manifest.
        root: data folder it was loaded from; None is the default one.
        classes: class names; the index is the class id.
        settings: of :class:`drcl.Config`, as plain values.
        versions: of what the numbers depend on.
        seconds: phase -> seconds of training.
        added: modalities that were added later.
    """

    dataset: str
    root: str | None
    classes: tuple[str, ...]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    added: dict[str, AddedModality] = field(default_factory=dict)

    @classmethod
    def describe(
        cls, dataset: str, root: str | None, data: CrossModalDataset, config: Config
    ) -> Run:
        """The run that is about to start; paths are made absolute."""
        return cls(
            dataset=str(Path(dataset).resolve()) if dataset.endswith(".toml") else dataset,
            root=None if root is None else str(Path(root).resolve()),
            classes=data.classes,
            settings=json.loads(json.dumps(config.to_dict())),
            versions={
                "drcl": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": metadata.version("numpy"),
            },
        )

    def load_data(self, elsewhere: str | None = None) -> CrossModalDataset:
        """The data set of the run with the modalities added to it.

        Args:
            elsewhere: another data folder, or another manifest, than the run was trained with.

        Raises:
            FileNotFoundError, ValueError: the data is missing, damaged, or has other classes.
        """
        if elsewhere is not None and elsewhere.endswith(".toml"):
            data = load(elsewhere)
        else:
            data = load(self.dataset, elsewhere or self.root)
        if data.classes != self.classes:
            raise ValueError(
                f"{data.name}: expected the classes of the run, {list(self.classes)}, got "
                f"{list(data.classes)}"
            )
        splits: dict[str, Any] = {name: dict(split) for name, split in data.splits.items()}
        for name, added in self.added.items():
            for split, samples in read_added(added, data).items():
                splits[split][name] = samples
        return replace(data, **splits)


def record_content(run: Run) -> bytes:
    """What :func:`read_record` reads."""
    return to_json(with_checksum({"format": FORMAT, **asdict(run)}))


def read_record(path: Path) -> Run:
    """The inverse of :func:`record_content`; a damaged file, or one of another version's format, is
    a ValueError."""
    values = read_json(path)
    if (found := values.get("format")) != FORMAT:
        raise ValueError(f"{path}: expected run format {FORMAT}, got {found!r}")
    values = without_checksum(values, path)
    del values["format"]
    names = {field.name for field in fields(Run)}
    if set(values) != names:
        raise ValueError(f"{path}: damaged, expected the entries {sorted(names)}")
    for name, good in _KINDS.items():
        if not good(values[name]):
            raise ValueError(f"{path}: damaged, {name} is not what this package writes there")
    try:
        Config.from_dict(values["settings"])
        added = {
            check_name(name): AddedModality(**{k: v and tuple(v) for k, v in entry.items()})
            for name, entry in values.pop("added").items()
        }
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    return Run(**{**values, "classes": tuple(map(clean_name, values["classes"])), "added": added})


def _are(value: Any, kind: type, one: type | tuple[type, ...]) -> bool:
    """Whether this is a list or dict with such values."""
    entries = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(entry, one) for entry in entries)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "dataset": lambda value: isinstance(value, str),
    "root": lambda value: value is None or isinstance(value, str),
    "classes": lambda value: _are(value, list, str),
    "settings": lambda value: isinstance(value, dict),
    "versions": lambda value: _are(value, dict, str),
    "seconds": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "added": lambda value: (
        _are(value, dict, dict)
        and all(
            (_are(files, list, str) and len(files) == 2) or (files is None and split != "train")
            for entry in value.values()
            for split, files in entry.items()
        )
    ),
}


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings that differ from the default, in a line.

    >>> format_settings(Config(dim=64, lr={"image": 0.1}).to_dict())
    'dim 64, lr image 0.1'
    """
    default = json.loads(json.dumps(Config().to_dict()))
    changed = {name: value for name, value in settings.items() if value != default[name]}
    return ", ".join(f"{name} {_plain(value)}" for name, value in changed.items()) or "the default"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " / ".join(f"{name} {one}" for name, one in value.items())
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
