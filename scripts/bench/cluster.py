"""Real daemons for the benchmarks: a network on loopback, runs on it, and what the members' journals say.

IO: starts `forge-peer start` processes below one folder; none is left when the block ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from links import Side

from peer.demo.peers import DemoFailed, DemoPeer, run_json, yard
from peer.identity import Home

POLL_S = 0.02
MEET_S = 60.0
MEASURED_S = 120.0
SILENCE_S = 180.0
CORPUS = Path(__file__).parents[2] / "data" / "sample_corpus.txt"

Event = dict[str, Any]


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """These environment variables are set for what is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def cluster(
    folder: Path, count: int, *, threads: Sequence[int] = (1,), environments: Sequence[Mapping[str, str]] = ({},),
    sides: Sequence[Side | None] = (None,), measured: bool = True, witnesses: int = 1,
) -> Iterator[list[Peer]]:  # fmt: skip
    """`count` daemons of one new network that know each other.

    Args:
        folder: for homes and logs.
        count: the first one is the witness and leads what it submits.
        threads: CPU threads of each one's training, taken in turn.
        environments: extra environment variables of each one, taken in turn.
        witnesses: the first so many are witnesses; where there are several, each of them is willing to lead.
        sides: the machine of each one, taken in turn; None is this one, on loopback.
        measured: whether to wait until they have measured their speed, which they do once they have nothing to train.
    """
    peers = [
        Peer(
            number=place + 1,
            home=folder / f"peer-{place + 1}",
            threads=threads[place % len(threads)],
            environment=environments[place % len(environments)],
            side=sides[place % len(sides)],
        )
        for place in range(count)
    ]
    words = ("--witnesses", witnesses) if witnesses > 1 else ()
    made = run_json("forge-peer", "network", "create", "--home", peers[0].home, "--name", "bench", *words)
    for place, peer in enumerate(peers[:witnesses] if words else []):
        peer.witness_key = Path(made["witness_keys"][place - 1]) if place else None
        peer.home.mkdir(exist_ok=True)
        (peer.home / "peer.toml").write_text("lead = true\n")
    with yard([*peers]):
        for peer in peers:
            peer.begin(peers[0])
            if peer is peers[0]:
                peer.wait_ready()
        for peer in peers:
            peer.wait_ready()
        for peer in peers if measured else []:
            wait_for(peer.has_measured, MEASURED_S, f"{peer.label} to have measured its speed")
        everybody = {peer.account for peer in peers}
        wait_for(lambda: all(everybody <= _known(peer) for peer in peers), MEET_S, "the peers to meet")
        yield peers


def _known(peer: DemoPeer) -> set[str]:
    """Accounts that a daemon knows now, its own included."""
    return {node["account"] for node in peer.client.get("/nodes")} | {peer.account}


@dataclass(kw_only=True)
class Peer(DemoPeer):
    """One daemon of a benchmark."""

    threads: int
    """CPU threads of its training."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Extra environment variables."""
    witness_key: Path | None = None
    """The key that it takes into its home when it begins."""
    side: Side | None = None
    """The machine on which it runs; None is this one."""

    @property
    def command(self) -> list[str]:
        """What starts its daemon."""
        return [*(self.side.inside if self.side else ()), *super().command]

    def begin(self, first: DemoPeer) -> None:
        """Start the daemon, or start it again."""
        join: tuple[object, ...] = ()
        if self is not first:
            join = ("--network", first.home / "network.json", "--bootstrap", first.address)
        if self.witness_key is not None:
            join, self.witness_key = (*join, "--witness-key", self.witness_key), None
        if self.side is not None:
            join = (*join, "--listen", f"/ip4/{self.side.address}/tcp/0")
        with environment(**self.environment):
            self.start(*join, "--device", "cpu", "--threads", self.threads, "--name", self.label)

    def has_measured(self) -> bool:
        """Whether the measurement at the first start is over."""
        self.must_run()
        return (self.home / "speed.json").exists()

    def run_folder(self, run: str) -> Path:
        """Its folder of a run."""
        return self.home / "runs" / run

    def journal(self, run: str) -> Journal:
        """Its journal of a run."""
        return Journal(self.run_folder(run) / "events.jsonl")

    def events(self, run: str) -> list[Event]:
        """What is in its journal of a run now."""
        return self.journal(run).poll()

    def blob(self, blob: str) -> Path:
        """The file of a blob that it has."""
        return Home(self.home).blobs / blob[:2] / blob


class Journal:
    """A run's journal of one home, read as it grows."""

    def __init__(self, path: Path) -> None:
        """The file may not be there yet."""
        self.events: list[Event] = []
        self._path = path
        self._at = 0

    def poll(self) -> list[Event]:
        """The events since the last poll; a line that is being written comes with the next."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        news = [event for line in whole.splitlines() if (event := _parsed(line)) is not None]
        self.events += news
        return news

    def times(self, name: str) -> dict[int, float]:
        """Wall-clock second of the newest event of that name, by round."""
        return {event["round"]: event["time"] for event in self.events if event["event"] == name}


def _parsed(line: bytes) -> Event | None:
    """An event; None for a line that a kill cut short."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def submit(peer: DemoPeer, folder: Path, text: str) -> str:
    """Submit a run spec; returns the run's id."""
    path = folder / "spec.yaml"
    path.write_text(text, "utf-8")
    return str(run_json("forge-peer", "submit", path, "--home", peer.home)["run"])


def wait_closed(peers: Sequence[Peer], run: str, each: Callable[[list[Event]], None]) -> None:
    """Wait until the run is closed at every peer and it has claimed its credits.

    Args:
        peers: all members; the first one is the leader.
        run: the run.
        each: called with the leader's new events, a few times per second.

    Raises:
        DemoFailed: a daemon ended, or nothing happened for a long time.
    """
    journals = [peer.journal(run) for peer in peers]
    last = time.monotonic()
    while True:
        news = [journal.poll() for journal in journals]
        for peer in peers:
            peer.must_run()
        each(news[0])
        if any(news):
            last = time.monotonic()
        elif time.monotonic() - last > SILENCE_S:
            raise DemoFailed(f"run {run[:16]}: no event for {SILENCE_S:.0f} s", f"see {peers[0].log}")
        if all(any(event["event"] == "claimed" for event in journal.events) for journal in journals):
            return
        time.sleep(POLL_S)


def wait_for(holds: Callable[[], bool], patience_s: float, what: str) -> None:
    """Look again and again until it holds. Raises DemoFailed."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {patience_s:.0f} s for {what}")
        time.sleep(0.05)
