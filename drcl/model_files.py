"""A trained model as files: ``config.json``, the prior, and one file per encoder.

``config.json`` names every other file together with the digest in its name, and is replaced last,
in one step: a reader of the folder finds one whole model, the old or the new. It holds a checksum
of its own entries: no file of the folder is used before it is known to be what was written.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from drcl.checks import check_option, check_temperature
from drcl.encoder import Encoder, is_as_built
from drcl.ensemble import Ensemble
from drcl.model_card import is_as_written
from drcl.portable import remove_unused
from drcl.prior import Prior
from drcl.storage import sealed
from drcl.storage.files import check_name, locked, staged, write_bytes
from drcl.train.config import SPACES, Config
from drcl.train.history import check_history
from drcl.train.networks import unwrapped
from drcl.train.standardize import Standardizer

if TYPE_CHECKING:
    from drcl.estimator import DRCL

__all__ = [
    *("StoredModel", "check_folder", "drop_stale_parts", "read_model", "write_model"),
    "write_parts",
]
__dir__ = __all__.copy

FORMAT = 1
PATIENCE = 5.0  # seconds that a writer waits for another
ATTEMPTS = 10  # of a reader whose model is replaced meanwhile


class StoredModel(NamedTuple):
    """Everything a :class:`drcl.DRCL` is made of.

    ``space`` and ``temperatures`` (τ by modality) say what pairs are ranked by; ``tried`` is what
    :func:`drcl.auto` tried.
    """

    config: Config
    prior: Prior
    encoders: dict[str, nn.Module]
    standardizers: dict[str, Standardizer]
    history: list[dict[str, Any]]
    space: str
    temperatures: dict[str, float]
    tried: list[dict[str, Any]]


def check_folder(folder: Path) -> None:
    """Refuse a file where a model's folder is to be."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder: expected a folder or a new name, got {folder}, a file")


def write_model(folder: Path, model: DRCL, card: bytes | None = None) -> Path:
    """Write the files, then the ``config.json`` that points to them, then remove stale ones.

    Two writers would remove each other's files: the second waits, and is refused in the end. The
    card of an older model goes first, so that none ever stands beside a model it is not of.
    """
    check_folder(folder)
    with locked(folder, PATIENCE):
        readme = folder / "README.md"
        stale = is_as_written(readme)
        if card is not None and not stale and (readme.exists() or readme.is_symlink()):
            raise FileExistsError(
                f"{readme}: expected none, or a model card as it was written, got another file; "
                "move it away, or write the model without a card: save()"
            )
        config = write_parts(folder, model)
        # A link may lead to another model's: it is replaced, and not written through.
        files = {folder / "config.json": config}
        with staged(files if card is None else {**files, readme: card}) as put_in_place:
            if stale:
                readme.unlink()
            put_in_place()
        drop_stale_parts(folder, config)
    return folder


def write_parts(folder: Path, model: DRCL) -> bytes:
    """Write all but ``config.json`` beside the files of an older model; returns its content.

    The caller holds the lock of the folder.
    """
    prior = model.prior  # of a model that is not fitted nothing is written
    if (folder / "encoders").is_symlink():  # it may lead to another model's, which would be removed
        raise OSError(
            f"{folder / 'encoders'}: a symbolic link, expected a folder of the model's own"
        )
    history = json.dumps(model.history).encode()
    config: dict[str, Any] = {
        "format": FORMAT,
        "settings": model.config.to_dict(),
        "prior": {"file": "", **prior.metadata()},
        "encoders": {
            check_name(name): {
                "file": "",
                "network": _describe(encoder),
                "temperature": model.temperatures[name],
            }
            for name, encoder in model.encoders.items()
        },
        "space": model.space,
        "tried": model.tried,
        "history": f"history.{hashlib.sha256(history).hexdigest()[:16]}.json",
    }
    sealed.to_json(config)  # refused before anything is written, if it is not JSON
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoder in model.encoders.items():
        tensors = {f"network.{key}": value for key, value in encoder.state_dict().items()}
        if name in model.standardizers:
            tensors |= {
                f"standardizer.{key}": value
                for key, value in model.standardizers[name]._asdict().items()
            }
        config["encoders"][name]["file"] = _store(folder, f"encoders/{name}", tensors)
    write_bytes(folder / config["history"], history)
    config["prior"]["file"] = _store(folder, "prior", {"weight": prior.weight})
    return sealed.to_json(sealed.with_checksum(config))


