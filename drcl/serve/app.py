"""The routes of a server."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from drcl.report.results import PICTURE, picture_kind, read_picture
from drcl.serve.answers import Encoders, answer
from drcl.serve.batcher import Answer, Batcher
from drcl.serve.counts import Counts
from drcl.serve.explorer import live_page
from drcl.serve.gate import Gate, check_token
from drcl.serve.items import to_json
from drcl.serve.requests import Limits, Refused, Request, parse
from drcl.serve.state import Served, State

_JSON = "application/json"
_NUMBER = re.compile(r"[0-9]{1,18}")
_WORDS = {404: "path: expected one of this server", 405: "method: expected one of the path"}


class _Room:
    """Holds so many requests at one time, and refuses more."""

    def __init__(self, most: int) -> None:
        self.inside, self._most = 0, most

    def __enter__(self) -> None:
        if self.inside >= self._most:
            raise Refused(f"the server has as many requests as it takes ({self._most})", 503)
        self.inside += 1

    def __exit__(self, *failure: object) -> None:
        self.inside -= 1


class Server:
    """What the routes have in common."""

    def __init__(self, folder: Path, encoders: Encoders | None, limits: Limits) -> None:
        self.served, self.counts = Served(folder), Counts()
        self._encoders, self._limits = encoders, limits
        self._reading, self._waiting = _Room(limits.reading), _Room(limits.waiting)
        self._batcher = Batcher(self._work, limits)
        self._page = live_page(limits.k)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(self._batcher.run())
        try:
            yield
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/search", self.search, methods=["POST"]),
            Route("/items", self._admitted(self.items), methods=["GET"]),
            Route("/pictures/{version}/{number}", self._admitted(self.picture), methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    def _admitted(
        self, route: Callable[[HTTPRequest], Awaitable[Response]]
    ) -> Callable[[HTTPRequest], Awaitable[Response]]:
        """The route, for so many requests at one time."""

        async def admitted(request: HTTPRequest) -> Response:
            with self._waiting:
                return await route(request)

        return admitted

    def _work(self, requests: Sequence[Request]) -> list[Answer]:
        self.counts.batch(sum(map(len, requests)))
        return answer(self.served.current(), requests, self._encoders)

    async def page(self, request: HTTPRequest) -> Response:
        page, policy = self._page
        headers = {"content-security-policy": policy, "cache-control": "no-cache"}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    async def search(self, request: HTTPRequest) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON or request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(f"content-type: expected {_JSON}, not compressed", 415)
        with self._reading:
            body = await self._body(request)
        with self._waiting:
            found = await self._answer(request, parse(body, self._limits))
        if isinstance(found, Refused):
            raise found
        return Response(found, media_type=_JSON, headers={"cache-control": "no-store"})

    async def _answer(self, request: HTTPRequest, asked: Request) -> Answer:
        """What the batcher answers, as long as the client is there to get it."""
        answer = asyncio.create_task(self._batcher.ask(asked))
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise Refused("the client has gone", 499)
        finally:
            answer.cancel()
            gone.cancel()

    async def _body(self, request: HTTPRequest) -> bytes:
        most, parts, size = self._limits.body, [], 0
        too_large = Refused(f"body: expected {most} bytes at most", 413)
        given = request.headers.get("content-length", "0")
        if not _NUMBER.fullmatch(given) or int(given) > most:
            raise too_large

        async def read() -> None:
            nonlocal size
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)

        try:
            await asyncio.wait_for(read(), self._limits.patience)
        except asyncio.TimeoutError:
            raise Refused("body: expected it sooner", 408) from None
        except ClientDisconnect:
            raise Refused("body: expected all of it", 400) from None
        return b"".join(parts)

    async def items(self, request: HTTPRequest) -> Response:
        content = await asyncio.to_thread(lambda: self.served.current().items)
        return Response(content, media_type=_JSON, headers={"cache-control": "no-store"})

    async def picture(self, request: HTTPRequest) -> Response:
        version, number = request.path_params["version"], request.path_params["number"]
        state = await asyncio.to_thread(self.served.current)
        content = None
        if state.version == version and _NUMBER.fullmatch(number):
            content = await asyncio.to_thread(_picture, state, int(number))
        if content is None:
            raise Refused("no such picture", 404)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(content, media_type=f"image/{picture_kind(content)}", headers=headers)

    async def health(self, request: HTTPRequest) -> Response:
        state = await asyncio.to_thread(self.served.current)
        found = {"status": "ok", "version": state.version, "items": len(state.index)}
        broken = state.broken is not None
        if broken:
            problem = "a file of the index was cut, and no search is answered; see the server's log"
            found |= {"status": "broken", "problem": problem}
        elif self.served.stale:
            problem = "the index was changed and cannot be loaded; the server's log says why"
            found |= {"status": "stale", "problem": problem}
        headers = {"cache-control": "no-store"}
        return Response(to_json(found), 503 if broken else 200, headers, media_type=_JSON)

    async def metrics(self, request: HTTPRequest) -> Response:
        state = await asyncio.to_thread(self.served.current)
        gauges = {
            "requests_waiting": self._waiting.inside,
            "requests_reading": self._reading.inside,
            "index_items": len(state.index),
            "index_loads": self.served.loads,
            "index_stale": self.served.stale,
            "index_broken": state.broken is not None,
        }
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.counts.text(gauges), media_type=kind)


async def _gone(request: HTTPRequest) -> None:
    """Ends when the client, whose body has been read, has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _picture(state: State, number: int) -> bytes | None:
    place = int(np.searchsorted(state.numbers, number))
    if place == len(state.numbers) or state.numbers[place] != number:
        return None  # there never was such an item, or it was removed
    with state.reading():
        path = state.index.records([number])[0].get(PICTURE)
    return read_picture(Path(path)) if isinstance(path, str) and path else None


