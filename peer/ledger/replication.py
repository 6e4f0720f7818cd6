"""Certified logs from peer to peer: the replica machine at work over libp2p.

`serve` runs the machine. `pull_log` fetches one log now, for whoever cannot wait; `bundles` gives what leaders push.

IO: calls over the network, the ledger store through `Logs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from random import Random
from typing import Any

import structlog

from ledger.errors import Behind, StoreBusy, StoreUnreadable
from ledger.replica import store as replica_store
from ledger.replica.machine import Replica
from ledger.replica.values import (
    BUNDLE,
    Ask,
    Blame,
    Effect,
    Entries,
    EntriesOf,
    Fact,
    Heads,
    HeadsSince,
    Look,
    Request,
    Settings,
    Take,
    TakeEvidence,
)
from ledger.store.store import Store
from peer.errors import MessageInvalid, NetworkError, Oversize, Refused
from peer.ledger.answers import NOT_HERE, Answers
from peer.ledger.cosigning import WitnessPeers
from peer.ledger.logs import Logs
from peer.ledger.messages import METHODS, answer_of, body_of
from peer.messages import Bundle
from peer.network.network import Network

log = structlog.get_logger(__name__)

CALL_S = 10.0
HEAR_S = 1.0
"""How often we look who is there."""
PULL_ENTRIES = 16 * BUNDLE
SETTINGS = Settings()

Event = Callable[[float], list[Effect]]
Names = Callable[[], Iterable[str]]


class Replication:
    """Moves certified entries between replicas."""

    def __init__(self, logs: Logs, network: Network) -> None:
        """Serve `ledger.heads`, `ledger.entries`, `ledger.evidence` and `ledger.proof` on the network."""
        self.machine = Replica(Random(), SETTINGS)
        """What is asked of whom."""
        self._logs = logs
        self._network = network
        self._follows: Callable[[], Collection[str]] = frozenset
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        Answers(logs, network)

    # ------------------------------------------------------------------ anti-entropy

    async def serve(self, peers: Names, witnesses: WitnessPeers, follows: Callable[[], Collection[str]]) -> None:
        """Keep our replica up to date, until cancelled.

        Args:
            peers: who may be asked, just now.
            witnesses: those of them that know the newest heads, by name.
            follows: logs that we want though nobody refers to them yet.
        """
        self.machine, self._events, self._follows = Replica(Random(), SETTINGS), asyncio.Queue(), follows
        known, heard = set[str](), float("-inf")
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = time.monotonic()
                if now - heard >= HEAR_S:
                    heard, best = now, set(witnesses().values())
                    there = choose(known, best, set(peers()) - {self._network.peer_id}, SETTINGS.peers)
                    for peer in known - there:
                        self._carry_out(tasks, self.machine.peer_left(peer, now))
                    for peer in there - known:
                        self._carry_out(tasks, self.machine.peer_joined(peer, now, peer in best))
                    known = there
                self._carry_out(tasks, (await self._event(heard + HEAR_S))(time.monotonic()))

    async def _event(self, until: float) -> Event:
        """What happens next; time passing, at the machine's deadline or at `until`."""
        wait_s = min(self.machine.deadline, until) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                return await self._events.get()
        except TimeoutError:
            return self.machine.tick

    def _carry_out(self, tasks: asyncio.TaskGroup, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    tasks.create_task(self._ask(effect))
                case Look():
                    tasks.create_task(self._look(effect))
                case Take() | TakeEvidence():
                    tasks.create_task(self._take(effect))
                case Blame():
                    log.warning("peer_blamed", peer=effect.peer, reason=effect.reason, pause_s=round(effect.pause_s))

    def _tell(self, event: Event) -> None:
        self._events.put_nowait(event)  # bounded by what the machine has under way

    async def _ask(self, ask: Ask) -> None:
        peer, request, machine = ask.peer, ask.request, self.machine
        try:
            answer = await self._call(peer, request)
        except NetworkError as exc:
            reason, code = str(exc), getattr(exc, "code", "")
            lie = isinstance(exc, MessageInvalid | Oversize) or code in (NOT_HERE, Behind.code)
            self._tell(lambda now: machine.failed(peer, request, reason, now, lie=lie))
        else:
            self._tell(lambda now: machine.receive(peer, request, answer, now))

    async def _look(self, look: Look) -> None:
        machine, follows = self.machine, self._wanted()
        facts = await self._logs.on_store(lambda store: replica_store.facts(store, look.origins, follows))
        self._tell(lambda now: machine.looked(look, facts, now))

    async def _take(self, take: Take | TakeEvidence) -> None:
        machine, follows = self.machine, self._wanted()

        def work(store: Store) -> tuple[str, bool, Fact]:
            reason, blame = replica_store.take(store, take)
            return reason, blame, replica_store.fact(store, take.origin, follows)

        try:
            reason, blame, fact = await self._logs.on_store(work)
        except (StoreUnreadable, StoreBusy) as exc:
            log.warning("cannot_store", origin=take.origin[-20:], reason=str(exc))
            self._tell(lambda now: machine.unable(take, now))
            return
        if reason:
            self._tell(lambda now: machine.refused(take, reason, fact, now, blame=blame))
            return
        self._tell(lambda now: machine.stored(take, fact, now))
        await self._logs.tell()

    def _wanted(self) -> frozenset[str]:
        return frozenset([*self._follows(), self._logs.origin])

    async def _call(self, peer: str, request: Request) -> Any:
        reply = await self._network.exchange(peer, METHODS[type(request)], body_of(request), timeout_s=CALL_S)
        return await asyncio.to_thread(answer_of, request, reply) if reply.payload else answer_of(request, reply)

    # ------------------------------------------------------------------ at once

    async def bundles(self, origin: str, start: int) -> AsyncIterator[Bundle]:
        """The certified entries of a log from `start` on, message by message, for a peer that lacks them."""
        certificate = await self._logs.certificate(origin)
        if certificate is None:
            return
        while start < certificate.size:
            entries = await self._logs.bundle(origin, start, certificate.size)
            yield Bundle(
                origin=origin,
                start=start,
                entries=entries,
                certificate=certificate.note.decode(),
                size=certificate.size,
            )
            start += len(entries)

    async def pull(self, peer: str) -> int:
        """Fetch from a peer whatever it has certified beyond ours, worth having or not; returns how many entries.

        Raises:
            NetworkError, LedgerError: the peer does not answer, or what it sent does not hold.
        """
        instance, cursor, stored = "", 0, 0
        while True:
            page: Heads = await self._call(peer, HeadsSince(instance=instance, cursor=cursor))
            for origin, size in page.heads:
                if size > await self._logs.size(origin):
                    stored += await self.pull_log(peer, origin)
            if not page.heads or (instance, cursor) == (page.instance, page.cursor):
                return stored
            instance, cursor = page.instance, page.cursor

    async def pull_log(self, peer: str, origin: str) -> int:
        """Fetch from a peer what it has certified of one log beyond ours; returns the number of entries certified anew.

        Raises:
            NetworkError, LedgerError: the peer does not answer, or what it sent does not hold.
        """
        at = first = await self._logs.size(origin)
        while True:
            request = EntriesOf(origin=origin, start=at, end=at + PULL_ENTRIES)
            try:
                answer: Entries = await self._call(peer, request)
            except Refused as exc:
                if exc.code == Behind.code:
                    return 0  # it has less than we
                raise
            if answer.size <= first:
                return 0
            end = at + len(answer.entries)
            if not at < end <= min(answer.size, request.end) or bool(answer.proof) != (end < answer.size):
                raise MessageInvalid(f"peer {peer}: sent entries up to {end} of {answer.size}, asked from {at}")
            await self._store(origin, at, answer)
            at = end
            if at == answer.size:
                return await self._logs.size(origin) - first

    async def _store(self, origin: str, start: int, answer: Entries) -> None:
        proof = answer.proof or None
        await self._logs.on_store(
            lambda store: store.accept(origin, start, answer.entries, answer.certificate, proof)
        )
        await self._logs.tell()


def choose(known: set[str], best: set[str], peers: set[str], most: int) -> set[str]:
    """Whom to ask: all of the best that are there, those known already, and any of the others; so many at most."""
    others = sorted(peers - best - known)
    ranked = [*sorted(best & peers), *sorted((known & peers) - best), *Random().sample(others, len(others))]
    return set(ranked[:most])
