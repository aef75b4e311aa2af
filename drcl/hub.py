"""Model folders on the Hugging Face Hub, through its own client."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType

__all__ = ["client_for", "download_model", "find_model", "is_repository", "upload_model"]
__dir__ = __all__.copy

# What belongs to a model; no pattern takes a pickle. The folder of a run holds more.
PARTS = ["prior.*.safetensors", "encoders/*.safetensors", "history.*.json"]
FILES = ["config.json", "README.md", *PARTS]
PUSHING = "push_to: the hub"
_WORD = "[A-Za-z0-9][A-Za-z0-9._-]*"


def is_repository(name: object) -> bool:
    """Whether this can be the name of a repository on the hub.

    >>> is_repository("owner/model"), is_repository("../model")
    (True, False)
    """
    return isinstance(name, str) and bool(re.fullmatch(f"{_WORD}/{_WORD}", name))


def find_model(source: str | Path, revision: str | None) -> tuple[Path, Path | None]:
    """The folder of a model, from the hub where there is none, and the one its links stay within.

    Raises TypeError for a source that is no path, ValueError for the revision of a folder, and what
    :func:`download_model` raises.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a folder or OWNER/NAME, got {type(source).__name__}")
    folder = Path(source)
    if not folder.is_dir() and is_repository(source):
        folder = download_model(str(source), revision)
        return folder, folder.parents[1]  # snapshots/COMMIT are links to files in blobs
    if revision is not None:
        raise ValueError(
            f"revision: expected None for what is no repository on the hub, got {revision!r}"
        )
    return folder, None


def download_model(repository: str, revision: str | None = None) -> Path:
    """The folder of a model from the hub, in the client's cache.

    Raises ImportError without huggingface_hub, and what the client raises.
    """
    about = f"{repository}: there is no such folder, and to look for it on the hub"
    client = client_for(about)
    return Path(client.snapshot_download(repository, revision=revision, allow_patterns=FILES))


def upload_model(folder: Path, repository: str) -> None:
    """Put a model on the hub in one commit, which removes the parts of an older one.

    A repository that does not exist is made, and is private.

    Raises ImportError without huggingface_hub, and what the client raises.
    """
    client = client_for(PUSHING)
    client.create_repo(repository, private=True, exist_ok=True)
    client.upload_folder(
        repo_id=repository, folder_path=folder, allow_patterns=FILES, delete_patterns=PARTS
    )


def client_for(what: str) -> ModuleType:
    """The package huggingface_hub; ImportError that says what needs it."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            f"{what} needs the package huggingface_hub ({error}); install it with: pip install "
            "'drcl[hub]'"
        ) from error