async def _refused(request: HTTPRequest, error: Exception) -> Response:
    if isinstance(error, Refused):
        status, message = error.status, str(error)
    elif isinstance(error, HTTPException):
        status = error.status_code
        message = _WORDS.get(status, error.detail)
    elif isinstance(error, OSError):
        status, message = 503, "the index cannot be read at the moment"
    else:
        status, message = 500, "a fault of the server; its log says more"
    headers = dict(getattr(error, "headers", None) or {})
    if status == 503:
        headers["retry-after"] = "1"
    return Response(to_json({"error": message}), status, headers, media_type=_JSON)


def make_app(
    folder: str | Path,
    *,
    encoders: Encoders | None = None,
    token: str | None = None,
    local: bool = True,
    limits: Limits | None = None,
) -> Any:
    """An ASGI application that searches the index of a folder; ``drcl serve`` runs it in uvicorn.

    Run it in one process: searches that arrive together share products there.

    Args:
        folder: of an index, as :meth:`drcl.Index.save` writes it. Each answer is of the state
            that the folder has when its search begins.
        encoders: what turns features into rows of the index; None takes embeddings and ids alone.
        token: what ``Authorization: Bearer`` must carry on every path but ``/`` and ``/health``;
            None lets everybody in. 16 to 1,000 printable ASCII characters without spaces.
        local: whether the server listens on this machine alone. Requests for another host than
            localhost or a loopback address are then refused.
        limits: what clients may ask at most; None for the usual ones.

    Raises ImportError without starlette or jinja2, ValueError for another token, and what
    :meth:`drcl.Index.load` raises.

    >>> import tempfile, torch
    >>> from drcl import Index
    >>> folder = Index().add(torch.eye(3)).save(tempfile.mkdtemp())
    >>> [route.path for route in make_app(folder).routes]
    ['/', '/search', '/items', '/pictures/{version}/{number}', '/health', '/metrics']
    """
    if token is not None:
        check_token("token", token)
    server = Server(Path(folder), encoders, limits or Limits())
    routes = server.routes()
    paths = [route.path.partition("/{")[0] for route in routes]
    app = Starlette(
        routes=routes,
        lifespan=server.lifespan,
        middleware=[Middleware(Gate, token=token, local=local, counts=server.counts, paths=paths)],
        exception_handlers=dict.fromkeys((Refused, HTTPException, OSError, Exception), _refused),
    )
    app.router.redirect_slashes = False
    return app
