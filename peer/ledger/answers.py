"""What replicas of other peers are answered: heads, entries, evidence and proofs, within bounds for each of them.

IO: the ledger store through `Logs`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ledger import proof
from ledger.errors import Behind
from ledger.replica import store as replica_store
from ledger.replica.values import EntriesOf, HeadsSince
from ledger.store.store import Store
from peer.errors import Busy, Refused
from peer.ledger.logs import Logs
from peer.ledger.messages import EntriesRequest, EvidenceRequest, HeadsRequest, ProofRequest, reply_of
from peer.network.network import Network
from peer.wire import Reply

SERVED_AT_ONCE = 8
"""Answers with entries that one peer may have us make at a time."""
NOT_HERE = "FP-403"


class Answers:
    """The serving side of replication."""

    def __init__(self, logs: Logs, network: Network) -> None:
        """Serve `ledger.heads`, `ledger.entries`, `ledger.evidence` and `ledger.proof`."""
        self._logs = logs
        self._serving: Counter[str] = Counter()
        network.serve_bytes("ledger.heads", self._heads, reply_bytes=1 << 18)
        network.serve_bytes("ledger.entries", self._entries, reply_bytes=(1 << 20) + (1 << 16))
        network.serve_bytes("ledger.evidence", self._evidence, reply_bytes=1 << 19)
        network.serve("ledger.proof", self._proof)

    async def _heads(self, caller: str, body: dict[str, Any], payload: bytes) -> Reply:
        asked = HeadsRequest.read(body)
        request = HeadsSince(instance=asked.instance, cursor=asked.cursor)
        return reply_of(await self._logs.on_store(lambda store: replica_store.heads_since(store, request)))

    async def _entries(self, caller: str, body: dict[str, Any], payload: bytes) -> Reply:
        asked = EntriesRequest.read(body)
        request = EntriesOf(origin=asked.origin, start=asked.start, end=asked.end)
        if self._serving[caller] >= SERVED_AT_ONCE:
            raise Busy(f"peer {caller}: {SERVED_AT_ONCE} answers with entries are being made for it already")
        self._serving[caller] += 1
        try:
            return reply_of(await self._logs.on_store(lambda store: replica_store.entries_of(store, request)))
        except Behind as exc:
            raise Refused(exc.code if exc.size else NOT_HERE, exc.message) from exc
        finally:
            self._serving[caller] -= 1
            self._serving += Counter()  # forget callers with nothing in hand

    async def _evidence(self, caller: str, body: dict[str, Any], payload: bytes) -> Reply:
        origin = EvidenceRequest.read(body).origin
        return reply_of(await self._logs.on_store(lambda store: replica_store.evidence_of(store, origin)))

    async def _proof(self, caller: str, body: dict[str, Any]) -> dict[str, Any]:
        asked = ProofRequest.read(body)
        return {"proof": await self._logs.on_store(lambda store: proof_of(store, asked.origin, asked.index))}


def proof_of(store: Store, origin: str, index: int) -> str:
    """The proof that an entry is certified, with what names the leaders of its run.

    Raises:
        Behind: it is not certified here.
    """
    inclusion = store.inclusion(origin, index)
    entry = store.entries(origin, index, index + 1)[0]
    begin = store.entries(origin, 0, 1)[0] if store.genesis.terms.owner(origin).startswith("run/") else b""
    return proof.write(inclusion, entry, begin).decode()
