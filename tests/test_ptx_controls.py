"""Controls: what is wrong in a kernel has to be found by running it.

Barriers are left out of the compiled kernels one at a time; the other faults are planted in the
sources, one at a time, by rules that know no kernel by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place", allow_module_level=True)

from ptx import mutants
from ptx.launch import Gpu, Launch, launched
from ptx.memory import RACE_OF_BLOCKS, Fault, lazy_zeros
from ptx.problems import Problem, assert_as_exact, loss, mix, on, similarity

from drcl.kernels import mixup, prior_similarity, reduction
from drcl.kernels import reversible_consistency as stages

# --- barriers


def sums(count: int, width: int) -> Callable[[Gpu], None]:
    def launch(gpu: Gpu) -> None:
        with on(gpu):
            reduction.sum_partials(torch.randn(count, width), torch.empty(width))

    return launch


def without_barriers(launches: Iterable[Launch]) -> tuple[set[tuple], set[tuple]]:
    """Barriers by kernel, line and number in that line: all, and those whose lack was found."""
    every, found = set(), set()
    for launch in launches:
        lines: dict[str, int] = {}
        barriers = [i for i in launch.code.program.instructions if i.opcode.startswith("bar.")]
        for number, barrier in enumerate(barriers):
            lines[barrier.source] = lines.get(barrier.source, 0) + 1
            key = launch.kernel, barrier.source.split(" ")[0], lines[barrier.source]
            every.add(key)
            if key not in found:
                code = launch.code.without_barrier(number)
                try:
                    Gpu().run(dataclasses.replace(launch, code=code))
                except Fault:
                    found.add(key)
    return every, found


# Loops with several turns, so that what a barrier keeps apart are two turns of one.
WITH_BARRIERS = [
    similarity(19, 70, 200, "rows").ours, sums(600, 3), sums(40, 70), mix(37, 70).ours,
]  # fmt: skip
MORE_BARRIERS = [
    loss(20, 300, 10).ours, loss(12, 64, 200, "rows").ours, loss(70, 120, 40).ours,
    loss(200, 220, 20).ours, loss(270, 40, 20, "rows").ours, similarity(19, 300, 5).ours,
    loss(150, 140, 5, precision="high").ours, loss(150, 140, 5, precision="medium").ours,
    loss(140, 160, 5, precision="high").ours, loss(140, 160, 5, precision="medium").ours,
]  # fmt: skip


def assert_every_barrier_is_needed(problems: list[Callable[[Gpu], object]]) -> int:
    gpu = Gpu()
    for problem in problems:
        problem(gpu)
    every, found = without_barriers(gpu.launches)
    assert every == found, sorted(every - found)
    return len(every)


@pytest.mark.slow
def test_a_barrier_left_out_is_found():
    assert assert_every_barrier_is_needed(WITH_BARRIERS) >= 20


@pytest.mark.long
def test_every_barrier_left_out_is_found():
    count = assert_every_barrier_is_needed(WITH_BARRIERS + MORE_BARRIERS)
    print(f"{count} barriers, each left out and found")
    assert count > 100


# --- faults in the source

PROBLEMS = [
    loss(37, 30, 5), loss(23, 50, 5, "rows"), similarity(19, 70, 5),
    similarity(19, 70, 200, "rows"), mix(37, 70), loss(20, 48, 200), loss(140, 150, 34),
]  # fmt: skip
# Edits that change nothing: the first of a bound in a function is 0.
EQUIVALENT = {
    ("recast_tile", "first < known", 0): "an id that is no class is refused before",
    ("recast_tile", "second < known", 0): "an id that is no class is refused before",
    (
        "rows_kernel",
        "some < k_total",
        0,
    ): "the index is clamped too, and a number seen twice is no new maximum",
    (
        "differences_kernel",
        "i < batch",
        0,
    ): "reads a length that is there, of a row that is not stored",
}


def how_it_is_found(edit: mutants.Edit, folder: Path, problems: list[Problem]) -> str:
    """The kind of fault, "wrong" for a wrong result, "" where nothing shows."""
    mutant = mutants.Mutant(edit, folder)
    for problem in problems:
        try:
            assert_as_exact(problem, problem.ours(Gpu(compile=mutant)))
        except Fault as fault:
            return fault.kind
        except AssertionError:
            return "wrong"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("edits", [mutants.masks, mutants.strides, mutants.shared_blocks])
def test_a_planted_fault_is_found(edits, tmp_path):
    edit = next(e for e in edits() if e.function == "mix_kernel")
    found = how_it_is_found(edit, tmp_path, [mix(37, 70)])
    assert found == (RACE_OF_BLOCKS if edits is mutants.shared_blocks else "out of bounds")


@pytest.mark.long
@pytest.mark.parametrize("edit", list(mutants.masks()), ids=str)
def test_a_mask_off_by_one_is_found(edit, tmp_path):
    if reason := EQUIVALENT.get((edit.function, edit.old, edit.number)):
        pytest.skip(reason)
    assert how_it_is_found(edit, tmp_path, PROBLEMS)


@pytest.mark.long
@pytest.mark.parametrize("edit", list(mutants.strides()), ids=str)
def test_a_stride_wrong_by_one_is_found(edit, tmp_path):
    assert how_it_is_found(edit, tmp_path, PROBLEMS)


@pytest.mark.long
@pytest.mark.parametrize("edit", list(mutants.shared_blocks()), ids=str)
def test_blocks_that_write_to_one_place_are_found(edit, tmp_path):
    assert how_it_is_found(edit, tmp_path, PROBLEMS) == RACE_OF_BLOCKS


# --- offsets beyond 32 bits: the last blocks of launches over memory that is there in name only


def huge(*shape: int) -> torch.Tensor:
    """float32 zeros that take memory only where they are touched."""
    count = 1
    for size in shape:
        count *= size
    return torch.from_numpy(lazy_zeros(count, "f4")).view(shape)


ROWS, WIDTH = 2**20 + 3, 2048


def last_blocks(grid: tuple[int, int, int]) -> list[int]:
    """The last two along every axis."""
    x, y, z = (range(max(0, size - 2), size) for size in grid)
    return [(k * grid[1] + j) * grid[0] + i for k in z for j in y for i in x]


def run_at_the_end(name: str, gpu: Gpu) -> None:
    """Launches over (ROWS, WIDTH), 2³¹ numbers and more, of which the last blocks run."""
    x, order = huge(ROWS, WIDTH), torch.arange(ROWS)
    targets, q = torch.arange(ROWS) % 10, torch.tensor(0.5).double()
    x[-5:] = torch.randn(5, WIDTH)
    with launched_on_zeros(gpu):
        if name == "mix":
            mixed = mixup.mix(x, order, 0.9)
            torch.testing.assert_close(mixed[-5:], x[-5:])
        elif name == "similarity":
            weight = torch.randn(WIDTH, 10)
            logits = prior_similarity.prior_similarity(x, weight, targets, q, 1.0)[0]
            torch.testing.assert_close(logits[-5:], x[-5:] @ weight, rtol=1e-4, atol=1e-4)
        else:
            loss_at_the_end(x, targets, order, q)


def loss_at_the_end(x, targets, order, q) -> None:
    basis = torch.linalg.qr(torch.randn(WIDTH, 10))[0]
    rows = stages.rows(
        x, targets, order, q, basis, torch.randn(10, 10), torch.randn(10, 10), 0.9, 1.0
    )
    assert rows.outside[-5:].norm(dim=1).min() > 0.1
    inner, cross = stages.class_sums(rows.coordinates, rows.outside)
    gram = stages.gram(rows.outside)
    parts = stages.combine(rows.sums, inner, cross, gram, 0.1, 0.1, 1.0, WIDTH)
    gradient = stages.gradient(
        torch.ones_like(parts), *rows[:4], rows.sums, inner, cross, gram, basis, order,
        0.1, 0.1, 1.0, 0.9, torch.float32,
    )  # fmt: skip
    assert gradient.shape == x.shape


@contextlib.contextmanager
def launched_on_zeros(gpu: Gpu) -> Iterator[None]:
    """What launchers allocate takes no memory either."""
    before = torch.Tensor.new_empty

    def new_empty(tensor, *size, dtype=None, **options):
        shape = size[0] if size and not isinstance(size[0], int) else size
        if (dtype or tensor.dtype) == torch.float32 and torch.Size(shape).numel() > 2**24:
            return huge(*shape)
        return before(tensor, *size, dtype=dtype or tensor.dtype, **options).zero_()

    torch.Tensor.new_empty = new_empty
    try:
        with launched(gpu):
            yield
    finally:
        torch.Tensor.new_empty = before


@pytest.mark.slow
def test_the_last_blocks_of_huge_launches_find_their_memory():
    run_at_the_end("mix", Gpu(blocks=last_blocks))


@pytest.mark.slow
def test_an_offset_that_overflows_32_bits_is_found(tmp_path):
    edit = next(e for e in mutants.narrow_offsets() if e.function == "mix_kernel")
    with pytest.raises(Fault, match="out of bounds"):
        run_at_the_end("mix", Gpu(compile=mutants.Mutant(edit, tmp_path), blocks=last_blocks))


# Where a row's offset is made: these kernels address (ROWS, WIDTH).
OF_FULL_WIDTH = {
    "mix_kernel": "mix", "prior_similarity_kernel": "similarity", "rows_kernel": "loss",
    "class_sums_kernel": "loss", "coefficients_kernel": "loss", "finish_kernel": "loss",
    "product_kernel": "loss", "symmetric_kernel": "loss",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("kernel", OF_FULL_WIDTH)
def test_an_offset_of_any_kernel_that_overflows_32_bits_is_found(kernel, tmp_path):
    edit = next(e for e in mutants.narrow_offsets() if e.function == kernel)
    with pytest.raises(Fault, match=f"{kernel}: out of bounds"):
        run_at_the_end(
            OF_FULL_WIDTH[kernel], Gpu(compile=mutants.Mutant(edit, tmp_path), blocks=last_blocks)
        )


@pytest.mark.long
@pytest.mark.parametrize("name", ["mix", "similarity", "loss"])
def test_all_kernels_find_their_memory_at_the_end_of_huge_launches(name):
    run_at_the_end(name, Gpu(blocks=last_blocks))
