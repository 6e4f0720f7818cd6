"""A new replica catches up from one peer on loopback; and what twenty idle replicas say to each other.

`catch_up_per_s`: a `forge-peer start` daemon has a ledger (accounts that pay each other, runs, a tenth of the entries
signed receipts); this process starts an empty replica with its own p2pd and the daemon's `peer.ledger.replication`, and
the time runs from its first question until every log is certified on its disk. Floor in the same run: the same entries
given to `Store.accept` without a network, in whole logs.

`idle_bytes_per_s`: twenty replica machines over stores that agree, in virtual time, every question and answer in the
real encoding of its RPC frames; what each replica sends and receives, summed. libp2p's own framing is not in it.

IO: a daemon, p2pd, files.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import harness
import ledger_made
from harness import Options, Result, Target, say

from ledger.genesis import Genesis
from ledger.replica import store as replica_store
from ledger.replica.machine import Replica
from ledger.replica.values import Ask, HeadsSince, Look
from ledger.store.database import Database
from ledger.store.store import Store
from peer.config import Settings
from peer.demo.peers import DemoPeer, yard
from peer.identity import Home, NetworkFile
from peer.ledger.logs import Logs
from peer.ledger.messages import METHODS, body_of, reply_of
from peer.ledger.replication import CALL_S, Replication
from peer.network.network import Network
from peer.network.rpc import write_request
from peer.resources import cpu_name
from peer.wire import pack_reply

TARGETS: dict[str, Target] = {"catch_up_per_s": (">=", 20_000.0), "idle_bytes_per_s": ("<=", 1000.0)}
ENTRIES, QUICK_ENTRIES = 100_000, 10_000
LOGS, QUICK_LOGS = 100, 20
REPLICAS = 20
IDLE_S = 600.0
SETTLED_S = 60.0
"""Virtual seconds before counting begins."""


def made(folder: Path, entries: int, logs: int) -> tuple[Path, Genesis]:
    """A ledger as a daemon that replicated it would have it."""
    path, network = folder / "made.db", folder / "made.json"
    ledger_made.make(path, network, entries=entries, logs=logs)
    database = Database.open(path)
    try:
        with database.transaction():
            database.change("UPDATE meta SET value = ? WHERE name = 'instance'", os.urandom(16))
            for row in database.logs().values():
                database.note_change(row, "certificate")
    finally:
        database.close()
    return path, Genesis.parse(network.read_bytes())


@contextmanager
def daemon(folder: Path, ledger: Path, genesis: Genesis) -> Iterator[DemoPeer]:
    """A running peer that has the ledger."""
    peer = DemoPeer(number=1, home=folder / "peer")
    home = Home(peer.home)
    home.create()
    NetworkFile(genesis=genesis, bootstrap=()).save(home.network_file)
    ledger.rename(home.ledger_file)
    (home.path / "speed.json").write_text(json.dumps({f"cpu 1 {cpu_name()}": 0.0}))  # nothing to measure here
    with yard([peer]):
        peer.start("--device", "cpu", "--threads", 1, "--name", "full")
        peer.wait_ready()
        yield peer


async def catch_up(folder: Path, peer: DemoPeer, genesis: Genesis, wanted: dict[str, int]) -> float:
    """Seconds from the first question to the last certificate."""
    home = Home(folder / "new")
    home.create()
    identity = home.identity()
    NetworkFile(genesis=genesis, bootstrap=()).save(home.network_file)
    settings = Settings.load(home.path, {}, {})
    with home.lock():
        async with Network.start(home=home, identity=identity, genesis=genesis, settings=settings) as network:
            there = await network.connect(peer.address)
            with Store.open(home.ledger_file, genesis, create=True) as store:
                logs = Logs(
                    store=store, genesis=genesis, account=identity.account_key, witness=None, network=network,
                    witness_peers=dict,
                )  # fmt: skip
                started = time.perf_counter()
                serving = asyncio.create_task(Replication(logs, network).serve(lambda: [there], dict, frozenset))
                try:
                    for origin, size in wanted.items():
                        await logs.grown(origin, size - 1)
                    return time.perf_counter() - started
                finally:
                    serving.cancel()
                    await asyncio.wait([serving])
                    await logs.close()


def without_network(folder: Path, full: Path, genesis: Genesis) -> float:
    """Seconds in which the same entries are accepted, one log after the other."""
    taken, floor = 0.0, folder / "floor.db"
    with Store.open(full, genesis, read_only=True) as source, Store.open(floor, genesis, create=True) as new:
        for origin in source.origins():
            certificate = source.certified(origin)
            assert certificate is not None
            entries = source.entries(origin, 0, certificate.size)
            started = time.perf_counter()
            new.accept(origin, 0, entries, certificate.note)
            taken += time.perf_counter() - started
        return taken


def idle_bytes(path: Path, genesis: Genesis) -> float:
    """Bytes per second that an idle replica among twenty sends and receives."""
    machines = [Replica(Random(number)) for number in range(REPLICAS)]
    total, now = 0, 0.0
    with Store.open(path, genesis, read_only=True) as store:
        facts = replica_store.facts(store, store.origins())
        page = replica_store.heads_since(store, HeadsSince(instance="", cursor=0))

        def carry_out(machine: Replica, effects: Sequence[object]) -> int:
            count = 0
            for effect in effects:
                if isinstance(effect, Ask):
                    assert isinstance(effect.request, HeadsSince)  # they agree: nothing else is asked
                    answer = replica_store.heads_since(store, effect.request) if effect.request.cursor else page
                    count += len(write_request(METHODS[HeadsSince], body_of(effect.request), b"", CALL_S))
                    count += len(pack_reply(reply_of(answer)))
                    count += carry_out(machine, machine.receive(effect.peer, effect.request, answer, now))
                elif isinstance(effect, Look):
                    known = {name: facts[name] for name in effect.origins}
                    count += carry_out(machine, machine.looked(effect, known, now))
            return count

        for number, machine in enumerate(machines):
            for other in range(REPLICAS):
                if other != number:
                    carry_out(machine, machine.peer_joined(str(other), now, preferred=other < 4))
        due = [(machine.deadline, number) for number, machine in enumerate(machines)]
        heapq.heapify(due)
        while due[0][0] < SETTLED_S + IDLE_S:
            now, number = heapq.heappop(due)
            count = carry_out(machines[number], machines[number].tick(now))
            total += count if now >= SETTLED_S else 0
            heapq.heappush(due, (machines[number].deadline, number))
    return 2 * total / IDLE_S / REPLICAS  # every frame is sent by one and received by another


def measure(quick: bool) -> dict[str, Any]:
    """Both figures, and what they are made of."""
    entries, logs = (QUICK_ENTRIES, QUICK_LOGS) if quick else (ENTRIES, LOGS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        path, genesis = made(folder, entries, logs)
        with Store.open(path, genesis, read_only=True) as store:
            wanted = {origin: store.known(origin)[1] for origin in store.origins()}
        count = sum(wanted.values())
        say(f"{count} entries in {len(wanted)} logs")
        idle = idle_bytes(path, genesis)
        floor_s = without_network(folder, path, genesis)
        with daemon(folder, path, genesis) as peer:
            took_s = asyncio.run(catch_up(folder, peer, genesis, wanted))
    return {
        "catch_up_per_s": count / took_s,
        "catch_up_s": took_s,
        "entries": count,
        "logs": len(wanted),
        "accept_per_s": count / floor_s,
        "catch_up_over_accept": took_s / floor_s,
        "idle_bytes_per_s": idle,
        "idle_replicas": REPLICAS,
    }


def run(options: Options) -> Result:
    """As a benchmark of its own."""
    return Result(name="ledger_catch_up", metrics=measure(options.quick), targets=TARGETS)


def draw(result: Result, path: Path) -> None:
    """Entries per second, with the network and without."""
    with harness.new_figure(path, title="catching up") as axes:
        names = ["catch_up_per_s", "accept_per_s"]
        axes.bar(names, [result.metrics[name] for name in names])


if __name__ == "__main__":
    sys.exit(harness.main("ledger_catch_up", (__doc__ or "").split("\n")[0], run, draw))
