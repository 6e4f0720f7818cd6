"""A leader's bids: a term is ours when a quorum of witnesses gave it; then we hold all that may have been certified.

IO: calls over the network, the store through `Storage`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog

from ledger import notes
from ledger.errors import LedgerError
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store.store import Store
from ledger.terms import Bid, Term
from peer.errors import MessageInvalid, NetworkError, Unreachable
from peer.ledger.cosigning import WitnessPeers
from peer.ledger.storage import Storage
from peer.ledger.terms import TermDesk
from peer.messages import TailAnswer, TailQuery, TermAnswer, TermQuery
from peer.network.network import Network

log = structlog.get_logger(__name__)

ASK_S = 3.0
"""Deadline of one call to a witness."""
GRACE_S = 0.7
"""How long the answers beyond a quorum may take: one of them may know a head that no other does."""

Answers = Mapping[str, TermAnswer]
"""By the witness's name."""


class Bidding:
    """Bids for terms of the runs that our account may lead."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        key: PrivateKey,
        network: Network,
        storage: Storage,
        witness_peers: WitnessPeers,
        here: tuple[str, TermDesk] | None,
    ) -> None:
        """`here` is our own witness, if we are one: its name and its desk."""
        self._genesis = genesis
        self._key = key
        self._network = network
        self._storage = storage
        self._witness_peers = witness_peers
        self._here = here

    async def vacant(self, origin: str) -> bool:
        """Whether a quorum of witnesses would give us a term now."""
        answers = await self._ask(TermQuery(origin=origin))
        free = [answer for answer in answers.values() if answer.idle or answer.leader == self._key.public]
        return len(free) >= self._genesis.quorum

    async def take(self, origin: str) -> Term | None:
        """Bid for a term above all that a quorum knows of; None if we do not get it.

        Before it returns, our store holds the longest head that any of the witnesses asked has promised.

        Raises:
            LedgerError: a promised head contradicts what our own key signed, so another leader must go on; or the disk
                failed.
        """
        quorum = self._genesis.quorum
        known = await self._ask(TermQuery(origin=origin))
        if len(known) < quorum:
            return None
        term = Term(max(answer.number for answer in known.values()) + 1, self._key.public)
        answers = await self._bid(origin, term)
        given = {name: answer for name, answer in answers.items() if _gave(answer, term)}
        if len(given) < quorum:
            await self.leave(origin, term)
            return None
        try:
            await self._adopt(origin, given)
        except LedgerError:
            await self.leave(origin, term)
            raise
        return term

    async def keep(self, origin: str, term: Term) -> tuple[bool, bool]:
        """Say that we still lead: (whether a quorum heard it, whether it can no longer be ours)."""
        answers = await self._bid(origin, term)
        gave = sum(_gave(answer, term) for answer in answers.values())
        lost = len(answers) - gave > len(self._genesis.witnesses) - self._genesis.quorum
        return gave >= self._genesis.quorum, lost

    async def leave(self, origin: str, term: Term) -> None:
        """Say that we lead no more, so that nobody has to wait."""
        await self._bid(origin, term, leave=True)

    async def _bid(self, origin: str, term: Term, *, leave: bool = False) -> Answers:
        bid = Bid.create(self._key, origin, term.number, leave=leave)
        query = TermQuery(
            origin=origin, leader=bid.leader, number=bid.number, leave=int(leave), signature=bid.signature
        )
        return await self._ask(query)

    async def _ask(self, query: TermQuery) -> Answers:
        """What the witnesses answer: all that come until shortly after a quorum has answered."""
        names = [name for name, _ in self._genesis.witnesses]
        asking = {asyncio.ensure_future(self._ask_one(name, query)): name for name in names}
        answers: dict[str, TermAnswer] = {}
        waiting, patience = set(asking), ASK_S
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    try:
                        answers[asking[task]] = task.result()
                    except (NetworkError, LedgerError) as exc:
                        log.debug("term_unknown", witness=asking[task], reason=str(exc))
                if len(answers) >= self._genesis.quorum:
                    patience = GRACE_S
        finally:
            for task in asking:
                task.cancel()
        return answers

    async def _ask_one(self, name: str, query: TermQuery) -> TermAnswer:
        if self._here is not None and name == self._here[0]:
            return await self._here[1].answer(query)
        return TermAnswer.read(await self._network.call(self._peer(name), "ledger.term", query.body(), timeout_s=ASK_S))

    def _peer(self, name: str) -> str:
        peer = self._witness_peers().get(name)
        if peer is None:
            raise Unreachable(f"witness {name}: its peer is not known yet")
        return peer

    # ------------------------------------------------------------------ what was promised

    async def _adopt(self, origin: str, given: Answers) -> None:
        """Take over the promised head that most witnesses can go on from, the longest of those.

        All promised heads are prefixes of one another, unless leaders died one after the other before a quorum had
        their entries, or one of them contradicted itself.
        """
        heads = await self._heads(origin, given)
        best: tuple[int, int, int, list[bytes], bytes] | None = None
        for name in sorted(heads, key=lambda name: heads[name].size, reverse=True):
            if best is not None and given[name].promised.encode() == best[4]:
                continue
            try:
                start, entries = await self._tail(origin, name, heads[name].size)
                agreeing = await self._storage.use(
                    partial(
                        Store.agreeing, origin=origin, start=start, entries=entries, heads=list(heads.values())
                    )
                )
            except (NetworkError, LedgerError) as exc:
                log.warning("promise_not_adopted", origin=origin[-20:], witness=name, reason=str(exc))
                continue
            if best is None or agreeing > best[0]:
                best = agreeing, heads[name].size, start, entries, given[name].promised.encode()
            if agreeing == len(heads):
                break
        if best is not None:
            _, size, start, entries, note = best
            fresh = await self._storage.use(
                lambda store: store.adopt(origin, start, entries, note, self._key.public)
            )
            log.info("adopted", origin=origin[-20:], size=size, entries=fresh)

    async def _heads(self, origin: str, given: Answers) -> dict[str, notes.Checkpoint]:
        """The promised heads, by witness; what none of the run's leaders signed is no head."""
        heads: dict[str, notes.Checkpoint] = {}
        for name, answer in given.items():
            if answer.promised:
                try:
                    read = partial(Store.read_head, origin=origin, head_note=answer.promised.encode())
                    heads[name] = await self._storage.use(read)
                except LedgerError as exc:
                    log.warning("promise_not_adopted", origin=origin[-20:], witness=name, reason=str(exc))
        return heads

    async def _tail(self, origin: str, name: str, size: int) -> tuple[int, list[bytes]]:
        """The entries up to a witness's promised head, from the end of what is certified here."""
        certificate = await self._storage.use(lambda store: store.certified(origin))
        start = at = certificate.size if certificate is not None else 0
        entries: list[bytes] = []
        if self._here is not None and name == self._here[0]:
            return start, await self._storage.use(lambda store: store.entries(origin, start, max(start, size)))
        while at < size:
            body = TailQuery(origin=origin, start=at).body()
            reply = await self._network.call(self._peer(name), "ledger.tail", body, timeout_s=ASK_S)
            tail = TailAnswer.read(reply)
            if tail.origin != origin or tail.start != at or not tail.entries:
                raise MessageInvalid(f"witness {name}: entries of {tail.origin[-20:]} from {tail.start}, wanted {at}")
            entries += [entry.encode() for entry in tail.entries]
            at += len(tail.entries)
        return start, entries[: max(0, size - start)]


def _gave(answer: TermAnswer, term: Term) -> bool:
    return Term(answer.number, answer.leader) == term