def drop_stale_parts(folder: Path, content: bytes) -> None:
    """Remove the parts of a model that this content of ``config.json`` does not name."""
    config = json.loads(content)
    kept = {config["history"], config["prior"]["file"]}
    kept |= {entry["file"] for entry in config["encoders"].values()}
    digest = "[0-9a-f]" * 16  # anything else in the folder is not ours to remove
    for pattern in ("prior.{}.safetensors", "encoders/*.{}.safetensors", "history.{}.json"):
        for file in folder.glob(pattern.format(digest)):
            if file.relative_to(folder).as_posix() not in kept:
                remove_unused(file)


def read_model(
    folder: Path, networks: Mapping[str, nn.Module], within: Path | None = None
) -> StoredModel:
    """Read and verify a model folder; every fault is a ValueError that names the file.

    A model that is replaced meanwhile is read anew, so that all files are those of one model.
    Symbolic links must not lead out of ``within``, by default the folder itself.
    """
    within = within or folder
    path = folder / "config.json"
    if not path.is_file():  # a named pipe, say, would be waited for
        raise FileNotFoundError(f"{folder}: holds no model (no config.json)")
    for _ in range(ATTEMPTS - 1):
        config = sealed.read_json(path)
        try:
            return _read_named(folder, config, networks, within)
        except _Missing:
            if sealed.read_json(path) == config:
                raise
    return _read_named(folder, sealed.read_json(path), networks, within)


class _Missing(ValueError):
    """A file that ``config.json`` names is not there, or no longer."""


def _read_named(
    folder: Path, config: dict[str, Any], networks: Mapping[str, nn.Module], within: Path
) -> StoredModel:
    path = folder / "config.json"
    if (found := config.get("format")) != FORMAT:
        raise ValueError(f"{path}: expected model format {FORMAT}, got {found!r}")
    try:
        return _read(folder, sealed.without_checksum(config, path), networks, within)
    except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: incomplete or damaged ({error!r})") from error


def _read(
    folder: Path, config: dict[str, Any], networks: Mapping[str, nn.Module], within: Path
) -> StoredModel:
    path, about = folder / "config.json", config["prior"]
    weight = _load(folder, about["file"], within)["weight"]
    with _naming(path):
        settings = Config.from_dict(config["settings"])
        prior = Prior(
            weight,
            classes=tuple(about["classes"]),
            modality=about["modality"],
            score=about["score"],
        )
    encoders: dict[str, nn.Module] = {}
    standardizers, temperatures = {}, {}
    for name, entry in config["encoders"].items():
        tensors = _load(folder, entry["file"], within)
        with _naming(path):
            encoders[check_name(name)] = _rebuild(name, entry["network"], networks)
            # Models of before spaces have none.
            temperatures[name] = check_temperature(entry.get("temperature", 1.0), torch.float32)
        parameters = _part(tensors, "network.")
        network = encoders[name]
        if isinstance(network, Ensemble) and "root" not in entry["network"]:
            # Ensembles of before they scaled their features themselves had a standardizer.
            width = network.in_features
            parameters |= {"scaling.mean": torch.zeros(width), "scaling.std": torch.ones(width)}
        _load_parameters(encoders[name], parameters, folder / entry["file"])
        stored = _part(tensors, "standardizer.")
        if stored:
            standardizers[name] = Standardizer(**stored)
        with _naming(folder / entry["file"]):
            _check_fit(encoders[name], standardizers.get(name), prior)
    content = _verified(folder, config["history"], within)
    with _naming(folder / config["history"]):
        history = check_history(json.loads(content))
    with _naming(path):
        # Models of before spaces rank by cosine.
        space = check_option("space", config.get("space", "cosine"), SPACES)
    return StoredModel(
        settings,
        prior,
        encoders,
        standardizers,
        history,
        space,
        temperatures,
        tried=config.get("tried", []),
    )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a part of the model refuses was said by this file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: v for key, v in tensors.items() if key.startswith(prefix)}


