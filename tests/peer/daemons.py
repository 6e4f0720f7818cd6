"""Whole daemons in one process: the real `Daemon` on an in-memory network, with fake or real workers.

IO: home folders under a test's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ledger.fold.fold import conservation
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.replica.values import Settings as ReplicaSettings
from ledger.store.store import Store
from peer.config import Settings
from peer.daemon import Daemon
from peer.identity import Home, NetworkFile
from peer.runs.run import Run
from peer.supervisor import Keeper
from tests.peer.fake_worker import Engine, fake_workers, spec_fields
from tests.peer.memory_net import Air, MemoryNetwork, until

SUPPLY = 10**12
FAST = {
    "peer.directory.LOOK_S": 0.05,
    "peer.runs.host.LOOK_S": 0.05,
    "peer.ledger.replication.SETTINGS": ReplicaSettings(quick_s=0.05, slow_s=0.1, retry_s=0.05),
    "peer.ledger.replication.HEAR_S": 0.05,
    "peer.runs.heart.BEAT_S": 0.1,
    "peer.runs.leading.TICK_S": 0.02,
    "peer.runs.leader.FIND_S": 1.0,
    "peer.runs.candidate.LOOK_S": 0.05,
    "peer.runs.candidate.RANK_S": 0.1,
    "peer.runs.candidate.KEEP_S": 0.2,
    "peer.runs.candidate.UNSURE_S": 2.0,
    "peer.ledger.terms.LEASE_S": 2.5,
    "peer.ledger.bidding.GRACE_S": 0.05,
    "peer.ledger.bidding.ASK_S": 0.3,
    "peer.runs.leading.RETRY_S": 0.05,
    "peer.runs.disk.RETRY_S": 0.05,
    "peer.runs.offenders.LOOK_S": 0.05,
    "peer.runs.member.TICK_S": 0.02,
    "peer.runs.staged.member.TICK_S": 0.02,
    "peer.runs.staged.member.BEAT_S": 0.1,
    "peer.rounds.delivery.REMIND_S": 0.3,
    "peer.rounds.pause.RETRY_S": 0.05,
    "peer.ledger.cosigning.RETRY_S": 0.05,
    "peer.ledger.ownheads.RETRY_S": 0.05,
    "peer.supervisor.FIRST_PAUSE_S": 0.05,
}
"""The daemon's pauses, shortened; none of them decides what happens."""


class Peer:
    """One daemon: start it, end it as people do, or kill it."""

    def __init__(self, world: World, name: str, home: Home, settings: Mapping[str, object]) -> None:
        self.name, self.home, self._world, self._settings = name, home, world, settings
        self.engine = world.engines.setdefault(name, Engine())
        self.identity = home.identity()
        self.account = self.identity.account
        self.clock_ahead_s = 0.0
        """How far this machine's clock is ahead of the others'; set it before a start."""
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
        first = next(iter(world.air.peers.values()), None)
        ahead_s = self.clock_ahead_s
        self.network = MemoryNetwork(world.air, self.identity, world.genesis, lambda: time.time() + ahead_s)
        if first is not None:
            self.network.dial(first)
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
                await self.daemon.host.say_goodbye()
                self.keeper.cancel()
        finally:
            world.air.peers.pop(self.network.peer_id, None)
            await self.daemon.logs.close()
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

    async def submit(self, leaders: Sequence[Peer] | None = None, **changes: Any) -> str:
        """Submit a run of the fake engine's, which these may lead too; returns its id."""
        others = None if leaders is None else [peer.account for peer in leaders]
        async for event in self.daemon.node.submit(spec_fields(**changes), others):
            if event["event"] == "submitted":
                return str(event["run"])
        raise AssertionError("nothing was submitted")


class World:
    """A network whose witnesses are the first peers; use as an async context."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, *, fake: bool = True, witnesses: int = 1) -> None:
        self.folder, self.air, self._fake = folder, Air(), fake
        self.engines: dict[str, Engine] = {}
        self.peers: dict[str, Peer] = {}
        self._patch = patch
        self.rich = PrivateKey.generate()
        self.witnesses = [PrivateKey.generate() for _ in range(witnesses)]
        self.genesis = Genesis.create(
            name="memory", supply=[(self.rich.public, SUPPLY)],
            witnesses=[(f"w{number}", key.public) for number, key in enumerate(self.witnesses)],
        )  # fmt: skip

    async def peer(self, name: str, *, clock_ahead_s: float = 0.0, **settings: object) -> Peer:
        """A new peer, running; the first ones are the witnesses, the very first has all the credits."""
        home = Home(self.folder / name)
        home.create()
        NetworkFile(genesis=self.genesis, bootstrap=()).save(home.network_file)
        if not self.peers:
            self.rich.save(home.account_key_file)
        if len(self.peers) < len(self.witnesses):
            self.witnesses[len(self.peers)].save(home.witness_key_file)
        self.peers[name] = Peer(self, name, home, settings)
        self.peers[name].clock_ahead_s = clock_ahead_s
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


async def ready_for_the_next_round(leader: Peer, run: str, member: Peer) -> None:
    """Waits until the leader knows that the member holds the state of the open round."""
    machine = leader.daemon.host.leaders[run]._machine
    assert machine is not None
    await until(lambda: machine.roll.working(member.account, {machine.log.state}))


async def begin_with(leader: Peer, run: str, gate: asyncio.Event, *members: Peer) -> None:
    """Lets go of the round 1 that the leader's training holds open once all of these can be in the next."""
    await leader.event(run, "opened", round=1)
    for member in members:
        await ready_for_the_next_round(leader, run, member)
    gate.set()


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
