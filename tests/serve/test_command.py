"""``drcl serve`` as a process: over sockets, to its end by a signal."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gloo import command, ended
from malformed import malformed

from drcl import DRCL, Index, Prior
from drcl.cli import main
from drcl.cli.index import fingerprint

app = pytest.importorskip("drcl.serve.app", reason="serving needs the extra 'serve'")
pytest.importorskip("uvicorn", reason="serving needs the extra 'serve'")

TOKEN = "x" * 16
KINDS = torch.arange(30) % 3


@dataclass
class Running:
    """A server as a process of its own."""

    process: Any
    folder: Path
    port: int

    def said(self) -> str:
        return (self.folder / "stdout").read_text() + (self.folder / "stderr").read_text()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def search(self, value: Any) -> Any:
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        status, body = self.ask("POST", "/search", json.dumps(value).encode(), **headers)
        assert status == 200, body
        return json.loads(body)

    def raw(self, content: bytes, end: bool = False) -> bytes:
        """What comes back for these bytes, sent as they are; after them nothing more can come."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as one:
            one.sendall(content)
            if end:
                one.shutdown(socket.SHUT_WR)
            parts = []
            while part := one.recv(65536):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture(scope="module")
def model() -> DRCL:
    model = DRCL(dim=8, hidden=(8,), epochs=1, device="cpu")
    data = {"image": (torch.randn(30, 4), KINDS), "text": (torch.randn(30, 3), KINDS)}
    return model.fit(data, prior=Prior.orthogonal(dim=8, classes=3), progress=False)


def start(tmp_path: Path, model: DRCL) -> Running:
    model.save(tmp_path / "run")
    index = Index(space="cosine", about={"prior": fingerprint(model)})
    names, kinds = [f"i-{n}" for n in range(30)], ["a", "b", "c"] * 10
    rows = model.encode("image", torch.eye(30, 4), space="cosine")
    index.add(rows, ids=names, modality="image", metadata={"kind": kinds})
    index.save(tmp_path / "index")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = ["--run", tmp_path / "run", "--token-file", tmp_path / "token", "--port", 0]
    limits = ["--max-body", 20_000, "--max-rows", 4, "--max-k", 20]
    given = ["serve", tmp_path / "index", *options, *limits]
    process = command([str(word) for word in given], tmp_path)
    end, out = time.monotonic() + 120, tmp_path / "stdout"
    while True:
        found = re.search(r"http://127.0.0.1:(\d+)/", out.read_text() if out.is_file() else "")
        if found is not None:
            break
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.02)
    return Running(process, tmp_path, int(found[1]))


@pytest.fixture
def running(tmp_path: Path, model: DRCL) -> Iterator[Running]:
    one = start(tmp_path, model)
    yield one
    if one.process.is_alive():
        one.process.kill()
        one.process.join()


