"""A witness's desk for terms: which leader may extend a run's log, and since when nothing was heard of it.

The term itself is on disk; how long its leader has been silent is only in memory, so after a restart it has a whole
lease to be heard again.

IO: serves `ledger.term`; the store through `Storage`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from ledger.errors import LedgerError
from ledger.store.store import Store
from ledger.terms import NONE, Bid, Term
from ledger.witness import Witness
from peer.errors import Refused
from peer.ledger.storage import Storage
from peer.messages import TermAnswer, TermQuery
from peer.network.network import Network

log = structlog.get_logger(__name__)

LEASE_S = 8.0
"""A leader that is silent for so long may be followed by another."""


class Leases:
    """When the leader of each run was heard last. Pure."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._heard: dict[str, float] = {}

    def heard(self, origin: str, now: float) -> None:
        """The leader bid, or had a head cosigned."""
        self._heard[origin] = now

    def left(self, origin: str) -> None:
        """The leader said that it goes."""
        self._heard[origin] = float("-inf")

    def idle(self, origin: str, now: float) -> bool:
        """Whether the lease is over."""
        return now >= self._heard.get(origin, self._started) + LEASE_S


class TermDesk:
    """Gives terms, if this peer is a witness."""

    def __init__(
        self, *, network: Network, storage: Storage, witness: Witness | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Serve bids; `witness` is ours, if we are one."""
        self._storage = storage
        self._witness = witness
        self._now = now
        self._leases = Leases(now())
        network.serve("ledger.term", self._serve)

    def heard(self, origin: str) -> None:
        """A head of the log's leader was cosigned."""
        self._leases.heard(origin, self._now())

    async def _serve(self, caller: str, body: dict[str, Any]) -> dict[str, Any]:
        query = TermQuery.read(body)
        try:
            return (await self.answer(query)).body()
        except LedgerError as exc:
            log.info("bid_refused", caller=caller, origin=query.origin[-20:], reason=str(exc))
            raise Refused(exc.code, exc.message) from exc

    async def answer(self, query: TermQuery) -> TermAnswer:
        """The term after this query.

        Raises:
            Refused: FP-418 we are no witness; LedgerError: the bid is no good.
        """
        witness = self._witness
        if witness is None:
            raise Refused("FP-418", "this peer is not a witness")
        return await self._storage.use(lambda store: self._decide(store, witness, query))

    def _decide(self, store: Store, witness: Witness, query: TermQuery) -> TermAnswer:
        """On the store's thread, so that what was promised is what was promised when the term was given."""
        origin, now = query.origin, self._now()
        before = term = store.term(origin)
        if query.signature:
            bid = Bid(
                origin=origin, leader=query.leader, number=query.number, leave=bool(query.leave),
                signature=query.signature,
            )  # fmt: skip
            term = witness.give(bid, idle=self._leases.idle(origin, now))
            if term == Term(bid.number, bid.leader) and bid.leave:
                self._leases.left(origin)
            elif term == Term(bid.number, bid.leader):
                self._leases.heard(origin, now)
        if term != before:
            log.info("term_given", origin=origin[-20:], number=term.number, leader=term.leader[:16])
        promised = store.pledge(origin)
        return TermAnswer(
            number=term.number,
            leader=term.leader,
            idle=int(term == NONE or self._leases.idle(origin, now)),
            promised=promised.decode() if promised else "",
        )
