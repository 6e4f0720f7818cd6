"""What every leader of a run does: signs the log, answers the members, ends the run when its submitter wishes.

What it decides, its round machine does; which that is, and how its effects are carried out, differs with the run.

IO: the run's log, messages over the network.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import structlog

from peer.errors import ForgeError, Refused
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.messages import AheadQuery, Cancellation, Goodbye
from peer.network.network import Network
from peer.rounds.messages import Cancel, Left, Log, Logged
from peer.runs import wish
from peer.runs.disk import Disk
from peer.runs.joined import Joined
from peer.runs.offer import Offer
from peer.runs.push import Push
from peer.runs.roletasks import RoleTasks
from peer.runs.run import Run
from peer.runs.stopwatch import Stopwatch
from peer.runs.verdicts import Verdicts
from peer.runs.wish import CANCELLED_BY_SUBMITTER

log = structlog.get_logger(__name__)

TICK_S = 0.1
RETRY_S = 1.0

Body = dict[str, Any]
T = TypeVar("T")


class Leading(ABC):
    """Leads one run until it is closed; `serve` is its life."""

    def __init__(self, *, run: Run, logs: Logs, replication: Replication, network: Network, account: str) -> None:
        """Take over the run where its log stands.

        Args:
            run: the run, whose log we may write.
            logs: the ledger replica.
            replication: sends members what is new in it.
            network: libp2p.
            account: ours.
        """
        self.run = run
        self._logs = logs
        self._network = network
        self._push = Push(origin=run.origin, network=network, replication=replication)
        self._account = account
        self._joined = Joined(run.id)
        self._tasks: RoleTasks | None = None
        self.offer = Offer(run=run, logs=logs, account=account, push=self._push, peers=self.peers)
        self._closed = asyncio.Event()
        self._disk = Disk(run, account)
        self._watch = Stopwatch()
        self._verdicts = Verdicts(run)

    # ------------------------------------------------------------------ the machine

    @abstractmethod
    def _begin(self, balance: int, now: float) -> None:
        """Make the machine, now that all we signed is certified."""

    @abstractmethod
    def _tick(self, now: float) -> None:
        """Let time pass."""

    @abstractmethod
    def _told(self, message: Cancel | Left | Logged) -> None:
        """Give the machine what every one of them knows. Raises Refused while there is none."""

    @abstractmethod
    def _alive(self) -> frozenset[str]:
        """Accounts of the members whose heartbeats arrive."""

    @property
    @abstractmethod
    def _over(self) -> bool:
        """Whether the run is closed."""

    # ------------------------------------------------------------------ life

    async def serve(self) -> None:
        """Lead until the run is closed. Raises TermOver once another one does."""
        await self.offer.begin()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = RoleTasks(tasks)
            self._begin(await self.offer.balance(), time.monotonic())
            working = [tasks.create_task(work) for work in (self._ticks(), self.offer.serve(self._tasks))]
            if reason := wish.kept(self.run):
                self._told(Cancel(reason=reason))
            if not self._over:
                await self._closed.wait()
            for work in working:
                work.cancel()

    def cancel(self, reason: str) -> None:
        """End the run: what was delivered is settled, the rest of its credits goes back. A restart does not undo it."""
        wish.keep(self.run, reason)
        self._told(Cancel(reason=reason))

    def peers(self) -> list[str]:
        """PeerIDs of the members whose heartbeats arrive."""
        return self._joined.peers(self._alive())

    def account_of(self, peer: str) -> str:
        """Account of a peer that joined, or ""."""
        return self._joined.account(peer)

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.offer.check()
            self._tick(time.monotonic())

    def _starting(self) -> Refused:
        return Refused("FP-421", f"run {self.run.id[:16]}: the leader is still starting, try again")

    def _start(self, works: Iterable[Any]) -> None:
        """Carry these out beside the rest; and note whether the run is closed."""
        for work in works:
            if self._tasks is None:
                work.close()
            else:
                self._tasks.start(work)
        if self._over:
            self._closed.set()

    # ------------------------------------------------------------------ members' calls

    async def on_join(self, caller: str, body: Body) -> Body:
        """`run.join`: bind the caller's PeerID to its account by its advert."""
        self._joined.join(caller, body, self._alive())
        return {}

    async def on_tail(self, caller: str, body: Body) -> Body:
        """`run.tail`: hand out what is signed and not certified yet."""
        AheadQuery.read(body)
        self._joined.account_of(caller)
        return self.offer.ahead().body()

    async def on_cancel(self, caller: str, body: Body) -> Body:
        """`run.cancel`: the run's submitter wants it to end."""
        Cancellation.read(body)
        account = self._joined.account_of(caller)
        if account != self.run.spec["submitter"]:
            raise Refused("FP-433", f"run {self.run.id[:16]}: {account[:16]} did not submit it")
        self.cancel(CANCELLED_BY_SUBMITTER)
        return {}

    async def on_leave(self, caller: str, body: Body) -> Body:
        """`run.leave`: the member goes; nobody waits for it."""
        goodbye, account = Goodbye.read(body), self._joined.account_of(caller)
        if self.run.log.open is None or self.run.log.open.seat(account) is None:
            await self._verdicts.left(account, goodbye.reason)
        self._told(Left(account=account, reason=goodbye.reason))
        return {}

    # ------------------------------------------------------------------ effects

    async def _until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Our own worker may die; what the run needs of it is done again until it works."""
        while True:
            try:
                return await work()
            except (ForgeError, OSError) as exc:
                log.error("leader_effect_broke", run=self.run.id[:16], reason=str(exc))
                await self._disk.failed(exc)
                await asyncio.sleep(RETRY_S)

    async def _log(self, effect: Log) -> None:
        assert self._tasks is not None
        self._watch.mark("appending")
        await self.offer.append(effect.entries, self._tasks)
        self._watch.mark("signed")
        if parts := self._watch.lap():
            await self.run.journal.add("timing", round=self.run.log.round, **parts)
        self._told(Logged(balance=await self.offer.balance()))
