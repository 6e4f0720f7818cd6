"""Witnesses compare what they promised, so that an owner who shows each of them another log is found out.

A log whose promised head stays ahead of its certificate does not get on: its owner is away, or has shown other
witnesses something else. So each of the others is asked for its newest promised head, and for the entries under it
where that is another than ours. The store takes it as if the owner had shown it here: it is promised too, or becomes
evidence, which replication then carries to everybody. A log that stays as it is is looked at less and less often.

IO: calls over the network, the store through `Storage`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ledger import notes
from ledger.errors import LedgerError
from ledger.store.store import Store
from peer.errors import MessageInvalid, NetworkError
from peer.ledger.cosigning import WitnessPeers
from peer.ledger.storage import Storage
from peer.messages import HeadAnswer, HeadQuery, TailAnswer, TailQuery
from peer.network.network import Network

log = structlog.get_logger(__name__)

LOOK_S = 15.0
"""How often the logs are looked at."""
FIRST_S = 10.0
"""How long a promise may lack its certificate before others are asked; doubled each time that they were."""
LAST_S = 3600.0
ASK_S = 10.0
"""Deadline of one message."""
MOST_ENTRIES = 16_384
"""What is fetched at most; who is further ahead than that has to be replicated."""


@dataclass(kw_only=True)
class Stalled:
    """A log that does not get on."""

    promised: bytes
    """The head that waits for its certificate."""
    due: float
    """When others are asked next."""
    pause_s: float = FIRST_S


class Comparing:
    """Compares one witness's promises with those of the others. Written only by its own task."""

    def __init__(
        self,
        *,
        name: str,
        network: Network,
        storage: Storage,
        witness_peers: WitnessPeers,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`name` is our own witness's."""
        self._name = name
        self._network = network
        self._storage = storage
        self._witness_peers = witness_peers
        self._jitter = jitter
        self._stalled: dict[str, Stalled] = {}

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_S * (1 + self._jitter()) / 2)
            await self.look(time.monotonic())

    async def look(self, now: float) -> None:
        """Ask about the logs that have not got on for a while at `now`."""
        found = await self._storage.use(_stalled)
        known = {origin: stalled for origin, stalled in self._stalled.items() if found.get(origin) == stalled.promised}
        new = {origin: Stalled(promised=note, due=now + FIRST_S) for origin, note in found.items()}
        self._stalled = {**new, **known}
        for origin, stalled in self._stalled.items():
            if now >= stalled.due:
                await self._compare(origin, stalled.promised)
                stalled.pause_s = min(2 * stalled.pause_s, LAST_S)
                stalled.due = now + stalled.pause_s * (1 + self._jitter()) / 2

    async def _compare(self, origin: str, ours: bytes) -> None:
        for name, peer in self._witness_peers().items():
            if name == self._name:
                continue
            try:
                await self._ask(peer, origin, ours)
            except (NetworkError, LedgerError) as exc:
                if await self._storage.use(lambda store: bool(store.evidence(origin))):
                    log.warning("log_accused", origin=origin[-20:], witness=name, reason=str(exc))
                    return
                log.debug("promise_not_compared", origin=origin[-20:], witness=name, reason=str(exc))

    async def _ask(self, peer: str, origin: str, ours: bytes) -> None:
        """Take what another witness promised, if that is another head than ours.

        Raises:
            Conflict: it contradicts ours; there is evidence now, if one key signed both.
        """
        body = HeadQuery(origin=origin).body()
        theirs = HeadAnswer.read(await self._network.call(peer, "ledger.head", body, timeout_s=ASK_S)).promised.encode()
        if not theirs or notes.parse(theirs).text == notes.parse(ours).text:
            return
        start, entries = await self._storage.use(lambda store: _certified(store, origin)), list[bytes]()
        size = notes.checkpoint(notes.parse(theirs)).size
        while start + len(entries) < size:
            query = TailQuery(origin=origin, start=start + len(entries)).body()
            answer = TailAnswer.read(await self._network.call(peer, "ledger.tail", query, timeout_s=ASK_S))
            if answer.promised.encode() != theirs:
                return  # the log goes on
            entries += (entry.encode() for entry in answer.entries)
            if not answer.entries or len(entries) > MOST_ENTRIES:
                raise MessageInvalid(f"{len(entries)} entries came of {size - start}")
        await self._storage.use(lambda store: store.promise(origin, start, entries, theirs))


def _certified(store: Store, origin: str) -> int:
    certificate = store.certified(origin)
    return certificate.size if certificate is not None else 0


def _stalled(store: Store) -> dict[str, bytes]:
    """The promised heads that are ahead of their certificates, of logs that nobody accuses yet."""
    found = {}
    for origin in store.origins():
        promised = store.promised(origin)
        if promised is None or notes.checkpoint(notes.parse(promised)).size <= _certified(store, origin):
            continue
        if not store.evidence(origin):
            found[origin] = promised
    return found
