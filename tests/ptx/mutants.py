"""Kernels with one fault planted in their source, which the runner then has to find."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import launch
from .compiling import Compiled, Request, compile_here, load

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


@dataclass(frozen=True)
class Edit:
    """In one function of one file: what stands at these places is replaced."""

    file: str
    function: str
    what: str
    spans: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]
    old: str = ""
    number: int = 0  # of ``old`` in the function

    def apply(self, source: str) -> str:
        for (start, end), text in sorted(zip(self.spans, self.texts, strict=True), reverse=True):
            source = source[:start] + text + source[end:]
        return source

    def __str__(self) -> str:
        return f"{self.file}:{self.function}: {self.what}"


class Mutant:
    """A compiler for :class:`launch.Gpu` that takes the kernels from an edited copy."""

    def __init__(self, edit: Edit, folder: Path) -> None:
        self.folder = folder / "kernels"
        shutil.copytree(KERNELS, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        file = self.folder / edit.file
        file.write_text(edit.apply(file.read_text()))

    def edited(self, kernel: Any, request: Request) -> Any:
        """The kernel with the fault; None where neither it nor what it calls has it."""
        kernel_here = getattr(
            load(str(self.folder / Path(request.file).relative_to(KERNELS))), request.kernel
        )
        return None if kernel_here.cache_key == kernel.cache_key else kernel_here

    def __call__(self, kernel: Any, request: Request) -> Compiled:
        edited = self.edited(kernel, request)
        if edited is not None:
            key = edited.cache_key, repr(request), self
            if key not in launch.COMPILED:
                launch.COMPILED[key] = compile_here(edited, request)
            return launch.COMPILED[key]
        key = kernel.cache_key, repr(request), compile_here
        if key not in launch.COMPILED:
            launch.COMPILED[key] = compile_here(kernel, request)
        return launch.COMPILED[key]


def functions() -> Iterator[tuple[str, str, ast.FunctionDef]]:
    """File, source and tree of every function that Triton compiles."""
    for path in sorted(KERNELS.rglob("*.py")):
        source = path.read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and any(
                "jit" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                yield str(path.relative_to(KERNELS)), source, node


def span(source: str, node: Any) -> tuple[int, int]:
    """Where a node stands in the text; the tree counts bytes."""
    lines = source.splitlines(keepends=True)

    def at(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


def masks() -> Iterator[Edit]:
    """Every bound of a mask, one too far."""
    for file, source, function in functions():
        seen: list[str] = []
        compared = [node for node in ast.walk(function) if isinstance(node, ast.Compare)]
        for node in sorted(compared, key=lambda node: node.lineno):
            if isinstance(node.ops[0], ast.Lt):
                bound, old = node.comparators[0], ast.unparse(node)
                seen.append(old)
                if any(isinstance(part, ast.Name) for part in ast.walk(bound)):
                    yield Edit(
                        file, function.name, f"{old} + 1 in line {node.lineno}",
                        (span(source, bound),), (f"({ast.unparse(bound)} + 1)",), old,
                        seen.count(old) - 1,
                    )  # fmt: skip


def strides() -> Iterator[Edit]:
    """Every size or stride that multiplies an index or another size, one too large there.

    Not in the number of turns of a loop: a turn too many masks all it touches.
    """
    for file, source, function in functions():
        turns = {
            inner
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "range"
            for inner in ast.walk(node)
        }
        for node in ast.walk(function):
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
                continue
            for side in () if node in turns else (node.left, node.right):
                if isinstance(side, ast.Name) and is_index(side.id):
                    yield Edit(
                        file, function.name, f"{ast.unparse(node)} in line {node.lineno}",
                        (span(source, side),), (f"({side.id} + 1)",), ast.unparse(node),
                    )  # fmt: skip


def is_index(name: str) -> bool:
    sizes = "width classes pitch k_total batch n_total m_total size height slice_rows slice_depth"
    return name in sizes.split() or "stride" in name


def narrow_offsets() -> Iterator[Edit]:
    """A kernel's offsets in 32 bits."""
    yield from _everywhere(".to(tl.int64)", "", "without 64-bit offsets")


def shared_blocks() -> Iterator[Edit]:
    """Two blocks that do the same work."""
    yield from _everywhere("tl.program_id(0)", "(tl.program_id(0) // 2)", "blocks in pairs")


def _everywhere(old: str, new: str, what: str) -> Iterator[Edit]:
    for file, source, function in functions():
        start, end = span(source, function)
        spans = []
        while (at := source.find(old, start, end)) >= 0:
            spans.append((at, at + len(old)))
            start = at + 1
        if spans and function.name.endswith("_kernel"):
            yield Edit(file, function.name, what, tuple(spans), (new,) * len(spans))
