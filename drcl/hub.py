"""Model folders on the Hugging Face Hub, through its own client."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

__all__ = ["client_for", "download_model", "is_repository", "upload_model"]
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
