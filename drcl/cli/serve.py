"""``drcl explore`` and ``drcl serve``."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from drcl.checks import check_installed
from drcl.cli import show
from drcl.cli.index import check_same_model, fingerprint
from drcl.cli.output import OutputPage, check_new
from drcl.estimator import DRCL
from drcl.index import Index
from drcl.portable import take_address
from drcl.serve.answers import Encoders
from drcl.serve.explorer import explorer_page
from drcl.serve.gate import check_token, is_loopback
from drcl.serve.requests import Limits
from drcl.storage.files import write_bytes

_index_argument = click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="INDEX"
)
_USUAL = Limits()
_STOPPING = 10  # seconds in which requests may end once the server is told to
F = TypeVar("F", bound=Callable[..., Any])


def _at_most(flag: str, usual: int, words: str) -> Callable[[F], F]:
    """An option for what clients may ask at most."""
    least = click.IntRange(min=1)
    return click.option(flag, type=least, default=usual, show_default=True, help=words)


@click.command()
@_index_argument
@click.option(
    "--out",
    required=True,
    type=OutputPage(),
    help="File of the page, such as leaves.html.",
)
@click.option("--title", help="Heading of the page; default: the name of the index.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
def explore(folder: Path, out: Path, title: str | None, overwrite: bool) -> None:
    """Write an index as one HTML page to explore.

    The page needs no other file and holds up to 5,000 items; drcl serve shows larger indexes.
    """
    check_new(out, overwrite)
    page = explorer_page(Index.load(folder), title or folder.resolve().name)
    write_bytes(out, page.encode())
    click.echo(f"written: {out}")


@click.command()
@_index_argument
@click.option(
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The run that made the index; queries may then also be features.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address of this machine to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; 0 picks a free one.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with a token that clients must send.",
)
@_at_most("--max-k", _USUAL.k, "Largest number of results per query.")
@_at_most("--max-rows", _USUAL.rows, "Largest number of queries per request.")
@_at_most("--max-body", _USUAL.body, "Largest request, in bytes.")
@_at_most("--max-waiting", _USUAL.waiting, "Largest number of requests waiting for an answer.")
@show.device_option
def serve(
    folder: Path,
    run: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    max_k: int,
    max_rows: int,
    max_body: int,
    max_waiting: int,
    device: str | None,
) -> None:
    """Serve an index over HTTP: search as JSON, and a page to explore it.

    POST /search takes JSON; GET / returns the page. The index may be extended or replaced while it
    is served. Ctrl-C or SIGTERM stops the server once open requests are answered, after 10 seconds
    at most.
    """
    refusal = "serving needs {}; install it with: pip install 'drcl[serve]'"
    check_installed(refusal, "starlette", "uvicorn", "jinja2")
    import uvicorn

    from drcl.serve.app import make_app

    encoders = None if run is None else _encoders(run, folder, device)
    token = None if token_file is None else read_token(token_file)
    limits = Limits(
        k=max_k, rows=max_rows, body=max_body, waiting=max_waiting, reading=4 * max_waiting
    )
    logging.basicConfig(format="%(message)s")
    with _listening(host, port) as listener:
        name, number = listener.getsockname()[:2]
        local = is_loopback(name)  # of the address: a host may be spelled in many ways
        app = make_app(folder, encoders=encoders, token=token, local=local, limits=limits)
        shown = f"[{name}]" if ":" in name else name
        if not local and token is None:
            click.echo(f"warning: whoever reaches {shown} may search, see --token-file", err=True)
        click.echo(f"serving {folder} at http://{shown}:{number}/")
        settings = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=8 * max_waiting,  # connections, idle ones among them
            timeout_graceful_shutdown=_STOPPING,
        )
        with _once():
            uvicorn.Server(settings).run(sockets=[listener])
    click.echo("ended")


@contextlib.contextmanager
def _once() -> Iterator[None]:
    """uvicorn ends in good order on a signal and then raises it again: that does nothing here."""
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _encoders(run: Path, folder: Path, device: str | None) -> Encoders:
    model = show.on_device(DRCL.load(run), device)
    check_same_model(Index.load(folder), folder, model, run)
    return Encoders(
        model.modalities,
        lambda modality, rows, space: model.encode(modality, rows, space=space),
        fingerprint(model),
    )


def read_token(path: Path) -> str:
    """The token of a file, without the spaces around it; ValueError as of :func:`check_token`."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    return check_token(str(path), token)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; OSError that names address and port otherwise."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            take_address(made)
            made.bind(address)
            made.listen(1024)  # who connects from now on is answered once the server runs
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: cannot listen there ({error})") from error
    return made