def test_a_server_answers_refuses_and_shuts_down_cleanly(running: Running, model: DRCL) -> None:
    features = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    index = Index.load(running.folder / "index")
    found = running.search({"features": {"text": features.tolist()}, "k": 5})["results"]
    expected = index.search(model.encode("text", features, space="cosine"), 5)
    for one, ids, scores in zip(found, expected.ids, expected.scores, strict=True):
        assert [hit["item"]["id"] for hit in one["found"]] == ids.tolist()
        assert [hit["score"] for hit in one["found"]] == pytest.approx(scores.tolist(), abs=1e-6)

    random = np.random.default_rng(1)
    for _ in range(200):
        asked = malformed(random, 8)
        headers = {"authorization": f"Bearer {TOKEN}", **(asked.headers or {})}
        lines = [f"{asked.method} /{'?k=3' if asked.query else ''} HTTP/1.1", "host: localhost"]
        lines[0] = lines[0].replace(" /", f" {asked.path.replace(' ', '%20')}", 1)
        lines += [f"{name}: {value}" for name, value in headers.items() if name != "host"]
        if "content-length" not in headers:
            lines.append(f"content-length: {len(asked.body)}")
        if "host" in headers:
            lines[1] = f"host: {headers['host']}"
        head = "\r\n".join([*lines, "connection: close", "", ""]).encode("utf-8", "surrogatepass")
        reply = running.raw(head + asked.body)
        assert re.match(rb"HTTP/1\.1 4\d\d ", reply), (asked, reply)
    bad_header = b"GET / HTTP/1.1\r\nno colon\r\n\r\n"
    for content in (b"", b"\0" * 999, bad_header, b"x: y\r\n" * 9999, random.bytes(500)):
        reply = running.raw(content, end=True)
        assert not reply or re.match(rb"HTTP/1\.1 4\d\d ", reply), reply
    assert running.ask("GET", "/health")[0] == 200
    assert running.ask("GET", "/metrics")[0] == 401

    # a request of which half is there when the signal comes is still answered
    body = json.dumps({"ids": ["i-3"], "k": 1}).encode()
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as one:
        head = f"POST /search HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        one.sendall(head.encode() + body[:9])
        time.sleep(0.3)
        os.kill(running.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        one.sendall(body[9:])
        reply = b""
        while part := one.recv(65536):
            reply += part
    assert reply.startswith(b"HTTP/1.1 200") and b'"query":{"number":3' in reply
    assert ended(running.process, 60) == 0
    assert "\nended\n" in running.said() and "Traceback" not in running.said()


SLOW = """
import sys, time
from drcl.serve import app
answer, sys.modules["drcl.cli.serve"]._STOPPING = app.answer, 1

def slow(*arguments):
    time.sleep(4)
    return answer(*arguments)

app.answer = slow
"""


def test_requests_that_take_too_long_at_the_end_are_told_in_one_line(
    tmp_path: Path, model: DRCL
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    one = start(tmp_path, model)
    with ThreadPoolExecutor(3) as pool:
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        body = json.dumps({"ids": ["i-3"]}).encode()
        asked = [pool.submit(one.ask, "POST", "/search", body, **headers) for _ in range(3)]
        time.sleep(1)
        assert one.process.pid is not None
        os.kill(one.process.pid, signal.SIGTERM)
        replies = [future.result() for future in asked]
    assert replies == [(503, b'{"error":"the server is ending"}')] * 3
    assert ended(one.process, 60) == 0
    said = (tmp_path / "stderr").read_text().splitlines()
    assert len(said) == 1 and "timeout graceful shutdown exceeded" in said[0], said


def test_ctrl_c_ends_it_too(running: Running) -> None:
    assert running.search({"ids": ["i-3"]})["results"]
    os.kill(running.process.pid, signal.SIGINT)
    assert ended(running.process, 60) == 0
    assert "\nended\n" in running.said() and "Traceback" not in running.said()


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert done.exit_code in (1, 2) and "Traceback" not in done.output, done.output
    return done.output


def test_what_cannot_be_served_is_refused(tmp_path: Path, model: DRCL) -> None:
    index = Index(about={"prior": "another"}).add(torch.eye(3)).save(tmp_path / "index")
    (tmp_path / "empty").mkdir()
    assert "holds no index" in refused(tmp_path / "empty")
    model.save(tmp_path / "run")
    told = refused(index, "--run", tmp_path / "run")
    assert "another prior" in told and "None" not in told
    narrow = Index(space="cosine").add(torch.eye(3)).save(tmp_path / "narrow")
    assert "expected width 3, as" in refused(narrow, "--run", tmp_path / "run")
    for token in ("", "short", "two words of letters", "é" * 20, "a" * 16 + "\n" + "b" * 16):
        (tmp_path / "token").write_text(token)
        assert "expected a token of 16" in refused(index, "--token-file", tmp_path / "token")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot listen there" in refused(index, "--port", port)
    assert "cannot listen there" in refused(index, "--host", "256.1.1.1", "--port", 0)


def test_only_serving_needs_the_extra(tmp_path: Path) -> None:
    index = Index().add(torch.eye(3)).save(tmp_path / "index")
    code = (
        "import sys; sys.modules |= dict.fromkeys(('starlette', 'uvicorn', 'jinja2'))\n"
        "from drcl.cli import main\n"
        "for words in (['--help'], ['serve', sys.argv[1]]):\n"
        "    try:\n"
        "        main(words, 'drcl')\n"
        "    except SystemExit as ended:\n"
        "        print('ended with', ended.code, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(index)], capture_output=True, text=True, timeout=120
    )
    of_help, of_serve, rest = done.stdout.split("ended with ")
    assert "serve" in of_help and of_serve.startswith("0\n") and rest == "1\n"
    assert "pip install 'drcl[serve]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1", True),
        ("LOCALHOST", True),
        ("0x7f000001", True),
        ("2130706433", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("0", False),
    ],
)
def test_a_server_is_local_by_the_address_it_listens_on(
    tmp_path: Path, host: str, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def make_app(*_: Any, **options: Any) -> None:
        found.append(options["local"])
        raise ValueError("enough")

    monkeypatch.setattr(app, "make_app", make_app)
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    assert "enough" in refused(tmp_path, "--host", host, "--port", 0)
    assert found == [local]
