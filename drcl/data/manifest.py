"""Your own data through one small TOML file, with no code to write.

.. code-block:: toml

    name = "birds"                       # default: the manifest's file name
    classes = ["sparrow", "owl"]         # default: the sorted labels that occur

    [train.image]                        # a table for each split and modality
    features = "image_train.npz:x"       # file:key; no key where the file holds one array
    labels = "image_train.npz:y"         # left out: unlabelled
    rows = "0:2000"                      # left out: all
    transpose = false                    # true where the features are stored (d, N)

    [train.song]                         # modalities need not be paired, nor of one size
    features = "songs.parquet:mfcc_*"
    labels = "songs.parquet:species"

    [test.image]
    features = "image_test.mat:X"

Splits are ``train``, ``validation`` and ``test``. Without a ``validation`` table a stratified tenth
of the training rows is held out; ``validation_share`` and ``seed`` change the part and the choice.
Without a ``test`` table there is no test split. File formats and their keys are those of
:func:`drcl.data.files.read_array`. Files lie beside the manifest or below it: a path that leaves
its folder is refused, so a manifest from a stranger reads nothing of yours.

``classes`` is a list, where a label is a name or counts from 0, or a table from label to name for
any other numbering: ``classes = { 1 = "sparrow", 7 = "owl" }``. Labels may be whole numbers (also
as floats, in a column or in a row), names, or multi-hot rows, which may be stored turned, (C, N);
-1 that is not in the table, NaN, an empty name or a row of zeros means unlabelled.

Features are rows (N, d), or arrays (N, ...) such as pictures (N, h, w, c): then give ``fit`` a
network for the modality, ``DRCL(networks=...).fit(load_manifest(path).train)``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from drcl.data.assemble import ArrayAt, SamplesAt, assemble, hold_out_validation
from drcl.data.classes import ClassList
from drcl.data.dataset import CrossModalDataset
from drcl.storage.text import whole_number

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_manifest"]
__dir__ = __all__.copy

SPLITS = ("train", "validation", "test")
SETTINGS = ("name", "classes", "validation_share", "seed")
MODALITY_KEYS = ("features", "labels", "rows", "transpose")


def load_manifest(path: str | Path) -> CrossModalDataset:
    """Load the dataset a manifest describes.

    Args:
        path: the TOML file; its format is described in :mod:`drcl.data.manifest`.

    Raises:
        FileNotFoundError: the manifest or a file it names is missing.
        ValueError: the manifest is no TOML or holds an unknown or malformed entry (each is named
            with what was expected), a path leaves its folder, or a file is not what it should be.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "birds.npz"), x=np.eye(20), y=np.arange(20) % 2)
    ...     manifest = Path(folder, "birds.toml")
    ...     _ = manifest.write_text('''
    ...         classes = ["sparrow", "owl"]
    ...         [train.image]
    ...         features = "birds.npz:x"
    ...         labels = "birds.npz:y"
    ...     ''')
    ...     print(load_manifest(manifest).describe())
    birds: 2 classes
    split       modality  samples  width  labelled
    train       image          18     20    100.0%
    validation  image           2     20    100.0%
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"manifest {path}: no such file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    # Both TOMLDecodeError and UnicodeDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"manifest {path}: expected TOML, got a file that is none ({error})"
        ) from error
    try:
        return _load(table, path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"manifest {path}: {error}") from error


def _load(table: dict[str, Any], path: Path) -> CrossModalDataset:
    _known(table, (*SETTINGS, *SPLITS), "at the top level")
    name = _setting(table, "name", str, path.stem)
    share = _setting(table, "validation_share", float, 0.1)
    seed = _setting(table, "seed", int, 0)
    if "train" not in table:
        raise ValueError("train: expected a table [train.…] for each modality, got none")
    sources = {
        split: {
            modality: _source(entry, path.parent, f"[{split}.{modality}]")
            for modality, entry in _table(table[split], f"[{split}]").items()
        }
        for split in SPLITS
        if split in table
    }
    listed = table.get("classes")
    data = assemble(name, sources, _classes(listed))
    if isinstance(listed, dict):
        data = replace(data, numbers=tuple(sorted(map(int, listed))))
    return data if data.validation else hold_out_validation(data, share, seed)


def _source(entry: Any, folder: Path, where: str) -> SamplesAt:
    entry = _table(entry, where)
    _known(entry, MODALITY_KEYS, f"in {where}")
    if "features" not in entry:
        raise ValueError(f"{where}: expected features, got none")
    for key, value in entry.items():
        kind = bool if key == "transpose" else str
        if not isinstance(value, kind):
            raise ValueError(f"{key} in {where}: expected {_WORDS[kind]}, got {value!r}")
    labels = entry.get("labels")
    return SamplesAt(
        _array_at(entry["features"], folder, f"features in {where}"),
        None if labels is None else _array_at(labels, folder, f"labels in {where}"),
        entry.get("rows", ":"),
        entry.get("transpose", False),
    )


def _array_at(text: str, folder: Path, where: str) -> ArrayAt:
    file, _, key = text.partition(":")
    folder = folder.resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"{where}: expected a file beside the manifest or below it, got {text!r}")
    return ArrayAt(path, key or None)


def _classes(value: Any) -> ClassList | None:
    if value is None:
        return None
    expected = "expected a list of names, or a table from label to name"
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        raise ValueError(f"classes: {expected}, got {value!r}")
    if not all(isinstance(name, str) and name for name in value.values()):
        raise ValueError(f"classes: {expected}, got {list(value.values())!r}")
    try:
        return ClassList.from_table(
            {whole_number(str(label)): name for label, name in value.items()}
        )
    except ValueError:
        raise ValueError(
            f"classes: expected labels that are whole numbers, got {list(value)!r}"
        ) from None


_WORDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number between 0 and 1",
}


def _setting(table: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key, default)
    if type(value) is not kind:
        raise ValueError(f"{key}: expected {_WORDS[kind]}, got {value!r}")
    return value


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: expected a table, got {value!r}")
    return value


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    unknown = [key for key in table if key not in keys]
    if unknown:
        raise ValueError(f"key {where}: expected {', '.join(keys)}, got {unknown[0]!r}")
