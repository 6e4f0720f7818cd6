"""Two machines for benchmarks: network namespaces joined by a virtual cable, whose rate can be limited.

What runs in them reaches nothing else. Frames leave in real size, not as the 64 KiB that the kernel hands a virtual
cable by default; so the counters of the interface hold what a line would carry, with Ethernet, IP and TCP headers.

IO: `ip` and `tc`, which need root. The namespaces are removed when the block ends; those of a benchmark that was
killed, when the next one starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from peer.demo.peers import DemoFailed

PREFIX = "forge-bench"
BURST_BYTES, QUEUE_MS = 32 << 10, 200
NAMED = Path("/run/netns")


class NoNamespaces(DemoFailed):
    """This machine does not let us create network namespaces."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two machines."""

    namespace: str
    """Name of its network namespace."""
    device: str
    """Its end of the cable."""
    address: str
    """IPv4 address of that."""

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command that shall run there."""
        return ("ip", "netns", "exec", self.namespace)

    def sent_bytes(self) -> int:
        """What has left through the cable so far."""
        return int(_run(*self.inside, "cat", f"/sys/class/net/{self.device}/statistics/tx_bytes"))

    def limit(self, mbit: float) -> None:
        """From now on no more than so many Mbit/s leave."""
        rate = ("rate", f"{mbit:g}mbit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms")
        _run("tc", "-n", self.namespace, "qdisc", "replace", "dev", self.device, "root", "tbf", *rate)


@contextlib.contextmanager
def cable() -> Iterator[tuple[Side, Side]]:
    """Both machines, the cable between them not limited yet.

    Raises:
        NoNamespaces: it needs root, Linux, `ip` and `tc`.
    """
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        raise NoNamespaces(f"no network namespaces without {' and '.join(missing)}", "install iproute2")
    sweep()
    sides = [
        Side(namespace=f"{PREFIX}-{os.getpid()}-{number}", device=f"cable{number}", address=f"10.203.0.{number}")
        for number in (1, 2)
    ]
    with contextlib.ExitStack() as stack:
        for side in sides:
            _run("ip", "netns", "add", side.namespace)
            stack.callback(_run, "ip", "netns", "del", side.namespace)
        one, other = sides
        ends = (one.device, "netns", one.namespace, "type", "veth", "peer", "name", other.device)
        _run("ip", "link", "add", *ends, "netns", other.namespace)
        for side in sides:
            at = ("ip", "-n", side.namespace)
            _run(*at, "link", "set", "lo", "up")
            _run(*at, "link", "set", side.device, "gso_max_segs", "1", "addrgenmode", "none")  # no IPv6 chatter
            _run(*at, "address", "add", f"{side.address}/30", "dev", side.device)
            _run(*at, "link", "set", side.device, "up")
        yield one, other


def sweep() -> list[str]:
    """Remove the namespaces of benchmarks that no longer run; returns their names."""
    names = [path.name for path in NAMED.glob(f"{PREFIX}-*-*")] if NAMED.is_dir() else []
    left = [name for name in names if not psutil.pid_exists(int(name.split("-")[-2]))]
    for name in left:
        _run("ip", "netns", "del", name)
    return left


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise NoNamespaces(f"{' '.join(command[:5])} …: {done.stderr.strip()[:200]}", "run it as root on Linux")
    return done.stdout
