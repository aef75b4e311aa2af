"""Global and shared memory: bounds, alignment, what was never written, and races.

Two accesses of one place race if one is a write and nothing orders them. Within a block barriers
do: between two of them lies an epoch, and in one epoch no place may be written by one thread and
touched by another. So accesses are only listed, and looked through when the epoch ends; their order
in time, which is this runner's and not a chip's, plays no part. Between blocks of a launch nothing
orders anything.

Writes of one value to one place by several threads of a block are let pass. So are those of
several lanes of a warp in one instruction: one of them is written, CUDA leaves open which.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNWRITTEN, WRITTEN, IN_FLIGHT = 0, 1, 2


class Fault(Exception):
    """An access that a kernel may not make; ``kind`` is one of the headings below."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


OUT_OF_BOUNDS = "out of bounds"
MISALIGNED = "misaligned"
NEVER_WRITTEN = "never written"
TOO_EARLY = "still being copied"
RACE_IN_BLOCK = "race within a block"
RACE_OF_BLOCKS = "race between blocks"


def view(pointer: int, size: int) -> np.ndarray:
    """Bytes of this process' memory."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), np.uint8)


class Storage:
    """Bytes that can be read and written in numbers of 1, 2, 4 and 8 bytes."""

    def __init__(self, data: np.ndarray, unit: int) -> None:
        self.unit = unit  # bytes of what is told apart in a race
        self.words = {n: data[: len(data) // n * n].view(f"u{n}") for n in (1, 2, 4, 8)}

    @property
    def count(self) -> int:
        """How many places there are."""
        return len(self.words[1]) // self.unit + 1

    def places(self, offset: np.ndarray, size: int) -> np.ndarray:
        """The places (lanes, size / unit) that an access of ``size`` bytes touches."""
        first = (offset // self.unit)[:, None]
        return first + np.arange(size // self.unit) if size > self.unit else first


@dataclass
class Access:
    write: bool
    places: np.ndarray  # (lanes, n)
    threads: np.ndarray  # (lanes,)
    values: np.ndarray | None
    instruction: Any


@dataclass
class Epoch:
    """The accesses of one memory between two barriers of some threads.

    ``within`` cuts the threads into groups that the barrier joins, ``apart`` into groups inside of
    which nothing can race: a block's threads and single ones, for a barrier of the block.
    """

    size: int
    within: int
    apart: int
    accesses: list[Access] = field(default_factory=list)
    writers: np.ndarray | None = None

    def of(self, blocks: np.ndarray, threads: int) -> Epoch:
        """The accesses of some blocks alone."""
        chosen = [(access, np.isin(access.threads // threads, blocks)) for access in self.accesses]
        accesses = [
            Access(
                access.write,
                access.places[here],
                access.threads[here],
                None if access.values is None else access.values[here],
                access.instruction,
            )
            for access, here in chosen
        ]
        return Epoch(self.size, self.within, self.apart, accesses)

    def close(self, describe: Any) -> None:
        """Looks the accesses through and forgets them."""
        accesses, self.accesses = self.accesses, []
        writes = [access for access in accesses if access.write]
        if not writes:
            return
        if self.writers is None:
            self.writers = lazy_zeros(self.size, np.int64)  # thread + 1
        owners = self.writers
        for access in writes:
            owners[access.places] = access.threads[:, None] + 1
        try:
            self._two_writers(writes, owners, describe)
            for access in accesses:
                if not access.write:
                    self._readers(access, owners, writes, describe)
        finally:
            for access in writes:
                owners[access.places] = 0

    def _conflicts(self, threads: np.ndarray, owners: np.ndarray) -> np.ndarray:
        mine, other = threads[:, None], owners - 1
        return (
            (other >= 0)
            & (other // self.apart != mine // self.apart)
            & (other // self.within == mine // self.within)
        )

    def _two_writers(self, writes: list[Access], owners: np.ndarray, describe: Any) -> None:
        """Several writers of one place have to agree."""
        if not any(self._conflicts(a.threads, owners[a.places]).any() for a in writes):
            return
        places = np.concatenate([a.places.ravel() for a in writes])
        threads = np.concatenate([np.repeat(a.threads, a.places.shape[1]) for a in writes])
        values = np.concatenate([a.values.ravel() for a in writes])
        numbers = np.repeat(np.arange(len(writes)), [a.places.size for a in writes])
        order = np.argsort(places, kind="stable")
        last = np.searchsorted(places[order], places[order], side="right") - 1
        for other in (order[last], order[np.maximum(np.arange(len(order)) - 1, 0)]):
            bad = (
                (places[order] == places[other])
                & self._conflicts(threads[order], threads[other][:, None] + 1)[:, 0]
                & (values[order] != values[other])
            )
            if bad.any():
                one, two = order[bad][0], other[bad][0]
                self._raise(
                    describe, threads[one], "writes", threads[two],
                    writes[numbers[one]].instruction, writes[numbers[two]].instruction,
                )  # fmt: skip

    def _readers(
        self, access: Access, owners: np.ndarray, writes: list[Access], describe: Any
    ) -> None:
        bad = self._conflicts(access.threads, owners[access.places])
        if not bad.any():
            return
        lane, column = np.argwhere(bad)[0]
        place, other = access.places[lane, column], owners[access.places[lane, column]] - 1
        by = next(w for w in writes if ((w.places == place) & (w.threads[:, None] == other)).any())
        self._raise(
            describe, access.threads[lane], "reads", other, access.instruction, by.instruction
        )

    @staticmethod
    def _raise(describe: Any, one: int, verb: str, two: int, first: Any, second: Any) -> None:
        raise Fault(
            RACE_IN_BLOCK,
            f"{describe(one)} {verb} what {describe(two)} writes, with no barrier between: "
            f"{first} and {second}",
        )


def winners(places: np.ndarray) -> np.ndarray:
    """For every lane of a store, the lane whose value stays where several write to one place."""
    _, inverse = np.unique(places, return_inverse=True)
    last = np.zeros(inverse.max() + 1, np.int64)
    last[inverse] = np.arange(len(places))
    return last[inverse]


def close(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Whether the bits are float32 or float64 numbers that differ by rounding."""
    if one.dtype.itemsize < 4:
        return one == two
    kind = np.float32 if one.dtype.itemsize == 4 else np.float64
    a, b = one.view(kind), two.view(kind)
    return (one == two) | (np.abs(a - b) <= 8 * np.spacing(np.maximum(np.abs(a), np.abs(b))))


