"""From a launch's arguments to PTX: by this process' Triton, or by that of another Python.

Triton itself decides what it compiles in (which sizes 16 divides, which are 1); only the assembler
is left out, and the cache on disk.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Compiled(NamedTuple):
    ptx: str
    shared: int  # bytes a block
    constants: frozenset[int]  # the parameters that are compiled in


class Request(NamedTuple):
    """What to compile, in words that another process understands."""

    file: str
    kernel: str
    signature: dict[str, str]
    constants: list[tuple[int, Any]]
    attributes: list[tuple[int, Any]]
    options: dict[str, int]

    @classmethod
    def of(
        cls, kernel: Any, signature: Any, constants: Any, attributes: Any, options: Any
    ) -> Request:
        file = inspect.getsourcefile(kernel.fn)
        assert file is not None
        chosen = {name: getattr(options, name) for name in ("num_warps", "num_stages")}
        return cls(
            file,
            kernel.fn.__name__,
            dict(signature),
            [(path[0], value) for path, value in constants.items()],
            [(path[0], value) for path, value in attributes.items()],
            chosen,
        )


def compile_here(kernel: Any, request: Request) -> Compiled:
    """All stages of Triton's compiler but the last, for sm_90."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    target = GPUTarget("cuda", 90, 32)
    source = ASTSource(
        kernel,
        request.signature,
        constexprs={(i,): value for i, value in request.constants},
        attrs={(i,): value for i, value in request.attributes},
    )
    backend = make_backend(target)
    options = backend.parse_options(dict(request.options))
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    generate = backend.get_codegen_implementation(options)
    module = source.make_ir(target, options, generate, backend.get_module_map(), context)
    metadata = {"target": target, **options.__dict__}
    for name, stage in stages.items():
        if name == "cubin":
            break
        module = stage(module, metadata)
    return Compiled(str(module), metadata["shared"], frozenset(i for i, _ in request.constants))


class OtherPython:
    """The Triton of another Python, which needs nothing else: no PyTorch, no NumPy."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, kernel: Any, request: Request) -> Compiled:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args[0]} ended with {self.process.wait()}")
        ptx, shared, constants = json.loads(answer)
        return Compiled(ptx, shared, frozenset(constants))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def load(file: str) -> Any:
    """A file of kernels; the folder ``kernels`` above it is the package."""
    import importlib.util

    folder = next(above for above in Path(file).parents if above.name == "kernels")
    name = f"kernels_in_{str(folder).replace('/', '_').replace('.', '_')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(
        ".".join([name, *Path(file).relative_to(folder).with_suffix("").parts])
    )


def answer() -> None:
    """Compiles what comes in, line by line."""
    for line in sys.stdin:
        request = Request(*json.loads(line))
        compiled = compile_here(getattr(load(request.file), request.kernel), request)
        print(json.dumps([compiled.ptx, compiled.shared, sorted(compiled.constants)]), flush=True)


if __name__ == "__main__":
    answer()
