"""Controls: what is wrong in a kernel has to be found by running it.

Barriers are left out of the compiled kernels one at a time; the other faults are planted in the
sources, one at a time, by rules that know no kernel by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place", allow_module_level=True)

from drcl.eager.reversible_consistency import Batch, Saved, Settings, Space
from drcl.kernels import mixup, prior_similarity, reduction
from drcl.kernels.product import product
from drcl.kernels.reversible_consistency import class_sums, symmetric
from drcl.ops.reversible_consistency import stages as stages_of
from ptx import mutants
from ptx.barriers import meets_alike, only_reads_meet
from ptx.launch import Gpu, Launch, launched
from ptx.memory import RACE_OF_BLOCKS, Fault, lazy_zeros
from ptx.problems import loss, mix, on, similarity
from ptx.replay import Check, Replay, how_it_is_found

stages = stages_of("triton")
SETTINGS = Settings(0.1, 0.1, 1.0, 1.0, 0.9)

# --- barriers


def sums(count: int, width: int) -> Callable[[Gpu], None]:
    def launch(gpu: Gpu) -> None:
        with on(gpu):
            reduction.sum_partials(torch.randn(count, width), torch.empty(width))

    return launch


class Barriers(NamedTuple):
    """By kernel, line and number in that line: all, those whose lack was found in some launch, and
    those that nothing needs in any."""

    every: set[tuple]
    found: set[tuple]
    idle: set[tuple]


def without_barriers(launches: Iterable[Launch]) -> Barriers:
    every, found, unproven = set(), set(), set()
    for launch in launches:
        lines: dict[str, int] = {}
        program = launch.code.program
        barriers = [i for i in program.instructions if i.opcode.startswith("bar.")]
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
                    assert not only_reads_meet(program, number), key
                else:
                    if not (only_reads_meet(program, number) or meets_alike(program, number)):
                        unproven.add(key)
    return Barriers(every, found, every - found - unproven)


def slices(gpu: Gpu) -> None:
    """Sums over so many rows that they are cut into slices."""
    h, f = torch.randn(140, 9), torch.randn(600, 20)
    with on(gpu):
        inner, cross = class_sums.class_sums(h, f[:140])
        gram = symmetric.gram(f)[0]
    exact = h.double()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(inner, exact.T @ exact, **close)
    torch.testing.assert_close(cross.double(), exact[:, 3:].T @ f[:140].double(), **close)
    torch.testing.assert_close(gram.double(), f.double().T @ f.double(), **close)


# Loops with several turns, so that what a barrier keeps apart are two turns of one.
WITH_BARRIERS = [
    similarity(19, 70, 200, "rows").ours, mix(37, 70).ours, slices,
    sums(600, 3), sums(8000, 3), sums(40, 70), sums(8000, 70),
]  # fmt: skip
MORE_BARRIERS = [
    loss(20, 300, 10).ours, loss(12, 64, 200, "rows").ours, loss(70, 120, 40).ours,
    loss(45, 40, 34).ours,
    loss(200, 220, 20).ours, loss(270, 40, 20, "rows").ours, similarity(19, 300, 5).ours,
    loss(150, 140, 5, precision="high").ours, loss(150, 140, 5, precision="medium").ours,
    loss(140, 160, 5, precision="high").ours, loss(140, 160, 5, precision="medium").ours,
    # rows that 4 does not divide: operands of products lie where the last ones are still read
    loss(150, 141, 5, precision="high").ours,
    loss(141, 150, 5, precision="high").ours, loss(141, 150, 5, precision="medium").ours,
    loss(3, 2052, 130).ours,  # 33 tiles of columns, two blocks of classes
]  # fmt: skip


def barriers_of(problems: list[Callable[[Gpu], object]]) -> Barriers:
    """Those of the problems' launches; one that is neither found nor idle is an error."""
    gpu = Gpu()
    for problem in problems:
        problem(gpu)
    barriers = without_barriers(gpu.launches)
    assert barriers.every == barriers.found | barriers.idle, sorted(
        barriers.every - barriers.found - barriers.idle
    )
    return barriers


@pytest.mark.slow
def test_a_barrier_left_out_is_found():
    barriers = barriers_of(WITH_BARRIERS)
    assert len(barriers.found) >= 19
    assert not barriers.idle


