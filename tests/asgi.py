"""A client of an ASGI application in this process: no network, and no other library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    query: bytes = b""


def search(value: Any) -> Asked:
    """``POST /search`` with a JSON value."""
    return Asked("POST", "/search", json.dumps(value).encode(), JSON)


class Client:
    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.app, self.loop = app, loop

    def __call__(self, asked: Asked) -> Reply:
        return self.together([asked])[0]

    def search(self, value: Any) -> Reply:
        return self(search(value))

    def get(self, path: str, **headers: str) -> Reply:
        return self(Asked("GET", path, headers=headers))

    def together(self, asked: Iterable[Asked]) -> list[Reply]:
        """The answers to requests that are made at one moment."""

        async def gather() -> list[Reply]:
            return list(await asyncio.gather(*map(self.answer, asked)))

        return self.loop.run_until_complete(gather())

    async def answer(self, asked: Asked, gone: asyncio.Event | None = None) -> Reply:
        """``gone`` is set when the client leaves."""
        headers = {"host": "localhost", **(asked.headers or {})}
        if asked.body:
            headers.setdefault("content-length", str(len(asked.body)))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": asked.method,
            "scheme": "http",
            "path": asked.path,
            "raw_path": asked.path.encode("utf-8", "replace"),
            "query_string": asked.query,
            "root_path": "",
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in headers.items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        sent: list[Any] = []
        whole = False
        parts = [asked.body[start : start + 65536] for start in range(0, len(asked.body), 65536)]

        async def receive() -> Any:
            nonlocal whole
            if whole:  # a server says no more until the client has gone
                await (gone or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            body = parts.pop(0) if parts else b""
            whole = not parts
            return {"type": "http.request", "body": body, "more_body": not whole}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, body)


@contextmanager
def client(app: Any) -> Iterator[Client]:
    """The application from its start to its end."""
    loop = asyncio.new_event_loop()
    lifespan = app.router.lifespan_context(app)
    loop.run_until_complete(lifespan.__aenter__())
    try:
        yield Client(app, loop)
    finally:
        loop.run_until_complete(lifespan.__aexit__(None, None, None))
        loop.close()
