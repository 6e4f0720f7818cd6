"""Whole daemons in one process: the real `Daemon` on an in-memory network, with fake or real workers.

Frames, limits, errors and signed records are the real ones; only p2pd and the DHT are not there.

IO: home folders under a test's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ledger.fold import conservation
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store import Store
from peer.config import Settings
from peer.daemon import Daemon
from peer.errors import Unreachable
from peer.identity import Home, NetworkFile, PeerIdentity
from peer.network.limits import Allowance, Limits
from peer.network.rpc import Body, BytesHandler, Dispatcher, Event, Handler, deadline, write_request
from peer.peerkey import Binding, PeerKey
from peer.records import PeerAdvert, Record
from peer.runs.run import Run
from peer.supervisor import Keeper
from peer.wire import Reply, unpack_reply
from tests.peer.fake_worker import Engine, fake_workers, spec_fields

DEADLINE_S = 20.0
SUPPLY = 10**12
FAST = {
    "peer.directory.LOOK_S": 0.05,
    "peer.runs.host.LOOK_S": 0.05,
    "peer.runs.host.SYNC_S": 0.1,
    "peer.runs.heart.BEAT_S": 0.1,
    "peer.runs.leader.TICK_S": 0.02,
    "peer.runs.leader.RETRY_S": 0.05,
    "peer.runs.member.TICK_S": 0.02,
    "peer.rounds.delivery.REMIND_S": 0.3,
    "peer.rounds.pause.RETRY_S": 0.05,
    "peer.logs.RETRY_S": 0.05,
    "peer.supervisor.FIRST_PAUSE_S": 0.05,
}
"""The daemon's pauses, shortened; none of them decides what happens."""

R = TypeVar("R", bound=Record)