class Allocation(Storage):
    """The memory of one tensor argument, or of several that share it.

    Where the kernel writes to it, ``tracked``, every place remembers the blocks that touched it.
    """

    def __init__(self, name: str, pointer: int, low: int, high: int, unit: int, tracked: bool):
        # from a multiple of 16 on, so that what is aligned in memory is aligned in the array
        self.base = pointer // 16 * 16
        super().__init__(view(self.base, high - self.base), unit)
        self.name, self.low, self.high, self.tracked = name, low, high, tracked
        if tracked:
            self.writer = lazy_zeros(self.count)  # block + 1
            self.reader = lazy_zeros(self.count)  # block + 1, or MANY

    def touch(self, places: np.ndarray, blocks: np.ndarray, write: bool, instruction: Any) -> None:
        mine = np.broadcast_to(blocks[:, None] + 1, places.shape)
        writer = self.writer[places]
        bad = (writer != 0) & (writer != mine)
        if write:
            reader = self.reader[places]
            bad |= (reader != 0) & (reader != mine)
            self.writer[places] = mine
            bad |= self.writer[places] != mine  # by another block in this very instruction
        else:
            reader = self.reader[places]
            self.reader[places] = np.where((reader == 0) | (reader == mine), mine, MANY)
            lost = self.reader[places] != mine
            self.reader[places[lost]] = MANY
        if bad.any():
            lane, column = np.argwhere(bad)[0]
            raise Fault(
                RACE_OF_BLOCKS,
                f"{self.name}[{places[lane, column]}] is "
                f"{'written' if write else 'read'} by block number {blocks[lane]} and "
                f"{'touched' if write else 'written'} by another: {instruction}",
            )


