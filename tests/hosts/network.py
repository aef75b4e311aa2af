"""Two hosts on one machine: each has a network, a host name and processes of its own.

A host is a namespace of the kernel's, and a link between both is a veth pair, or for a slow one a
relay. All of it is inside further namespaces, and gone when this script ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

ADDRESSES = {"one": "10.77.0.1", "two": "10.77.0.2"}
LINK = "eth0"
# From <linux/if_tun.h>: packets of IP, without a header before them.
TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001
MTU = 1500
ALONE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc"]
ALONE += ["--fork", "--kill-child"]


def why_not() -> str:
    """Why this machine cannot imitate two, or ""."""
    commands = ["ip link add eth0 type veth peer name eth1", "mount -t tmpfs none /run"]
    commands += ["unshare --net --uts true", "true < /dev/net/tun"]
    script = " && ".join(commands)
    try:
        tried = subprocess.run([*ALONE, "sh", "-c", script], capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"no {error.filename}"
    return tried.stderr.strip() if tried.returncode else ""


def on_two_hosts(folder: Path, **plan: Any) -> dict[str, Any]:
    """What :func:`run` says of the plan; the hosts' output is in ``folder``/one and two."""
    (folder / "plan.json").write_text(json.dumps(plan))
    subprocess.run([*ALONE, sys.executable, __file__, str(folder)], check=True)
    found: dict[str, Any] = json.loads((folder / "done.json").read_text())
    return found


def run(
    folder: Path,
    commands: Sequence[str],
    environment: Mapping[str, str],
    slow: tuple[float, float] | None = None,
    lost: str = "",
    returns: float | None = None,
    dies: bool = True,
    limit: float = 300.0,
) -> dict[str, Any]:
    """The same command on both hosts, until all have ended: exit codes and seconds of each.

    Args:
        slow: seconds that a packet travels, and bits a second; else as fast as the kernel is.
        lost: a host that loses its power as soon as ``folder``/lost is there.
        returns: the seconds after which it then starts again; None: it does not.
        dies: or else it only loses its network, and what runs there runs on.
        limit: the seconds that all may take; who is not done then is killed.
    """
    with _network(slow):
        hosts = {name: _start(name, folder, commands, environment) for name in ADDRESSES}
        began, ended, found, away = time.monotonic(), {}, {}, ""
        while len(ended) < len(hosts):
            time.sleep(0.02)
            now = time.monotonic() - began
            if lost and (folder / "lost").exists():
                # Nothing of it reaches the other any more, not even that connections are closed.
                _ip("-n", lost, "link", "set", LINK, "down")
                if dies:
                    hosts[lost].kill()
                    hosts[lost].wait()
                found["lost"] = now
                away, lost = lost, ""
            if away and returns is not None and now >= found["lost"] + returns:
                _ip("-n", away, "link", "set", LINK, "up")
                if dies:
                    hosts[away] = _start(away, folder, commands, environment)
                away = ""
            for name, host in hosts.items():
                if now > limit:
                    host.kill()
                comes_back = name == away and returns is not None
                if name not in ended and host.poll() is not None and not comes_back:
                    ended[name] = {"code": host.returncode, "at": now}
        return found | ended


@contextlib.contextmanager
def _network(slow: tuple[float, float] | None) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    names = Path("/run/hosts")
    known = {"localhost": "127.0.0.1", **ADDRESSES}
    names.write_text("".join(f"{address} {name}\n" for name, address in known.items()))
    subprocess.run(["mount", "--bind", names, "/etc/hosts"], check=True)
    for name in ADDRESSES:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
    one, two = ADDRESSES
    if slow is None:
        _ip("link", "add", LINK, "netns", one, "type", "veth", "peer", LINK, "netns", two)
    else:
        ends = [_tunnel(name) for name in ADDRESSES]
        for sender, receiver in (ends, ends[::-1]):
            Thread(target=_relay, args=(sender, receiver, *slow), daemon=True).start()
    for name, address in ADDRESSES.items():
        # Without an address of IPv6 the kernel sends nothing by itself.
        _ip("-n", name, "link", "set", LINK, "addrgenmode", "none", "mtu", str(MTU))
        _ip("-n", name, "address", "add", f"{address}/24", "dev", LINK)
        _ip("-n", name, "link", "set", LINK, "up")
    yield


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _tunnel(name: str) -> int:
    """What a host sends into its link can be read here, and what is written here reaches it."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", f"to-{name}".encode(), IFF_TUN_NO_PI))
    _ip("link", "set", f"to-{name}", "netns", name, "name", LINK)
    return end


def _relay(sender: int, receiver: int, delay: float, rate: float) -> None:
    """Packets one after the other at ``rate`` bits a second, each ``delay`` seconds on its way."""
    travelling: list[tuple[float, bytes]] = []
    free = 0.0  # when the last bit of what was sent so far has left
    while True:
        wait = max(0.0, travelling[0][0] - time.monotonic()) if travelling else None
        if select.select([sender], [], [], wait)[0]:
            packet = os.read(sender, MTU)
            free = max(free, time.monotonic()) + 8 * len(packet) / rate
            heapq.heappush(travelling, (free + delay, packet))
        while travelling and travelling[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # a link that is down
                os.write(receiver, heapq.heappop(travelling)[1])


def _start(
    name: str, folder: Path, commands: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """The command as all that a host does: its processes end with the one that is returned."""
    inside = ["nsenter", f"--net=/run/netns/{name}", "unshare", "--uts", "--pid", "--mount"]
    inside += ["--mount-proc", "--fork", "--kill-child"]
    inside += ["sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"', name]
    own = folder / name
    own.mkdir(exist_ok=True)
    # Without torchrun a host is one rank.
    ranks = {"RANK": str(list(ADDRESSES).index(name)), "WORLD_SIZE": str(len(ADDRESSES))}
    ranks |= {"MASTER_ADDR": next(iter(ADDRESSES)), "MASTER_PORT": "29500"}
    with (own / "stdout").open("ab") as out, (own / "stderr").open("ab") as err:
        return subprocess.Popen(
            [*inside, *commands],
            env={
                **os.environ,
                **ranks,
                **environment,
                "GLOO_SOCKET_IFNAME": LINK,
                "HOST_FOLDER": str(own),
            },
            stdout=out,
            stderr=err,
        )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = run(folder, **json.loads((folder / "plan.json").read_text()))
    (folder / "done.json").write_text(json.dumps(found))
