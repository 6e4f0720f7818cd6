"""Certified logs from peer to peer: what a peer lacks is sent in bundles; what we lack is pulled and verified.

IO: calls over the network, the ledger replica through `Logs`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from peer.errors import Refused, RunError
from peer.logs import Logs
from peer.messages import Bundle, Heads, LogRange
from peer.network.network import Network

CALL_S = 10.0


class Replication:
    """Moves certified entries between replicas."""

    def __init__(self, logs: Logs, network: Network) -> None:
        """Serve `ledger.heads` and `ledger.entries` on the network."""
        self._logs = logs
        self._network = network
        network.serve("ledger.heads", self._serve_heads)
        network.serve("ledger.entries", self._serve_entries)

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
        """Fetch from a peer whatever it has certified beyond ours; returns the number of entries stored.

        Raises:
            NetworkError, LedgerError: the peer does not answer, or what it sent does not hold.
        """
        heads = Heads.read(await self._network.call(peer, "ledger.heads", {}, timeout_s=CALL_S))
        stored = 0
        for origin, theirs in heads.heads:
            if theirs > await self._logs.size(origin):
                stored += await self.pull_log(peer, origin)
        return stored

    async def pull_log(self, peer: str, origin: str) -> int:
        """Fetch from a peer what it has certified of one log beyond ours; returns the number of entries stored.

        Raises:
            NetworkError, LedgerError: the peer does not answer, or what it sent does not hold.
        """
        start = await self._logs.size(origin)
        bundles: list[Bundle] = []
        at, size = start, start + 1
        while at < size:
            body = LogRange(origin=origin, start=at).body()
            bundle = Bundle.read(await self._network.call(peer, "ledger.entries", body, timeout_s=CALL_S))
            if bundle.size <= start:
                return 0  # they have nothing beyond ours
            if not bundle.entries or bundle.start != at or bundle.origin != origin:
                raise RunError(
                    "FP-403",
                    f"peer {peer}: sent entries {bundle.start}+{len(bundle.entries)} of a log, asked from {at}",
                )
            bundles.append(bundle)
            at, size = at + len(bundle.entries), bundle.size
        await self._logs.accept(bundles)
        return at - start

    async def _serve_heads(self, caller: str, body: dict[str, Any]) -> dict[str, Any]:
        return Heads(heads=await self._logs.heads()).body()

    async def _serve_entries(self, caller: str, body: dict[str, Any]) -> dict[str, Any]:
        request = LogRange.read(body)
        async for bundle in self.bundles(request.origin, request.start):
            return bundle.body()
        certificate = await self._logs.certificate(request.origin)
        if certificate is None:
            raise Refused("FP-403", f"nothing certified of log {request.origin[:100]} is here")
        nothing_new = Bundle(
            origin=request.origin,
            start=request.start,
            entries=[],
            certificate=certificate.note.decode(),
            size=certificate.size,
        )
        return nothing_new.body()