MANY = -1
MAP_NORESERVE = 0x4000  # of Linux; Python names it from 3.13 on


def lazy_zeros(count: int, dtype: Any = np.int32) -> np.ndarray:
    """Zeros that take memory, a page at a time, only where they are written; any number of them."""
    size = max(1, count) * np.dtype(dtype).itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype)[:count]


class Global:
    """All a launch may touch."""

    def __init__(self, allocations: list[Allocation]) -> None:
        self.allocations = allocations

    def resolve(
        self, address: np.ndarray, size: int, lanes: np.ndarray, write: bool, instruction: Any
    ) -> Iterator[tuple[Allocation, np.ndarray, np.ndarray]]:
        """For every allocation met: it, offsets in it, and the lanes (a part of ``lanes``)."""
        if len(lanes) == 0:
            return
        if (address & np.uint64(size - 1)).any():
            at = int(address[np.flatnonzero(address & np.uint64(size - 1))[0]])
            raise Fault(MISALIGNED, f"{size} bytes at {at:#x}: {instruction}")
        signed = address.view(np.int64)
        for allocation in self.allocations:
            inside = (signed >= allocation.low) & (signed <= allocation.high - size)
            if inside.all():
                yield allocation, signed - allocation.base, lanes
                return
            if inside.any():
                yield allocation, signed[inside] - allocation.base, lanes[inside]
                signed, lanes = signed[~inside], lanes[~inside]
        if not len(lanes):
            return
        at = int(signed[0])
        names = [
            f"{at - allocation.low:+,} in the {allocation.high - allocation.low:,} bytes of "
            f"{allocation.name}"
            for allocation in sorted(
                self.allocations, key=lambda a: min(abs(at - a.low), abs(at - a.high))
            )[:1]
        ]
        raise Fault(
            OUT_OF_BOUNDS,
            f"{'write' if write else 'read'} of {size} bytes in lane {lanes[0]}, at "
            f"{names[0] if names else hex(at)}: {instruction}",
        )


class Shared(Storage):
    """The shared memory of some blocks, one behind the other."""

    def __init__(self, blocks: int, size: int, unit: int) -> None:
        self.size = -(-size // 16) * 16
        data = np.full(blocks * self.size, 0xFF, np.uint8)
        super().__init__(data, unit)
        self.limit = size
        self.state = np.zeros(blocks * self.size // unit, np.uint8)
        self.held = np.zeros(blocks * self.size // unit, np.int16)  # by wgmma that still reads

    def check(self, address: np.ndarray, size: int, instruction: Any) -> None:
        if len(address) and (address.max() > self.limit - size or address.min() < 0):
            worst = max(int(address.max()), -int(address.min()))
            raise Fault(
                OUT_OF_BOUNDS,
                f"{size} bytes at {worst:,} of {self.limit:,} shared ones: {instruction}",
            )
        if (address & (size - 1)).any():
            raise Fault(MISALIGNED, f"{size} shared bytes: {instruction}")

    def check_readable(self, places: np.ndarray, instruction: Any) -> None:
        state = self.state[places]
        if (state == IN_FLIGHT).any():
            raise Fault(TOO_EARLY, f"shared memory is read during a copy to it: {instruction}")
        if (state == UNWRITTEN).any():
            raise Fault(NEVER_WRITTEN, f"shared memory that nobody wrote is read: {instruction}")

    def check_writable(self, places: np.ndarray, instruction: Any) -> None:
        if (self.state[places] == IN_FLIGHT).any():
            raise Fault(TOO_EARLY, f"shared memory is written during a copy to it: {instruction}")
        if self.held[places].any():
            raise Fault(
                RACE_IN_BLOCK, f"shared memory is written while wgmma reads it: {instruction}"
            )
