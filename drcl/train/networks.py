"""The network of a modality: the paper's encoder or the user's own, and running it in chunks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from drcl.checks import check_modalities
from drcl.encoder import Encoder
from drcl.out_of_memory import first_line
from drcl.train.config import Config, setting, stream_seed
from drcl.train.datasets import LoadedSamples
from drcl.train.ranks import Ranks
from drcl.train.samples import Modality


def pick_device(name: str) -> torch.device:
    """``"auto"`` is CUDA where there is one; a device that this machine lacks is a ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = first_line(error)
        raise ValueError(f"device: expected one that is here, got {name!r} ({reason})") from error
    if device.type == "meta":
        raise ValueError(f"device: expected one that holds numbers, got {name!r}")
    return device


def build_network(
    modality: str, samples: Modality, networks: Mapping[str, nn.Module], config: Config, phase: str
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
            f"{modality} features: expected rows (N, d) for the default encoder, got shape "
            f"{tuple(shape)}; pass a network for this modality"
        )
    seed = stream_seed(config.seed, phase, modality, "weights")
    generator = torch.Generator().manual_seed(seed)
    # Like the features, whatever torch's default dtype is.
    return Encoder(shape[1], dim=config.dim, hidden=config.hidden, generator=generator).float()


def check_networks(networks: Mapping[str, nn.Module] | None) -> dict[str, nn.Module]:
    """The networks as a dict of their own; anything but modules by modality is refused."""
    networks = {} if networks is None else networks
    check_modalities("networks", networks, "nn.Module")
    for modality, network in networks.items():
        if isinstance(network, type):
            raise TypeError(
                f"networks: expected a module for {modality}, got the class {network.__name__}; "
                f"make one: {network.__name__}(…)"
            )
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"networks: expected an nn.Module for {modality}, got {type(network).__name__}; a "
                "function needs a module whose forward() calls it"
            )
    return dict(networks)


def check_trained(
    networks: Mapping[str, nn.Module], modalities: Iterable[str], *, divided: bool
) -> None:
    """Refuse networks of other modalities; wrapped ones where drcl itself divides the work."""
    strangers = sorted(set(networks) - set(modalities))
    if strangers:
        raise ValueError(f"networks: expected modalities of {sorted(modalities)}, got {strangers}")
    wrapped = sorted(m for m, n in networks.items() if unwrapped(n) is not n)
    if divided and wrapped:
        raise ValueError(
            "networks: expected plain modules beside parallel, got DistributedDataParallel for "
            f"{wrapped}; give the modules inside"
        )


def fewest_rows(
    network: nn.Module, modality: str, samples: Modality, config: Config, ranks: Ranks | None
) -> int:
    """How few rows a batch may have: with some batch normalisation, one cannot be.

    Raises ValueError where there can be no such batch.
    """
    if not _needs_two_rows(network, samples):
        return 1
    # Every process normalises its own rows.
    least = 2 * (1 if ranks is None else ranks.world)
    size = min(setting(config.batch_size, modality), len(samples.targets))
    if size < least:
        raise ValueError(
            f"batch_size: expected batches of {least} rows for the batch normalisation in the "
            f"network of {modality}, got {size}"
        )
    return least


def _needs_two_rows(network: nn.Module, samples: Modality) -> bool:
    """Found out by trying: one row of pictures has enough values in a channel."""
    kinds = {type(module) for module in network.modules()}
    if not any(issubclass(kind, _BatchNorm) for kind in kinds) or nn.SyncBatchNorm in kinds:
        return False
    row = torch.zeros((1, *samples.shape[1:]))
    if isinstance(samples, LoadedSamples):
        row = samples.as_input(row.to(samples.first.dtype))
    trial = copy.deepcopy(network).cpu().train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial(row)
    except Exception as error:  # any other will be met, and told, in training
        return "more than 1 value per channel" in str(error)
    return False


def _check_network(network: nn.Module, modality: str) -> None:
    """Refuse what cannot be trained, or not be stored."""
    parameters = list(network.parameters())
    if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
        raise ValueError(
            f"networks: expected parameters with a shape, got lazy ones for {modality}; call it "
            "once on a batch"
        )
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(f"networks: expected a parameter to train, got none for {modality}")
    others = [name for name, part in network.state_dict().items() if not isinstance(part, Tensor)]
    if others:
        raise ValueError(
            f"networks: expected a state of tensors, which can be stored, got {others} in that of "
            f"{modality}"
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
