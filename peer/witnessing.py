"""A witness's answers: it cosigns the heads that it may.

A request is size-checked, then parsed, then the store checks every entry and rule. What the witness refuses reaches the
caller with the ledger's code and reason.

IO: serves `ledger.cosign`; the store through `Storage`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ledger.errors import Behind, LedgerError
from ledger.genesis import Genesis
from ledger.notes import combine
from ledger.store import Store
from ledger.witness import Witness
from peer.errors import Refused
from peer.messages import WitnessAnswer, WitnessRequest
from peer.network.network import Network
from peer.storage import Storage

log = structlog.get_logger(__name__)

Body = dict[str, Any]


class Witnessing:
    """Serves heads from one store."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        network: Network,
        storage: Storage,
        witness: Witness | None,
        grown: Callable[[], Awaitable[None]],
    ) -> None:
        """`witness` is ours if the genesis names our witness key; `grown` is told of certificates made here."""
        self._genesis = genesis
        self._storage = storage
        self._witness = witness
        self._grown = grown
        network.serve("ledger.cosign", self._cosign)

    async def _cosign(self, caller: str, body: Body) -> Body:
        witness = self._witness
        if witness is None:
            raise Refused("FP-418", "this peer is not a witness")
        request = WitnessRequest.read(body)
        try:
            line, certified = await self._storage.use(lambda store: self._sign(store, witness, request))
        except Behind as exc:
            return WitnessAnswer(behind=exc.size).body()
        except LedgerError as exc:
            log.warning("cosignature_refused", caller=caller, origin=request.origin[-20:], reason=str(exc))
            raise Refused(exc.code, exc.message) from exc
        if certified:
            await self._grown()
        return WitnessAnswer(cosignature=line.decode()).body()

    def _sign(self, store: Store, witness: Witness, request: WitnessRequest) -> tuple[bytes, bool]:
        """On the store's thread."""
        data, note = [entry.encode() for entry in request.entries], request.note.encode()
        line = witness.cosign(request.origin, request.start, data, note, int(time.time()))
        alone = self._genesis.quorum == 1  # our line makes the certificate: no need to wait until we are told of it
        if alone:
            store.certify(request.origin, combine(note, [line]))
        return line, alone
