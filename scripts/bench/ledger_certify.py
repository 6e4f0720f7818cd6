"""Append → certified with four witness daemons on loopback: one entry at a time, and many at once.

Four `forge-peer start` daemons with witness keys (f = 1, so three must cosign) and a writer in this process: the
daemon's own `peer.ledger.logs.Logs` over its own p2pd. `certify_p50_ms` is the time of one `append` until the
certificate is on disk here, one after the other. `certified_per_s` counts entries of one log with many appends waiting
at once.

The floor, measured in the same run, is what disk and loopback take for this path without any work on it. The writer
commits three times (entries, signature, certificate) and a witness once (entries and promise), while the others do so
as well, and there is one round trip. So: three fsyncs of a 4 KiB write, the third of four fsyncs at once, and the third
of four answers to an empty call of the request's size.

IO: daemons, files.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import harness
from harness import Options, Result, say

from ledger.entries import Send
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store.store import Store
from peer.config import Settings
from peer.demo.peers import DemoPeer, yard
from peer.errors import ForgeError
from peer.identity import Home, NetworkFile
from peer.ledger.logs import Logs
from peer.network.network import Network
from peer.resources import cpu_name

WITNESSES, QUORUM = 4, 3
WRITER_COMMITS = 3
BLOCKS, QUICK_BLOCKS = 30, 2
BLOCK_APPENDS = 10
"""Appends of one block; each block of them is followed by as many probes of the floor."""
BATCHED, QUICK_BATCHED = 20_000, 400
AT_ONCE = 512
"""Appends that wait at the same time."""
REQUEST = "x" * 900
"""About the size of a request for a cosignature of one entry."""
BLOCK = bytes(4096)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The network of the benchmark, with running witnesses."""

    genesis: Genesis
    """Four witnesses; the writer has the supply."""
    home: Home
    """The writer's."""
    peers: dict[str, str]
    """Witness name → PeerID."""
    addresses: list[str]
    """Where the witnesses listen."""


@contextmanager
def witnesses(folder: Path) -> Iterator[Place]:
    """Four witness daemons; none is left when the block ends."""
    keys = {f"w{number}": PrivateKey.generate() for number in range(1, WITNESSES + 1)}
    writer = Home(folder / "writer")
    writer.create()
    genesis = Genesis.create(
        name="bench",
        supply=[(writer.identity().account, 10**12)],
        witnesses=[(name, key.public) for name, key in keys.items()],
    )
    NetworkFile(genesis=genesis, bootstrap=()).save(writer.network_file)
    daemons = {name: DemoPeer(number=number, home=folder / name) for number, name in enumerate(keys, 1)}
    peers = {}
    for name, daemon in daemons.items():
        home = Home(daemon.home)
        home.create()
        keys[name].save(home.witness_key_file)
        NetworkFile(genesis=genesis, bootstrap=()).save(home.network_file)
        (home.path / "speed.json").write_text(json.dumps({f"cpu 1 {cpu_name()}": 0.0}))  # nothing to measure here
        peers[name] = home.identity().peer_id
    with yard([*daemons.values()]):
        for name, daemon in daemons.items():
            daemon.start("--device", "cpu", "--threads", 1, "--name", name)
        for daemon in daemons.values():
            daemon.wait_ready()
        addresses = [daemon.address for daemon in daemons.values()]
        yield Place(genesis=genesis, home=writer, peers=peers, addresses=addresses)


@asynccontextmanager
async def writing(place: Place) -> AsyncIterator[tuple[Logs, Network]]:
    """The writer: a ledger replica as the daemon has it, connected to the witnesses."""
    identity = place.home.identity()
    settings = Settings.load(place.home.path, {}, {})
    with place.home.lock():
        async with Network.start(
            home=place.home, identity=identity, genesis=place.genesis, settings=settings, bootstrap=place.addresses
        ) as network:
            for address in place.addresses:
                await network.connect(address)
            with Store.open(place.home.ledger_file, place.genesis, create=True) as store:
                logs = _logs(place, store, network)
                try:
                    yield logs, network
                finally:
                    await logs.close()


def _logs(place: Place, store: Store, network: Network) -> Logs:
    return Logs(
        store=store, genesis=place.genesis, account=network.identity.account_key, witness=None, network=network,
        witness_peers=lambda: dict(place.peers),
    )  # fmt: skip


def entry(number: int) -> Send:
    """A small entry."""
    return Send(to="ab" * 32, amount=1, memo=f"{number}")


async def one_by_one(logs: Logs, count: int) -> list[float]:
    """Seconds from `append` to certified, of one entry after the other."""
    taken = []
    for number in range(count):
        started = time.perf_counter()
        await logs.append(logs.origin, [entry(number)])
        taken.append(time.perf_counter() - started)
    return taken


async def many_at_once(logs: Logs, count: int) -> float:
    """Entries per second with many appends waiting at the same time."""
    numbers = iter(range(count))

    async def write() -> None:
        for number in numbers:
            await logs.append(logs.origin, [entry(number)])

    before, started = await logs.size(logs.origin), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, count)):
            tasks.create_task(write())
    elapsed = time.perf_counter() - started
    certified = await logs.size(logs.origin) - before
    if certified != count:
        raise ForgeError("FP-590", f"{certified} entries are certified, wanted {count}")
    return count / elapsed


