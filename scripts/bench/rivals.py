"""Pairs of processes that train one model together by other means (`rank.py`), on loopback or on both ends of a cable.

IO: processes; each has a group of its own, of which nothing is left when the block ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from links import Side

from peer.demo.peers import LEASH, DemoFailed

READY_S = 90.0
HERE = Side(namespace="", device="lo", address="127.0.0.1")
"""This machine itself, whose loopback joins both."""


@dataclass(frozen=True, kw_only=True)
class Burst:
    """What both did together."""

    tokens: int
    """Of both."""
    seconds: float
    """Until the later one was done."""
    epochs: int
    """How often they averaged; for DDP and pipelines the steps."""

    @property
    def tokens_per_s(self) -> float:
        """Speed of both together."""
        return self.tokens / self.seconds


class Rank:
    """One of the two processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Use `pair`."""
        self._process = process
        self._log = log
        self._unread = b""

    def read(self, patience_s: float) -> dict[str, Any]:
        """Its next line. Raises DemoFailed."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                data = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
                if not data:
                    why = "ended" if ready else f"said nothing for {patience_s:.0f} s"
                    raise DemoFailed(f"{self._log.stem}: {why}", f"see {self._log}")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def write(self, line: str) -> None:
        """Ask it for something."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


class Pair:
    """Both, ready for bursts."""

    def __init__(self, ranks: Sequence[Rank], parameters: int) -> None:
        """Use `pair`."""
        self._ranks = ranks
        self.parameters = parameters

    def burst(self, much: float, patience_s: float) -> Burst:
        """So many steps (ddp, pipeline) or seconds (hivemind). Raises DemoFailed."""
        for rank in self._ranks:
            rank.write(f"{much:g}")
        done = [rank.read(patience_s) for rank in self._ranks]
        return Burst(
            tokens=sum(int(one["tokens"]) for one in done),
            seconds=max(float(one["seconds"]) for one in done),
            epochs=max(int(one.get("epochs", much)) for one in done),
        )


@contextmanager
def pair(
    kind: str, words: Sequence[str], folder: Path, sides: Sequence[Side] = (HERE, HERE), *, local_steps: int = 1
) -> Iterator[Pair]:
    """Start both and wait until they have found each other.

    Args:
        kind: `ddp`, `pipeline` or `hivemind`.
        words: the options of `plain.words`.
        folder: for their logs.
        sides: the machine of each.
        local_steps: hivemind only.
    """
    more = ("--kind", kind, "--local-steps", str(local_steps))
    with ExitStack() as stack:
        meet = f"{sides[0].address}:{_free_port()}" if kind != "hivemind" else ""
        ranks, facts = [], []
        for number, side in enumerate(sides):
            log = folder / f"{kind}-{local_steps}-{side.namespace or 'loopback'}-{number}.log"
            given = (*words, *more, "--rank", str(number), "--address", side.address, "--device", side.device)
            ranks.append(stack.enter_context(_rank(side, (*given, "--meet", meet), log)))
            if kind == "hivemind":
                facts.append(ranks[-1].read(READY_S))
                meet = meet or str(facts[-1]["meet"])
        facts = facts or [rank.read(READY_S) for rank in ranks]
        yield Pair(ranks, int(facts[0]["parameters"]))


@contextmanager
def _rank(side: Side, words: Sequence[str], log: Path) -> Iterator[Rank]:
    script = str(Path(__file__).with_name("rank.py"))
    inside = side.inside if side.namespace else ()
    command = [*inside, sys.executable, "-c", LEASH, str(os.getpid()), sys.executable, script, *words]
    environment: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
            start_new_session=True,
        )  # fmt: skip
    with process:
        try:
            yield Rank(process, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it forked, too: hivemind's DHT and p2pd


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
