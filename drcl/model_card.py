"""The card of a model, README.md in its folder: data, fingerprint, scores, seed, versions.

Its head is YAML that the Hugging Face Hub understands. A checksum in its last line says whether it
is still as it was written.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from drcl._version import __version__
from drcl.data.dataset import CrossModalDataset
from drcl.data.fingerprint import fingerprint
from drcl.encoder import is_as_built
from drcl.ensemble import Ensemble
from drcl.ensemble.kernel import KernelClassifier
from drcl.labels import is_labelled
from drcl.tables import counted, markdown
from drcl.train.config import Config

if TYPE_CHECKING:
    from drcl.estimator import DRCL

__all__ = ["check_card", "is_as_written", "model_card"]
__dir__ = __all__.copy

Scores = Mapping[str, Mapping[str, float]]
_MARK = "<!-- drcl model card {:08x} -->\n"


def check_card(data: object, license: object) -> None:
    """Refuse what a card cannot be made with."""
    if data is not None and not isinstance(data, CrossModalDataset):
        raise TypeError(f"data: expected a drcl.data.CrossModalDataset, got {type(data).__name__}")
    if license is not None and not (
        isinstance(license, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", license)
    ):
        raise ValueError(f"license: expected a short name such as 'mit', got {license!r}")


def model_card(model: DRCL, data: CrossModalDataset | None, license: str | None) -> bytes:
    """The card of a fitted model, which is scored on the data's test split."""
    scores = None if data is None else _scores(model, data)
    head = {"library_name": "drcl", **({} if license is None else {"license": license})}
    lines = ["---", *(f"{name}: {_yaml(value)}" for name, value in head.items())]
    lines += [f"tags: {_yaml(['drcl', 'cross-modal-retrieval', *model.modalities])}"]
    if data is not None and scores is not None:
        lines += [f"model-index: {_yaml(_index(data, scores))}"]
    kind = "drcl.auto" if model.tried else "DRCL.fit"
    classes = counted(len(model.classes), "class", "classes")
    where = "one space, where they find each other"
    if len(model.modalities) == 1:
        where = "a space where rows of one class find each other"
    parts = [
        "\n".join([*lines, "---"]),
        "# Cross-modal retrieval with drcl",
        f"Embeds {', '.join(model.modalities)} into {where}. Trained with `{kind}` on labels of "
        f"{classes}; ranked by "
        f"{'cosine' if model.space == 'cosine' else 'class posteriors'}.",
        "```python\nimport drcl\n\n"
        'model = drcl.DRCL.from_pretrained("FOLDER or OWNER/NAME")\n'
        f'rows = model.encode("{model.modalities[0]}", features)\n```',
        markdown([["modality", "network", "parameters"], *_networks(model)], left=2),
    ]
    if holds_rows(model):
        parts += [
            "The kernels in this model hold rows of its training features, scaled: whoever has the "
            "model has them."
        ]
    parts += ["## Data", *_data(data), "## Scores"]
    if data is None or scores is None:
        parts += ["Not recorded."]
    else:
        pairs = list(next(iter(scores.values())))
        rows = [[pair, *(f"{table[pair]:.4f}" for table in scores.values())] for pair in pairs]
        parts += [f"Test split of {_code(data.name)}:", markdown([["pair", *scores], *rows])]
    parts += ["## Training", "\n".join(_training(model))]
    text = "\n\n".join(parts) + "\n\n"
    return (text + _MARK.format(zlib.crc32(text.encode()))).encode()


def is_as_written(path: Path) -> bool:
    """Whether this file is a card as :func:`model_card` wrote it, and not one that was edited."""
    if not path.is_file():
        return False
    text, mark, rest = path.read_bytes().rpartition(b"<!-- drcl model card ")
    return mark + rest == _MARK.format(zlib.crc32(text)).encode()


def holds_rows(model: DRCL) -> bool:
    """Whether rows of the training features are among the parameters."""
    return any(
        isinstance(part, KernelClassifier)
        for encoder in model.encoders.values()
        for part in encoder.modules()
    )


def _scores(model: DRCL, data: CrossModalDataset) -> Scores | None:
    test = {
        name: part
        for name, part in data.test.items()
        if name in model.modalities and is_labelled(part.labels).any()
    }
    return model.evaluate(test) if len(test) > 1 else None


def _networks(model: DRCL) -> list[list[str]]:
    found = []
    for name, network in model.encoders.items():
        if is_as_built(network):
            what = f"perceptron of {network.in_features} features"
        elif isinstance(network, Ensemble):
            what = f"ensemble for {network.in_features} features"
        else:
            what = f"{type(network).__name__}, to be given as `networks`"
        count = sum(value.numel() for value in network.state_dict().values())
        found.append([name, what, f"{count:,}"])
    return found


def _data(data: CrossModalDataset | None) -> list[str]:
    if data is None:
        return ["Not recorded."]
    return [
        f"```\n{data.describe()}\n```",
        f"Fingerprint: `{fingerprint(data)}`. Scores of other methods on data with the same one "
        "(`drcl data`, `drcl compare`) can be compared with those below.",
    ]


def _training(model: DRCL) -> list[str]:
    standard = dataclasses.asdict(Config())
    settings = {
        name: value
        for name, value in dataclasses.asdict(model.config).items()
        if value != standard[name] and name not in ("seed", "device")
    }
    said = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    lines = [
        f"- seed: {model.config.seed}",
        f"- settings: {_code(said) if said else 'the defaults'}",
        f"- versions: drcl {__version__}, torch {torch.__version__}",
    ]
    if model.prior.modality is not None:
        lines.append(f"- prior: learned from {model.prior.modality}")
    return lines


def _index(data: CrossModalDataset, scores: Scores) -> list[dict[str, Any]]:
    metrics = [
        {"type": "map", "name": f"{measure}, mean over pairs", "value": round(table["mean"], 4)}
        for measure, table in scores.items()
    ]
    result = {
        "task": {"type": "cross-modal-retrieval"},
        "dataset": {
            "name": data.name,
            "type": data.name,
            "args": {"fingerprint": fingerprint(data)},
        },
        "metrics": metrics,
    }
    return [{"name": data.name, "results": [result]}]


def _yaml(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_yaml(key)}: {_yaml(one)}' for key, one in value.items())}}}"
    if isinstance(value, float):
        return f"{value:.4f}"
    plain = re.compile(r"[ !#-\[\]-~]")  # ASCII that needs no escape
    return '"' + "".join(c if plain.fullmatch(c) else f"\\U{ord(c):08x}" for c in value) + '"'


def _code(text: str) -> str:
    """Text as code in Markdown, which shows it as it is."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"
