"""Every legal combination of PyTorch's settings for the precision of float32 products."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

SETTINGS = [
    ("generic", "all"),
    *((backend, op) for backend in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")),
]
OLDER = ("highest", "high", "medium")
GENERIC = ("none", "ieee", "tf32", "bf16")
ON_CUDA = ("none", "ieee", "tf32")
ON_MKLDNN = GENERIC


class State(NamedTuple):
    """The older setting, then the newer ones from the top down; ``None``: what the older set."""

    older: str = "highest"
    generic: str = "none"
    cuda: str = "none"
    mkldnn: str = "none"
    cuda_matmul: str | None = None
    mkldnn_matmul: str | None = None

    @property
    def on_cuda(self) -> str:
        """What PyTorch's rules make of it for a product on a GPU."""
        by_older = "ieee" if self.older == "highest" else "tf32"
        leaf = by_older if self.cuda_matmul is None else self.cuda_matmul
        return _first(leaf, self.cuda, self.generic, allowed=ON_CUDA)

    @property
    def on_mkldnn(self) -> str:
        """The same for a product on a CPU."""
        by_older = {"highest": "ieee", "high": "tf32", "medium": "bf16"}[self.older]
        leaf = by_older if self.mkldnn_matmul is None else self.mkldnn_matmul
        return _first(leaf, self.mkldnn, self.generic, allowed=ON_MKLDNN)

    @property
    def contradicts(self) -> bool:
        """Whether PyTorch refuses to say the older setting."""
        return (
            (self.on_cuda == "tf32" and self.older == "highest")
            or (self.on_mkldnn == "bf16" and self.older != "medium")
            or (self.on_mkldnn == "tf32" and self.older != "high")
        )


def _first(*values: str, allowed: tuple[str, ...]) -> str:
    found = next((value for value in values if value != "none"), "none")
    return found if found in allowed else "none"


def states(older: str, generic: str) -> list[State]:
    """All with these two; the older setting comes first, as the last would undo what it sets."""
    below = itertools.product(ON_CUDA, ON_MKLDNN, (None, *ON_CUDA), (None, *ON_MKLDNN))
    return [State(older, generic, *rest) for rest in below]


# One of each kind: every reason for which PyTorch refuses the older setting, every level of the
# tree, and the consistent ones.
KINDS = [
    State(),
    State("high"),
    State("medium"),
    State(cuda_matmul="tf32"),
    State(mkldnn_matmul="bf16"),
    State(mkldnn_matmul="tf32"),
    State("medium", mkldnn_matmul="tf32"),
    State("high", cuda_matmul="ieee"),
    State(generic="tf32", cuda_matmul="none", mkldnn_matmul="none"),
    State(generic="bf16", cuda_matmul="none", mkldnn_matmul="none"),
    State("medium", "ieee", cuda_matmul="none", mkldnn_matmul="none"),
    State(cuda="tf32", cuda_matmul="none", mkldnn="bf16", mkldnn_matmul="none"),
]


def show(setting: tuple[str, str]) -> str:
    return torch._C._get_fp32_precision_getter(*setting)


def write(setting: tuple[str, str], value: str) -> None:
    torch._C._set_fp32_precision_setter(*setting, value)


@contextlib.contextmanager
def settings(state: State) -> Iterator[None]:
    """As a user would set them; afterwards PyTorch's own, and what each said itself before."""
    said = fingerprint()[-1]
    assert isinstance(said, dict)
    torch.set_float32_matmul_precision(state.older)
    torch.backends.fp32_precision = state.generic
    torch.backends.cudnn.fp32_precision = state.cuda
    write(("mkldnn", "all"), state.mkldnn)  # torch.backends.mkldnn.fp32_precision sets the top
    if state.cuda_matmul is not None:
        torch.backends.cuda.matmul.fp32_precision = state.cuda_matmul
    if state.mkldnn_matmul is not None:
        torch.backends.mkldnn.matmul.fp32_precision = state.mkldnn_matmul
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for setting, value in said.items():
            write(setting, value)


def fingerprint() -> list[object]:
    """All that can be told apart of the settings: what each shows, and what it says itself."""
    found: list[object] = [show(setting) for setting in SETTINGS]
    for getter in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
    ):
        try:
            found.append(getter())
        except RuntimeError:
            found.append("contradiction")
    tops = [setting for setting in SETTINGS if setting[1] == "all"]
    products = [setting for setting in SETTINGS if setting[1] == "matmul"]
    said = {}
    for setting in tops:
        said[setting] = show(setting)
        write(setting, "none")  # and what is below says so itself
    for setting in SETTINGS:
        found.append(show(setting))
    said |= {setting: show(setting) for setting in products}
    for setting in tops:
        write(setting, "ieee")
    for setting in SETTINGS:
        found.append(show(setting))  # TF32 that gives way is not what TF32 that stays is
    for setting in products:
        write(setting, "ieee")  # the older one can be read now
    found.append(torch.get_float32_matmul_precision())
    for setting, value in said.items():
        write(setting, value)
    return [*found, said]