def _store(folder: Path, stem: str, tensors: dict[str, Tensor]) -> str:
    content = sealed.pack(tensors, {})
    name = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    write_bytes(folder / name, content)
    return name


def _verified(folder: Path, name: str, within: Path) -> bytes:
    """A file's content, checked against the digest in its name."""
    path = folder / name
    with _naming(folder / "config.json"):  # of a name that no file can have
        inside = path.resolve().is_relative_to(within.resolve())
    if not inside:
        raise ValueError(f"{folder / 'config.json'}: expected files in the folder, got {name!r}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a file, as config.json says, got a folder or the like")
    with _present(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:16] not in name.split("."):
        raise ValueError(f"{path}: digest mismatch, the file is truncated or damaged")
    return content


@contextlib.contextmanager
def _present(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _Missing(f"{path}: missing, though config.json names it") from error


def _load(folder: Path, name: str, within: Path) -> dict[str, Tensor]:
    _verified(folder, name, within)
    with _present(folder / name):
        return sealed.read_tensors(folder / name)[0]


def _describe(network: nn.Module) -> dict[str, Any]:
    if is_as_built(network):
        return {
            "kind": "encoder",
            "in_features": network.in_features,
            "dim": network.dim,
            "hidden": list(network.hidden),
        }
    if type(network) is Ensemble:
        return {"kind": "ensemble", **network.describe()}
    return {"kind": type(network).__name__}


def _rebuild(name: str, about: dict[str, Any], networks: Mapping[str, nn.Module]) -> nn.Module:
    with torch.device("meta"):  # no memory for shapes that the stored parameters do not have
        if about["kind"] == "encoder":
            return Encoder(about["in_features"], dim=about["dim"], hidden=about["hidden"])
        if about["kind"] == "ensemble":
            return Ensemble.build(about)
    if name not in networks:
        raise ValueError(
            f"networks: modality {name!r} was trained with a network of your own "
            f"({about['kind']}); pass it as networks={{{name!r}: module}}"
        )
    return copy.deepcopy(unwrapped(networks[name]))


def _check_fit(network: nn.Module, standardizer: Standardizer | None, prior: Prior) -> None:
    """Refuse parts of several models: they would fail, or mislead, when they are used."""
    if standardizer is not None and standardizer.mean.shape != standardizer.std.shape:
        raise ValueError(
            f"standardizer: expected a std of shape {tuple(standardizer.mean.shape)}, as its mean, "
            f"got {tuple(standardizer.std.shape)}"
        )
    if isinstance(network, Ensemble) and network.classes != prior.weight.shape[1]:
        classes = prior.weight.shape[1]
        raise ValueError(
            f"ensemble: expected {classes} classes, as the prior has, got {network.classes}"
        )
    if not is_as_built(network):
        return
    if network.dim != prior.dim:
        raise ValueError(f"encoder: expected dim {prior.dim}, as the prior has, got {network.dim}")
    if standardizer is not None and standardizer.mean.shape != (network.in_features,):
        raise ValueError(
            f"standardizer: expected shape ({network.in_features},), as the encoder's features, "
            f"got {tuple(standardizer.mean.shape)}"
        )


def _load_parameters(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = is_as_built(network) or isinstance(network, Ensemble)
    if own:
        # Float32 whatever the default was; kernels say what else they hold.
        kinds = {} if is_as_built(network) else network.state_dict()
        state = {
            key: value.to(kinds[key].dtype if key in kinds else torch.float32, copy=True)
            for key, value in state.items()
        }
    try:
        network.load_state_dict(state, assign=own)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the network ({error})") from error
    network.eval()
