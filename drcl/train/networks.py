"""The network of a modality: the paper's encoder or the user's own, and running it in chunks."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drcl.encoder import Encoder
from drcl.train.config import Config
from drcl.train.loop import stream_seed
from drcl.train.samples import Samples

CHUNK_ROWS = 4096


def pick_device(name: str) -> torch.device:
    """``"auto"`` is CUDA where there is one; a device that is not there is a ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} cannot be used here ({error})") from error
    return device


def build_network(
    modality: str,
    samples: Samples,
    networks: Mapping[str, nn.Module],
    config: Config,
    phase: str,
) -> nn.Module:
    """A fresh network: a copy of the user's untouched module, or a newly initialised encoder."""
    if modality in networks:
        return copy.deepcopy(networks[modality])
    if samples.features.ndim != 2:
        raise ValueError(
            f"{modality} features: the default encoder takes rows (N, d), got shape "
            f"{tuple(samples.features.shape)}; pass a network for this modality"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, phase, modality, "weights"))
        return Encoder(samples.features.shape[1], dim=config.dim, hidden=config.hidden)


def apply_in_chunks(network: nn.Module, features: Tensor) -> Tensor:
    """The network's output for all rows, in evaluation mode, without autograd, chunk by chunk."""
    training = network.training
    network.eval()
    with torch.inference_mode():
        output = torch.cat([network(chunk) for chunk in features.split(CHUNK_ROWS)])
    network.train(training)
    return output
