"""What every request passes before anything looks into it, and every answer on its way out."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from drcl.serve.counts import Counts
from drcl.serve.items import to_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOST = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::\d{1,5})?")
_TOKEN = re.compile(r"[!-~]{16,1000}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_OPEN = ("/", "/health")  # the page, which holds nothing of the index, and what probes ask


class Gate:
    """Asks for the token, refuses other host names, counts, and adds headers.

    A server that listens on this machine alone refuses any host name but this machine's: otherwise
    a page from elsewhere, whose host name was made to lead here, would be of the same origin.
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
        began, status, started = time.perf_counter(), 500, False

        async def sending(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, sending)
            else:
                await _refuse(sending, *refusal)
        except asyncio.CancelledError:  # the server ends, and waits no longer
            if started:
                raise
            await _refuse(sending, 503, "the server is ending", [(b"retry-after", b"1")])
        finally:
            path = scope["path"]
            known = next((p for p in self._paths if f"{path}/".startswith(f"{p}/")), "other")
            self._counts.answered(known, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        headers: MutableMapping[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._local and host and not _is_local(host):
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


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1] or found[2]
    return name.lower() == "localhost" or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Whether an IP address, as a socket is bound to it, reaches this machine alone.

    >>> [is_loopback(one) for one in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0")]
    [True, True, True, False]
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def check_token(name: str, token: str) -> str:
    """The token; ValueError, without its letters, for one that a header cannot carry or that is
    short enough to guess."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError(
            f"{name}: expected a token of 16 to 1,000 letters, digits and signs of ASCII, without "
            "spaces or line breaks, such as: openssl rand -hex 32"
        )
    return token