@pytest.mark.long
def test_every_barrier_left_out_is_found():
    barriers = barriers_of(WITH_BARRIERS + MORE_BARRIERS)
    print(f"{len(barriers.found)} barriers, each left out and found; idle: {sorted(barriers.idle)}")
    assert len(barriers.found) > 100
    # between products of parts; behind a tile that is read and written by the same threads
    between, behind = {"product_kernel", "symmetric_kernel"}, {"differences_kernel"}
    assert {kernel for kernel, *_ in barriers.idle} <= between | behind
    assert len(barriers.idle) <= 5


# --- faults in the source


def foreign_ids(classes: int) -> Check:
    """Ids that are no class make a row NaN, their own and the one they are mixed into."""

    def check(gpu: Gpu) -> None:
        b, d = 11, 3 * classes
        ids, order = torch.arange(b) % classes, torch.arange(b).roll(1).flip(0)
        ids[4] = classes
        basis = torch.linalg.qr(torch.randn(d, classes))[0]
        table, weight = torch.randn(2, classes, classes)
        q = torch.tensor(0.5).double()
        with on(gpu):
            given = Batch(torch.randn(b, d), ids, order, q)
            rows = stages.rows(given, Space(basis, table, weight), SETTINGS)
        foreign = (ids == classes) | (ids[order] == classes)
        assert torch.equal(rows.coordinates.isnan().any(1), foreign)

    return check


def sums_of_sums(gpu: Gpu) -> None:
    """Sums of so many partials that several programs share one."""
    partials, out = torch.randn(8200, 3), torch.empty(3)
    with on(gpu):
        reduction.sum_partials(partials, out)
    torch.testing.assert_close(out.double(), partials.double().sum(0), rtol=1e-6, atol=1e-6)


# Near convergence a kernel chooses what elsewhere it only reads.
CONVERGING = loss(90, 70, 5, "rows", mixing=False, converging=True).check
CHECKS = [
    mix(37, 70).check, similarity(19, 70, 5).check, similarity(19, 70, 200, "rows").check,
    foreign_ids(5), foreign_ids(40), slices, loss(37, 30, 5).check, loss(23, 50, 5, "rows").check,
    CONVERGING, loss(20, 48, 200).check,
    loss(70, 45, 34, "rows").check, loss(37, 140, 34).check, loss(530, 70, 3).check,
    # several programs, where the batches above take one
    sums_of_sums, mix(1030, 3).check, loss(70, 80, 5).check,
]  # fmt: skip


@functools.cache
def replay(check: Check) -> Replay:
    return Replay(check)


def found(edit: mutants.Edit, folder: Path, checks: list[Check]) -> str:
    return how_it_is_found(edit, folder, map(replay, checks))


def planted(edits: Callable[[], Iterator[mutants.Edit]], function: str, old: str = ""):
    """The edits of one function, those in the place of ``old`` alone if it is given."""
    return [e for e in edits() if e.function == function and old in ("", e.old)]


# Edits that change nothing.
EQUIVALENT = {
    ("unit_rows_kernel", "k < k_total", 0): "a zero of U where the next kernel puts Δ",
    ("gce_rows_kernel", "row < batch", 0): "a program takes one row, and there are as many",
    ("differences_kernel", "i < batch", 1): "another row's norm, for a row that is not stored",
}

# Of every kind one, in kernels that compile fast. The long tests plant all.
KNOWN = [
    # function, kind of edit, what is edited, the check that finds it
    ("mix_kernel", mutants.masks, "", mix(37, 70).check),
    ("mix_kernel", mutants.strides, "", mix(37, 70).check),
    ("recast_tile", mutants.masks, "second < known", foreign_ids(5)),
    ("class_sums_kernel", mutants.strides, "part.to(tl.int64) * slice_rows", slices),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "function, edits, old, check", KNOWN, ids=[f"{f}-{old or e.__name__}" for f, e, old, _ in KNOWN]
)
def test_a_planted_fault_is_found(function, edits, old, check, tmp_path):
    assert found(planted(edits, function, old)[0], tmp_path, [check])


@pytest.mark.slow
def test_two_blocks_that_do_the_same_work_are_found(tmp_path):
    (edit,) = planted(mutants.shared_blocks, "mix_kernel")
    assert found(edit, tmp_path, [mix(37, 70).check]) == RACE_OF_BLOCKS


@pytest.mark.long
@pytest.mark.parametrize("edit", [*mutants.masks(), *mutants.strides()], ids=str)
def test_a_mask_or_a_stride_off_by_one_is_found(edit, tmp_path):
    if reason := EQUIVALENT.get((edit.function, edit.old, edit.number)):
        pytest.skip(reason)
    assert found(edit, tmp_path, CHECKS)


