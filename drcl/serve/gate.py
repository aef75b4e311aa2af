"""What every request passes before anything looks into it, and every answer on its way out."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drcl.serve.counts import Counts
from drcl.serve.items import to_json

_LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_OPEN = ("/", "/health")  # the page, which holds nothing of the index, and what probes ask


class Gate:
    """Asks for the token, refuses names of other machines, counts, and adds headers.

    A server that listens on this machine alone answers only to its names: a page from elsewhere
    whose own name was made to lead here would otherwise be of the same origin.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, local: bool, counts: Counts, paths: Sequence[str]
    ) -> None:
        self._app, self._local, self._counts = app, local, counts
        self._token, self._paths = None if token is None else token.encode(), paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, sending)
            else:
                await _refuse(sending, *refusal)
        finally:
            path = scope["path"]
            known = next((p for p in self._paths if f"{path}/".startswith(f"{p}/")), "other")
            self._counts.answered(known, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        headers: MutableMapping[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._local and host and not _LOCAL.fullmatch(host):
            return 421, "host: expected localhost, as the server listens on this machine alone", []
        if scope["query_string"]:
            return 400, "expected no query after the path", []
        if self._token is not None and scope["path"] not in _OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            good = hmac.compare_digest(given.strip(), self._token)
            if kind.lower() != b"bearer" or not good:
                message = "authorization: expected Bearer and the server's token"
                return 401, message, [(b"www-authenticate", b"Bearer")]
        return None


async def _refuse(send: Send, status: int, message: str, headers: list[Any]) -> None:
    body = to_json({"error": message})
    length = (b"content-length", str(len(body)).encode())
    start = [(b"content-type", b"application/json"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