async def until(what: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
    """Waits until something is true; returns it."""
    async with asyncio.timeout(timeout_s):
        while not (found := what()):  # noqa: ASYNC110  # what is awaited has no event of its own
            await asyncio.sleep(0.01)
        return found


def new_identity(folder: Path, key: PrivateKey | None = None) -> PeerIdentity:
    """An identity without a home."""
    account, peer = key or PrivateKey.generate(), PeerKey.generate()
    binding = Binding.create(account, peer)
    return PeerIdentity(binding=binding, account_key=account, peer_key=peer, peer_key_file=folder / "peer.key")


@dataclass
class Air:
    """What connects the networks of one test."""

    peers: dict[str, MemoryNetwork] = field(default_factory=dict)
    records: dict[tuple[str, str], bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    """PeerIDs that nobody reaches and that reach nobody."""
    faults: dict[str, Callable[[str, str, Body], None]] = field(default_factory=dict)
    """By method: called with (from, to, body) before a call is made; may raise or change the body."""
    changes: dict[tuple[str, str], Callable[[Reply], Reply]] = field(default_factory=dict)
    """By (PeerID, method): what becomes of that peer's answers."""


class MemoryNetwork:
    """A `Network` over `Air`."""

    def __init__(self, air: Air, identity: PeerIdentity, genesis: Genesis) -> None:
        self.identity, self.genesis, self._air = identity, genesis, air
        self.events: list[Event] = []
        self.emit = self.events.append
        self.allowance = Allowance(Limits())
        self.dispatcher = Dispatcher(self.allowance, self.emit)
        air.peers[self.peer_id] = self

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    async def addresses(self) -> list[str]:
        return [f"/memory/p2p/{self.peer_id}"]

    def serve(self, method: str, handler: Handler, *, reply_bytes: int = 1 << 16) -> None:
        async def handle(caller: str, body: Body, payload: bytes) -> Reply:
            return Reply(await handler(caller, body))

        self.dispatcher.add(method, handle, reply_bytes)

    def serve_bytes(self, method: str, handler: BytesHandler, *, reply_bytes: int = 1 << 20) -> None:
        self.dispatcher.add(method, handler, reply_bytes)

    async def call(self, peer_id: str, method: str, body: Body, *, timeout_s: float = 10.0) -> Body:
        return (await self.exchange(peer_id, method, body, timeout_s=timeout_s)).body

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = b"", timeout_s: float = 10.0
    ) -> Reply:
        await asyncio.sleep(0)
        if fault := self._air.faults.get(method):
            body = dict(body)
            fault(self.peer_id, peer_id, body)
        if peer_id not in self._air.peers or {peer_id, self.peer_id} & self._air.cut:
            raise Unreachable(f"peer {peer_id}: nobody answers")
        frame = write_request(method, body, payload, timeout_s)
        async with deadline(method, timeout_s):
            reply = unpack_reply(await self._air.peers[peer_id].dispatcher.answer(frame, self.peer_id))
        change = self._air.changes.get((peer_id, method))
        return change(reply) if change else reply

    async def publish(self, record: Record) -> bool:
        if self.peer_id in self._air.cut:
            raise Unreachable("DHT: nobody answers")
        self._air.records[record.key, record.subkey] = record.encode()
        return True

    async def lookup(self, kind: type[R]) -> list[R]:
        keys = kind.keys(self.genesis.id)
        found = [data for (key, _), data in self._air.records.items() if key in keys]
        return [kind.verify(data, network=self.genesis.id, now=time.time()) for data in found]


class Peer:
    """One daemon: start it, end it as people do, or kill it."""

    def __init__(self, world: World, name: str, home: Home, settings: Mapping[str, object]) -> None:
        self.name, self.home, self._world, self._settings = name, home, world, settings
        self.engine = world.engines.setdefault(name, Engine())
        self.identity = home.identity()
        self.account = self.identity.account
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def start(self) -> Peer:
        """As `forge-peer start`; also after `stop` or `kill`."""
        self._stop = asyncio.Event()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=self.name)
        await asyncio.wait([self._task, ready], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        return self

    async def _live(self, ready: asyncio.Future[None]) -> None:
        world = self._world
        self.network = MemoryNetwork(world.air, self.identity, world.genesis)
        settings = Settings.load(self.home.path, {"device": "cpu", "threads": 1, **self._settings}, {})
        self.store = Store.open(self.home.ledger_file, world.genesis, create=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                self.keeper = Keeper(tasks)
                self.daemon = Daemon(
                    home=self.home, settings=settings, identity=self.identity, network=self.network,
                    store=self.store, stop=self._stop,
                )  # fmt: skip
                await self.daemon.start(self.keeper)
                ready.set_result(None)
                await self._stop.wait()
                await self.daemon.close()
                self.keeper.cancel()
        finally:
            world.air.peers.pop(self.network.peer_id, None)
            self.store.close()

    async def stop(self) -> None:
        """As Ctrl-C."""
        if self._task is not None:
            self._stop.set()
            task, self._task = self._task, None
            await task

    async def kill(self) -> None:
        """As SIGKILL: nothing is said to anybody, and the workers die too."""
        assert self._task is not None
        self._world.air.peers.pop(self.network.peer_id, None)
        for worker in self.engine.workers:
            await worker.kill()
        task, self._task = self._task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    # ------------------------------------------------------------------ looking at it

    def run(self, run: str) -> Run | None:
        """The run as this daemon knows it."""
        return self.daemon.host.runs.get(run)

    def events(self, run: str, name: str) -> list[dict[str, Any]]:
        """What the run's journal says of one kind of event."""
        known = self.run(run)
        return [event for event in known.journal.events if event["event"] == name] if known else []

    async def event(self, run: str, name: str, **fields: object) -> dict[str, Any]:
        """Waits until the journal has such an event with these fields."""

        def found() -> dict[str, Any] | None:
            events = self.events(run, name)
            return next((event for event in events if fields.items() <= event.items()), None)

        try:
            event: dict[str, Any] = await until(found)
        except TimeoutError:
            known = self.run(run)
            story = "\n".join(map(str, known.journal.events)) if known else "the run is not known"
            raise AssertionError(f"{self.name} never told of {name} {fields}; its journal:\n{story}") from None
        return event

    async def spendable(self) -> int:
        """Our balance in micro-credits."""
        return int((await self.daemon.node.balance("me"))["balance"])

    async def submit(self, **changes: Any) -> str:
        """Submit a run of the fake engine's; returns its id."""
        async for event in self.daemon.node.submit(spec_fields(**changes)):
            if event["event"] == "submitted":
                return str(event["run"])
        raise AssertionError("nothing was submitted")


class World:
    """A network with one witness, which is the first peer's; use as an async context."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, *, fake: bool = True) -> None:
        self.folder, self.air, self._fake = folder, Air(), fake
        self.engines: dict[str, Engine] = {}
        self.peers: dict[str, Peer] = {}
        self._patch = patch
        self.rich = PrivateKey.generate()
        self.witness = PrivateKey.generate()
        self.genesis = Genesis.create(
            name="memory", supply=[(self.rich.public, SUPPLY)], witnesses=[("w", self.witness.public)]
        )

    async def peer(self, name: str, **settings: object) -> Peer:
        """A new peer, running; the first one is the witness and has all the credits."""
        home = Home(self.folder / name)
        home.create()
        NetworkFile(genesis=self.genesis, bootstrap=()).save(home.network_file)
        if not self.peers:
            self.rich.save(home.account_key_file)
            self.witness.save(home.witness_key_file)
        self.peers[name] = Peer(self, name, home, settings)
        return await self.peers[name].start()

    def engine_of(self, folder: Path) -> Engine:
        """The engine of the peer in whose home this folder lies."""
        name = folder.relative_to(self.folder).parts[0]
        return self.engines.setdefault(name, Engine())

    async def __aenter__(self) -> World:
        self._contexts = contextlib.ExitStack()
        local = self._contexts.enter_context(self._patch.context())
        for name, value in FAST.items():
            local.setattr(name, value)
        if self._fake:
            self._contexts.enter_context(fake_workers(local, self.engine_of))
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            for peer in reversed(self.peers.values()):
                await peer.stop()
        finally:
            self._contexts.close()


@contextlib.asynccontextmanager
async def outsider(world: World, key: PrivateKey | None = None) -> AsyncIterator[MemoryNetwork]:
    """Somebody on the network who runs no daemon of ours."""
    network = MemoryNetwork(world.air, new_identity(world.folder, key), world.genesis)
    try:
        yield network
    finally:
        world.air.peers.pop(network.peer_id, None)


def advert_of(network: MemoryNetwork) -> str:
    """A signed advert of whoever owns this network."""
    identity = network.identity
    return PeerAdvert.of(
        identity.account_key, identity.binding, network=network.genesis.id, now=time.time(), addresses=[]
    ).text()


async def ready_for_the_next_round(leader: Peer, run: str, member: Peer) -> None:
    """Waits until the leader knows that the member holds the state of the open round."""
    machine = leader.daemon.host.leaders[run]._machine
    assert machine is not None
    await until(lambda: machine.roll.working(member.account, {machine.log.state}))


async def finish(run: str, *peers: Peer) -> None:
    """All are through with the run, hold its final state bit for bit, and no credit is lost."""
    for peer in peers:
        await peer.event(run, "claimed")
    log = peers[0].run(run).log
    assert log.close is not None
    for peer in peers:
        assert peer.run(run).log.settled == log.settled
        assert peer.daemon.host.workers[run].newest_state() == (log.round, log.state)
        assert peer.daemon.blobs.path(log.state).read_bytes()
    conservation(await peers[0].daemon.logs.ledger())
