"""Requests that arrive together, worked on together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from drcl.serve.requests import Limits, Refused, Request

_WAITS = 10  # moments at most, while more requests arrive
Answer = bytes | Refused
Work = Callable[[Sequence[Request]], list[Answer]]


@dataclass
class _Waiting:
    request: Request
    answer: asyncio.Future[Answer]
    begun: bool = False  # whether a batch has taken it in

    @property
    def rows(self) -> int:
        """Queries that are still to be answered."""
        return 0 if self.answer.done() else len(self.request)

    def late(self, seconds: float) -> None:
        """Its time is over, unless its answer is on the way."""
        if not self.begun:
            _settle(self.answer, Refused(f"not begun within {seconds:g} s; try again", 503))


class Batcher:
    """Hands requests to ``work`` in batches, one batch after the other, in a thread of its own.

    While a batch is worked on the next one gathers, so that many clients fill batches by
    themselves. A batch begins when no more requests arrive for a moment, so that those who were
    answered together, and ask again, stay together. Requests that are no longer waited for are left
    out.
    """

    def __init__(self, work: Work, limits: Limits) -> None:
        self._work, self._limits = work, limits
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "drcl-serve")

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, once its batch has been worked on.

        Whoever cancels this has it left out of a batch that has not begun.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(request, loop.create_future())
        self._queue.put_nowait(one)
        timer = loop.call_later(self._limits.deadline, one.late, self._limits.deadline)
        try:
            return await one.answer
        finally:
            timer.cancel()

    async def run(self) -> None:
        """Work until cancelled; what waits then is no longer answered."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = [one for one in await self._next() if not one.answer.done()]
                if not batch:
                    continue
                for one in batch:
                    one.begun = True
                try:
                    asked = [one.request for one in batch]
                    answers = await loop.run_in_executor(self._thread, self._work, asked)
                except Exception as error:
                    for one in batch:
                        _settle(one.answer, error)
                else:
                    for one, answer in zip(batch, answers, strict=True):
                        _settle(one.answer, answer)
        finally:
            self._thread.shutdown(wait=False)

    async def _next(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        rows = batch[0].rows
        for _ in range(_WAITS):
            await asyncio.sleep(self._limits.wait)
            before = len(batch)
            while rows < self._limits.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
                rows += batch[-1].rows
            if len(batch) == before or rows >= self._limits.batch:
                break
        return batch


def _settle(future: asyncio.Future[Answer], outcome: Answer | Exception) -> None:
    if future.done():  # its client has gone
        return
    if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
