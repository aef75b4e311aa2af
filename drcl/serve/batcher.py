"""Requests that arrive together, worked on together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from drcl.serve.requests import Limits, Refused, Request

_WAITS = 10  # moments at most, while more requests arrive
Answer = bytes | Refused
Work = Callable[[Sequence[Request]], list[Answer]]


class Batcher:
    """Hands requests to ``work`` in batches, one batch after the other, in a thread of its own.

    While a batch is worked on the next one gathers, so that many clients fill batches by
    themselves. A batch begins when no more requests arrive for a moment, so that those who were
    answered together, and ask again, stay together.
    """

    def __init__(self, work: Work, limits: Limits) -> None:
        self._work, self._limits = work, limits
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "drcl-serve")

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, once its batch has been worked on."""
        future = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future))
        return await future

    async def run(self) -> None:
        """Work until cancelled; what waits then is no longer answered."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = await self._next()
                try:
                    asked = [request for request, _ in batch]
                    answers = await loop.run_in_executor(self._thread, self._work, asked)
                except Exception as error:
                    for _, future in batch:
                        _settle(future, error)
                else:
                    for (_, future), answer in zip(batch, answers, strict=True):
                        _settle(future, answer)
        finally:
            self._thread.shutdown(wait=False)

    async def _next(self) -> list[tuple[Request, asyncio.Future[Answer]]]:
        batch = [await self._queue.get()]
        rows = len(batch[0][0])
        for _ in range(_WAITS):
            await asyncio.sleep(self._limits.wait)
            before = len(batch)
            while rows < self._limits.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
                rows += len(batch[-1][0])
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