@pytest.mark.long
@pytest.mark.parametrize("edit", list(mutants.shared_blocks()), ids=str)
def test_blocks_that_write_to_one_place_are_found(edit, tmp_path):
    assert found(edit, tmp_path, CHECKS) == RACE_OF_BLOCKS


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
    """A stage over (ROWS, WIDTH), 2³¹ numbers and more: the last blocks of its launches run."""
    x, order = huge(ROWS, WIDTH), torch.arange(ROWS)
    targets, q = torch.arange(ROWS) % 10, torch.tensor(0.5).double()
    x[-5:] = torch.randn(5, WIDTH)
    with launched_on_zeros(gpu):
        if name == "mix":
            torch.testing.assert_close(mixup.mix(x, order, 0.9)[-5:], x[-5:])
        elif name == "similarity":
            weight = torch.randn(WIDTH, 10)
            logits = prior_similarity.prior_similarity(x, weight, targets, q, 1.0)[0]
            torch.testing.assert_close(logits[-5:], x[-5:] @ weight, rtol=1e-4, atol=1e-4)
        elif name == "product":
            weight = torch.randn(WIDTH, 10)
            got = product(x, weight)[-5:]
            torch.testing.assert_close(got, x[-5:] @ weight, rtol=1e-4, atol=1e-4)
        elif name in ("rows", "wide rows"):
            k = 10 if name == "rows" else 40
            basis = torch.linalg.qr(torch.randn(WIDTH, k))[0]
            square = torch.randn(k, k)
            space = Space(basis, square, square)
            outside = stages.rows(Batch(x, targets, order, q), space, SETTINGS).outside
            if name == "rows":  # two rows in two blocks; of wide ones no row has all its columns
                unit = torch.nn.functional.normalize(x[-2:])
                expected = unit - unit @ basis @ basis.T
                torch.testing.assert_close(outside[-2:], expected, rtol=1e-4, atol=1e-5)
        elif name == "class_sums":
            class_sums.class_sums(huge(ROWS, 30), x)
        elif name == "gram":
            symmetric.gram(x)
        else:
            k = 10 if name == "gradient" else 40
            basis = torch.linalg.qr(torch.randn(WIDTH, k))[0]
            saved = Saved(
                x, huge(ROWS, 3 * k), huge(ROWS, k),
                torch.ones(2, ROWS), torch.ones(3), torch.zeros(3 * k, 3 * k).double(),
                torch.zeros(2 * k, WIDTH), torch.zeros(1, WIDTH, WIDTH), basis, order,
            )  # fmt: skip
            grads = (torch.ones(()), None, None, None)
            gradient = stages.gradient(grads, saved, SETTINGS, torch.float32)
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


# The stage by which each kernel addresses (ROWS, WIDTH).
OF_FULL_WIDTH = {"mix_kernel": "mix", "rows_kernel": "rows"}
ALSO_OF_FULL_WIDTH = {
    "product_kernel": "product", "finish_kernel": "gradient",
    "prior_similarity_kernel": "similarity", "class_sums_kernel": "class_sums",
    "symmetric_kernel": "gram", "coefficients_kernel": "gradient", "unit_rows_kernel": "wide rows",
    "outside_kernel": "wide rows",
}  # fmt: skip


def assert_narrow_offsets_are_found(kernel: str, name: str, folder: Path) -> None:
    (edit,) = planted(mutants.narrow_offsets, kernel)
    with pytest.raises(Fault, match=f"{kernel}: out of bounds"):
        run_at_the_end(name, Gpu(compile=mutants.Mutant(edit, folder), blocks=last_blocks))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", OF_FULL_WIDTH)
def test_an_offset_that_overflows_32_bits_is_found(kernel, tmp_path):
    assert_narrow_offsets_are_found(kernel, OF_FULL_WIDTH[kernel], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kernel", ALSO_OF_FULL_WIDTH)
def test_an_offset_of_any_kernel_that_overflows_32_bits_is_found(kernel, tmp_path):
    assert_narrow_offsets_are_found(kernel, ALSO_OF_FULL_WIDTH[kernel], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mix"])
def test_the_last_blocks_of_huge_launches_find_their_memory(name):
    run_at_the_end(name, Gpu(blocks=last_blocks))


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "similarity",
        "rows",
        "wide rows",
        "product",
        "class_sums",
        "gram",
        "gradient",
        "wide gradient",
    ],
)
def test_all_kernels_find_their_memory_at_the_end_of_huge_launches(name):
    run_at_the_end(name, Gpu(blocks=last_blocks))
