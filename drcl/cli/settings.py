"""Command-line options made from :class:`drcl.Config`: its names, types, defaults and words."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
import torch

from drcl.storage.text import whole_number
from drcl.train.config import PER_MODALITY, PRESETS, Config

F = TypeVar("F", bound=Callable[..., Any])

AUTO = "auto"

# The presets of the sets that are not called like them.
PRESET_OF = {
    "wikipedia": "wikipedia-raw",
    "wikipedia-deep": "wikipedia",
    "inria-websearch": "inria",
}

data_folder_option = click.option(
    "--data", metavar="DIR", help="Data folder; default: $DRCL_DATA, else ./data."
)
seeds_option = click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Number of seeds."
)


def config_options(*, without: Container[str] = (), one_modality: bool = False) -> Callable[[F], F]:
    """Add an option for every setting of :class:`Config`; one that is not given arrives as None,
    or as () where it may be repeated. For ``one_modality`` of a run the help names no defaults, as
    they are the run's, and no other modality."""

    def decorate(function: F) -> F:
        for field in reversed(dataclasses.fields(Config)):
            if field.name not in without:
                function = _option(field, one_modality)(function)
        return function

    return decorate


def preset_option(function: F) -> F:
    """Add ``--preset``."""
    return click.option(
        "--preset",
        type=click.Choice(["none", AUTO, *PRESETS]),
        help="Settings to start from; other options override them. Default: the preset of the data "
        "set, if it has one; 'none' means the defaults listed here, 'auto' a calibrated kernel "
        "regression chosen by cross-validation, which takes no settings (drcl.auto).",
    )(function)


def preset_for(dataset: str, preset: str | None) -> tuple[str, Config]:
    """The name and the settings of the preset that applies to a data set."""
    name = PRESET_OF.get(dataset, dataset) if preset is None else preset
    return (name, PRESETS[name]) if name in PRESETS else ("none", Config())


def merge(base: Config, given: Mapping[str, Any], modalities: Iterable[str]) -> Config:
    """``base`` with the options that were given on top."""
    changes = {}
    for name, value in given.items():
        if name in PER_MODALITY:
            if value:
                changes[name] = _per_modality(name, value, getattr(base, name), list(modalities))
        elif value is not None:
            changes[name] = None if value == NONE else value
    return dataclasses.replace(base, **changes)


def attribute_help() -> dict[str, str]:
    """Setting -> its words in the docstring of :class:`Config`."""
    names = {field.name for field in dataclasses.fields(Config)}
    text = inspect.cleandoc(Config.__doc__ or "").partition("Attributes:")[2]
    found: dict[str, str] = {}
    current: list[str] = []
    for line in text.splitlines():
        start = re.match(r"\s*([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        if start and set(start[1].split(", ")) <= names:
            current = start[1].split(", ")
            found |= dict.fromkeys(current, start[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in current}
    return {name: _sentence(name, words) for name, words in found.items()}


def _sentence(name: str, words: str) -> str:
    words = words.replace("`", "")
    if words.startswith("of "):
        words = f"{_NOUNS.get(name, name)} {words}"
    # A Greek letter stays as it is: Λ is not λ.
    return words[0].upper() + words[1:] if words[:1].isascii() else words


# What is named in the docstring beside another setting.
_NOUNS = {"lr": "learning rate", "prior_lr": "learning rate", "prior_epochs": "epochs"}


def _option(field: dataclasses.Field[Any], one_modality: bool) -> Callable[[F], F]:
    name, default = field.name, field.default
    flag = f"--{name.replace('_', '-')}"
    kind = _param_type(name)
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    words, metavar = attribute_help().get(name, ""), None
    if one_modality:
        metavar = kind.number.name.upper() if name in PER_MODALITY else None
    else:
        if name in PER_MODALITY:
            words += " One value for all, or MODALITY=VALUE, repeated."
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        words += f"  [default: {shown}]"
    return click.option(
        flag,
        name,
        type=kind,
        multiple=name in PER_MODALITY,
        default=None,
        metavar=metavar,
        help=words,
    )


def _param_type(name: str) -> Any:
    hint = _HINTS[name]
    if name == "hidden":
        return _Widths()
    if name == "device":
        return Device()
    if name in PER_MODALITY:
        return _ForModality(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if type(None) in get_args(hint):
        return _Optional(get_args(hint)[0])
    return hint


_HINTS = get_type_hints(Config)
NONE = "none"


class _ForModality(click.ParamType):
    """``1e-3`` or ``image=1e-3``, as (None, 1e-3) or ("image", 1e-3)."""

    def __init__(self, number: type) -> None:
        self.number = click.types.convert_type(number)
        self.name = f"[MODALITY=]{self.number.name}"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, tuple):
            return value
        modality, equals, number = value.rpartition("=")
        return (modality if equals else None, self.number.convert(number, param, ctx))


class _Optional(click.ParamType):
    """A number, or ``none``."""

    def __init__(self, number: type) -> None:
        self.number = click.types.convert_type(number)
        self.name = f"{self.number.name}|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if value == NONE else self.number.convert(value, param, ctx)


class _Widths(click.ParamType):
    """``512,512``."""

    name = "widths"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(whole_number(width) for width in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers like 512,512", param, ctx)


class Device(click.ParamType):
    """A device that is there."""

    name = "device"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "auto":
            return value
        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            self.fail(f"{value!r} cannot be used here: {reason}", param, ctx)
        return value


def _per_modality(
    name: str, given: Iterable[tuple[str | None, Any]], base: Any, modalities: list[str]
) -> Any:
    latest = dict(given)  # of an option given twice the last counts, as everywhere
    rest = latest.pop(None, base)
    named = {modality: value for modality, value in latest.items() if modality is not None}
    unknown = sorted(set(named) - set(modalities))
    if unknown:
        raise ValueError(f"{name}: expected modalities of {modalities}, got {unknown}")
    if not named:
        return rest
    each = rest if isinstance(rest, Mapping) else dict.fromkeys(modalities, rest)
    return {**each, **named}