async def round_trips(network: Network, peers: Sequence[str], count: int) -> list[float]:
    """Seconds until a quorum of the peers has answered a call that does nothing, one after the other."""

    async def ask(peer: str) -> None:
        try:
            await network.call(peer, "bench.nothing", {"note": REQUEST})
        except ForgeError as exc:
            if "not served" not in exc.message:
                raise

    return [await _until_quorum([lambda peer=peer: ask(peer) for peer in peers]) for _ in range(count)]  # type: ignore[misc]


async def _until_quorum(calls: Sequence[Callable[[], Awaitable[None]]]) -> float:
    started = time.perf_counter()
    tasks = [asyncio.ensure_future(call()) for call in calls]
    for number, done in enumerate(asyncio.as_completed(tasks), 1):
        await done
        if number == QUORUM:
            elapsed = time.perf_counter() - started
    return elapsed


def fsyncs(folder: Path, files: int, count: int) -> list[float]:
    """Seconds until a quorum of so many files (or the only one) has a 4 KiB write on disk, written at the same time."""
    handles = [os.open(folder / f"probe-{number}", os.O_CREAT | os.O_WRONLY, 0o600) for number in range(files)]
    wanted = min(files, QUORUM)
    taken = []
    try:
        for _ in range(count):
            ends: list[float] = []
            started = time.perf_counter()
            threads = [threading.Thread(target=_write, args=(handle, ends)) for handle in handles]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            taken.append(sorted(ends)[wanted - 1] - started)
    finally:
        for handle in handles:
            os.close(handle)
    return taken


def _write(handle: int, ends: list[float]) -> None:
    os.write(handle, BLOCK)
    os.fdatasync(handle)  # as SQLite does
    ends.append(time.perf_counter())


async def _run(place: Place, quick: bool, folder: Path) -> dict[str, Any]:
    blocks = QUICK_BLOCKS if quick else BLOCKS
    peers = list(place.peers.values())
    taken: list[float] = []
    probes: dict[str, list[float]] = {"round_trip": [], "fsync": [], "fsync_quorum": []}
    async with writing(place) as (logs, network):
        for block in range(blocks + 1):  # in turns, so that what else the machine does falls on both
            appended = await one_by_one(logs, BLOCK_APPENDS)
            trips = await round_trips(network, peers, BLOCK_APPENDS)
            alone = await asyncio.to_thread(fsyncs, folder, 1, BLOCK_APPENDS)
            together = await asyncio.to_thread(fsyncs, folder, WITNESSES, BLOCK_APPENDS)
            if block:  # the first one warms up
                taken += appended
                for name, found in (("round_trip", trips), ("fsync", alone), ("fsync_quorum", together)):
                    probes[name] += found
        say(f"one by one: {1000 * median(taken):.1f} ms")
        rate = await many_at_once(logs, QUICK_BATCHED if quick else BATCHED)
        say(f"many at once: {rate:.0f}/s")
    return summary(taken, rate, probes)


def summary(taken: Sequence[float], rate: float, probes: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The metrics, from seconds."""
    parts = {name: median(found) for name, found in probes.items()}
    floor = WRITER_COMMITS * parts["fsync"] + parts["fsync_quorum"] + parts["round_trip"]
    return {
        "certify_p50_ms": _ms(median(taken)),
        "certify_p95_ms": _ms(quantiles(taken, n=20)[-1]),
        "certified_per_s": round(rate, 1),
        "certify_floor_ms": _ms(floor),
        "certify_over_floor": round(median(taken) / floor, 2),
        **{f"{name}_ms": _ms(value) for name, value in parts.items()},
        "certify_ms": [_ms(one) for one in taken],
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """All metrics; `folder` is empty and on the disk that is meant."""
    with witnesses(folder) as place:
        say(f"{WITNESSES} witnesses run")
        return asyncio.run(_run(place, quick, folder))


def draw_on(axes: Any, metrics: Mapping[str, Any]) -> None:
    """How long single appends took, beside the floor."""
    taken = sorted(metrics["certify_ms"])
    share = [(place + 1) / len(taken) for place in range(len(taken))]
    axes.step(taken, share, where="post", label="one entry at a time")
    axes.axvline(metrics["certify_floor_ms"], color="tab:grey", linestyle=":", label="disk and loopback alone")
    axes.axvline(TARGETS["certify_p50_ms"][1], color="tab:red", linestyle="--", label="target of the median")
    axes.set(xlabel="ms until certified", ylabel="share of appends", xlim=(0, None), ylim=(0, 1.02))
    axes.set_title(f"append, 3 of 4 witnesses; {metrics['certified_per_s']:,.0f}/s at once", fontsize="medium")
    axes.legend(loc="lower right", fontsize="small")


def draw(result: Result, path: Path) -> None:
    """The plot of this part alone."""
    with harness.new_figure(path, title="") as axes:
        draw_on(axes, result.metrics)


TARGETS = {"certify_p50_ms": ("<=", 30.0), "certified_per_s": (">=", 1000.0)}


def run(options: Options) -> Result:
    """This part alone."""
    return Result(name="ledger_certify", metrics=measure(options.quick, options.folder), targets=TARGETS)


if __name__ == "__main__":
    raise SystemExit(harness.main("ledger_certify", (__doc__ or "").split("\n")[0], run, draw))
