"""A peer's answers about heads: the witness cosigns them; every peer tells how far it has a log.

A request is size-checked, then parsed, then the store checks every entry and rule. What the witness refuses reaches the
caller with the ledger's code and reason.

IO: serves `ledger.cosign`, `ledger.head` and `ledger.tail`; the store through `Storage`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ledger import notes
from ledger.errors import Behind, LedgerError
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.notes import combine
from ledger.store.store import Store
from ledger.witness import Witness
from peer.config import Settings
from peer.errors import ConfigError, Refused
from peer.identity import Home
from peer.ledger.cosigning import MESSAGE_ENTRIES, message_of
from peer.ledger.storage import Storage
from peer.ledger.unreferenced import Strangers
from peer.messages import HeadAnswer, HeadQuery, TailAnswer, TailQuery, WitnessAnswer, WitnessRequest
from peer.network.network import Network

log = structlog.get_logger(__name__)

TAIL_REPLY_BYTES = 1 << 20
MOST_REFUSALS = 16
"""So many of one caller are told in the log."""
MOST_CALLERS = 4096
"""So many callers are counted; then all start anew."""

Body = dict[str, Any]
Change = Callable[[Callable[[Store], bytes]], Awaitable[bytes]]


class Witnessing:
    """Serves heads from one store."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        network: Network,
        storage: Storage,
        witness: Witness | None,
        change: Change,
        heard: Callable[[str], None],
    ) -> None:
        """`witness` is ours if the genesis names our witness key.

        `change` does on the store what makes a certificate, `heard` is told of the log of each head that is cosigned.
        """
        self._genesis = genesis
        self._storage = storage
        self._witness = witness
        self._use = change if genesis.quorum == 1 else storage.use
        self._heard = heard
        self._strangers = Strangers(now=time.monotonic())
        self._refusals: Counter[str] = Counter()
        network.serve("ledger.cosign", self._cosign)
        network.serve("ledger.head", self._head, reply_bytes=3 << 16)
        network.serve("ledger.tail", self._tail, reply_bytes=TAIL_REPLY_BYTES)

    async def _cosign(self, caller: str, body: Body) -> Body:
        witness = self._witness
        if witness is None:
            raise Refused("FP-418", "this peer is not a witness")
        request = WitnessRequest.read(body)
        try:
            line = await self._use(lambda store: self._sign(store, witness, caller, request))
        except Behind as exc:
            return WitnessAnswer(behind=exc.size).body()
        except LedgerError as exc:
            self._tell(caller, request.origin, exc)
            raise Refused(exc.code, exc.message) from exc
        self._heard(request.origin)
        return WitnessAnswer(cosignature=line.decode()).body()

    def _tell(self, caller: str, origin: str, exc: LedgerError) -> None:
        """Tell the operator of a refusal; but whoever is refused again and again must not fill the disk."""
        if len(self._refusals) == MOST_CALLERS and caller not in self._refusals:
            self._refusals.clear()
        self._refusals[caller] += 1
        if self._refusals[caller] <= MOST_REFUSALS:
            log.warning("cosignature_refused", caller=caller, origin=origin[-20:], reason=str(exc))

    def _sign(self, store: Store, witness: Witness, caller: str, request: WitnessRequest) -> bytes:
        """On the store's thread."""
        data, note, origin = [entry.encode() for entry in request.entries], request.note.encode(), request.origin
        stranger = not store.is_referenced(origin)
        if stranger:
            size_bytes = sum(map(len, data[max(0, store.size(origin) - request.start) :]))
            self._strangers.admit(caller, origin, size_bytes, time.monotonic())
        line = witness.cosign(origin, request.start, data, note, int(time.time()))
        if stranger:
            self._strangers.count(caller, origin, size_bytes)
        if self._genesis.quorum == 1:  # our line makes the certificate: no need to wait until we are told of it
            store.certify(origin, combine(note, [line]))
        return line

    async def _head(self, caller: str, body: Body) -> Body:
        origin = HeadQuery.read(body).origin

        def read(store: Store) -> HeadAnswer:
            certificate, promised = store.certified(origin), store.promised(origin)
            return HeadAnswer(
                certificate=certificate.note.decode() if certificate else "",
                promised=promised.decode() if promised else "",
                size=store.size(origin),
            )

        return (await self._storage.use(read)).body()

    async def _tail(self, caller: str, body: Body) -> Body:
        query = TailQuery.read(body)

        def read(store: Store) -> TailAnswer:
            promised = store.promised(query.origin)
            size = notes.checkpoint(notes.parse(promised)).size if promised else 0
            found = store.entries(query.origin, query.start, min(size, query.start + MESSAGE_ENTRIES))
            return TailAnswer(
                origin=query.origin,
                start=query.start,
                entries=message_of(found),
                promised=promised.decode() if promised else "",
                size=size,
            )

        return (await self._storage.use(read)).body()


def witness_key(home: Home, settings: Settings, genesis: Genesis) -> PrivateKey | None:
    """Our witness key, if we are to be a witness.

    Raises:
        ConfigError: we must be one and cannot.
    """
    key = home.witness_key() if settings.witness != "false" else None
    if key is not None and key.public in dict(genesis.witnesses).values():
        return key
    if settings.witness == "true":
        lacks = f"witness key {key.public[:16]} is not in the genesis" if key else "there is no witness key here"
        raise ConfigError(
            f"witness is true, but {lacks} of network {genesis.name} {genesis.id[:16]}",
            "start with --witness-key FILE, the key that its genesis names, or set witness = 'auto'",
        )
    return None


def witness_of(key: PrivateKey | None, store: Store) -> Witness | None:
    """The witness that signs with this key."""
    if key is None:
        return None
    name = next(name for name, public in store.genesis.witnesses if public == key.public)
    return Witness(store, store.genesis, key, name)
