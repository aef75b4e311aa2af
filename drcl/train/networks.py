"""The network of a modality: the paper's encoder or the user's own, and running it in chunks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drcl.encoder import Encoder
from drcl.train.config import Config
from drcl.train.loop import stream_seed
from drcl.train.samples import Modality


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
    samples: Modality,
    networks: Mapping[str, nn.Module],
    config: Config,
    phase: str,
) -> nn.Module:
    """A fresh network: a copy of the user's untouched module, or a newly initialised encoder.

    Of a module in DistributedDataParallel it is the module inside; see :func:`wrapped_like`.
    """
    if modality in networks:
        network = unwrapped(networks[modality])
        _check_network(network, modality)
        return copy.deepcopy(network)
    shape = samples.shape
    if len(shape) != 2:
        raise ValueError(
            f"{modality} features: the default encoder takes rows (N, d), got shape "
            f"{tuple(shape)}; pass a network for this modality"
        )
    seed = stream_seed(config.seed, phase, modality, "weights")
    generator = torch.Generator().manual_seed(seed)
    # Like the features, whatever torch's default dtype is.
    return Encoder(shape[1], dim=config.dim, hidden=config.hidden, generator=generator).float()


def _check_network(network: nn.Module, modality: str) -> None:
    """Refuse what cannot be trained, or not be stored."""
    parameters = list(network.parameters())
    if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
        raise ValueError(
            f"networks: that of {modality} has parameters without a shape yet; call it once on a "
            "batch"
        )
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(f"networks: that of {modality} has no parameter to train")
    others = [name for name, part in network.state_dict().items() if not isinstance(part, Tensor)]
    if others:
        raise ValueError(
            f"networks: that of {modality} keeps {others} in its state, which are no tensors and "
            "cannot be stored"
        )


def unwrapped(network: nn.Module) -> nn.Module:
    """The module inside a DistributedDataParallel; any other is returned as it is."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def wrapped_like(template: nn.Module | None, network: nn.Module) -> nn.Module:
    """``network`` in DistributedDataParallel if ``template`` is, over the same processes."""
    if not isinstance(template, DistributedDataParallel):
        return network
    return DistributedDataParallel(
        network,
        device_ids=template.device_ids,
        process_group=template.process_group,
        find_unused_parameters=template.find_unused_parameters,
    )


def averaging(network: nn.Module) -> Callable[[list[Tensor]], None] | None:
    """For a network in DistributedDataParallel, what averages tensors over its processes."""
    if not isinstance(network, DistributedDataParallel):
        return None
    group = network.process_group

    def average(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor, group=group)
            tensor.div_(group.size())

    return average
