"""Latency of ``drcl serve`` on loopback beside the bare product, at 1, 8 and 64 clients.

    python -m drcl.benchmarks.studies.serving [OUT.json]

The server is a process of its own; the clients share one more, each asking again once it has been
answered. The bare product is the matrix product alone, of as many queries as there are clients,
measured in between. Servers and clients share the machine, and what else ran on it is recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drcl import Index

CLIENTS = (1, 8, 64)
K = 10


def percentiles(seconds: list[float]) -> dict[str, float]:
    """The median and the 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98]}


def bare(rows: Tensor, queries: Tensor, repetitions: int) -> dict[str, float]:
    """The product alone."""
    taken = []
    for _ in range(repetitions):
        began = time.perf_counter()
        queries @ rows.T
        taken.append(time.perf_counter() - began)
    return percentiles(taken)


async def client(port: int, body: bytes, requests: int, taken: list[float]) -> None:
    """One connection that asks so many times."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    asked = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(requests):
        began = time.perf_counter()
        writer.write(asked)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        assert answer.startswith(b"HTTP/1.1 200") and length is not None, answer
        await reader.readexactly(int(length[1]))
        taken.append(time.perf_counter() - began)
    writer.close()


async def clients(port: int, bodies: list[bytes], requests: int) -> list[float]:
    """Seconds of all answers."""
    taken: list[float] = []
    await asyncio.gather(*(client(port, body, requests, taken) for body in bodies))
    return taken


def metric(port: int, name: str) -> float:
    """A value of ``GET /metrics``."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        found = re.search(rf"^{name} (\S+)$", reply.read().decode(), flags=re.M)
    assert found is not None
    return float(found[1])


def cpu_seconds(process: int) -> float:
    """Of a process, so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, process: int, rows: Tensor, requests: int) -> list[dict[str, Any]]:
    """A line for each number of clients."""
    lines = []
    for count in CLIENTS:
        queries = torch.nn.functional.normalize(torch.randn(count, rows.shape[1]))
        bodies = [json.dumps({"embeddings": [one.tolist()], "k": K}).encode() for one in queries]
        asyncio.run(clients(port, bodies, 2))  # warm
        product = bare(rows, queries, 20)
        before = [metric(port, f"drcl_{name}_total") for name in ("queries", "batches")]
        began, used = time.perf_counter(), cpu_seconds(process)
        taken = asyncio.run(clients(port, bodies, -(-requests // count)))
        wall = time.perf_counter() - began
        after = [metric(port, f"drcl_{name}_total") for name in ("queries", "batches")]
        asked, batches = (b - a for a, b in zip(before, after, strict=True))
        lines.append(
            {
                "clients": count,
                "requests": len(taken),
                **percentiles(taken),
                "per_second": len(taken) / wall,
                "queries_per_batch": asked / batches,
                "bare": product,
                "server_cores": (cpu_seconds(process) - used) / wall,
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--requests", type=int, default=640, help="at each number of clients")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(options.rows, options.width))
    with tempfile.TemporaryDirectory() as folder:
        Index(space="cosine").add(rows, modality="image").save(Path(folder) / "index")
        command = [sys.executable, "-m", "drcl", "serve", f"{folder}/index", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            found = re.search(r":(\d+)/", server.stdout.readline())
            assert found is not None, "the server did not start"
            lines = measure(int(found[1]), server.pid, rows, options.requests)
        finally:
            server.terminate()
            server.wait(60)
    record = {
        "rows": options.rows,
        "width": options.width,
        "k": K,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "date": datetime.date.today().isoformat(),
        "lines": lines,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
