"""The daemon's replica of the ledger: appends to our own logs, has them certified, keeps everybody's.

One `Logs` owns the store; every access goes through it, one at a time, on a thread (commits wait for the disk).
Whoever needs to know that a log grew waits on `grown`.

IO: SQLite through `ledger.store`, libp2p through `Network`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog

from ledger.entries import Entry, parse
from ledger.errors import Behind, LedgerError
from ledger.fold import Ledger
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.notes import combine
from ledger.store import Certificate, Store
from ledger.witness import Witness
from peer.errors import NetworkError, Refused
from peer.messages import Bundle, WitnessRequest
from peer.network.network import Network

log = structlog.get_logger(__name__)

BUNDLE_BYTES = 600_000
BUNDLE_ENTRIES = 256
COSIGN_S = 10.0
COSIGN_ENTRIES = 4096
COSIGN_ASKS = 4
"""A witness that then still lacks entries must replicate the log first; we ask again later."""
RETRY_S = 1.0

T = TypeVar("T")
WitnessPeers = Callable[[], dict[str, str]]
"""Witness name → PeerID, for the witnesses whose peers are known just now."""


class Logs:
    """Owner of the ledger store of one daemon."""

    def __init__(
        self,
        *,
        store: Store,
        genesis: Genesis,
        account: PrivateKey,
        witness: Witness | None,
        network: Network,
        witness_peers: WitnessPeers,
    ) -> None:
        """Serve `ledger.cosign` on the network; `witness` is ours if the genesis names our witness key."""
        self.genesis = genesis
        self.account = account
        self._store = store
        self._witness = witness
        self._network = network
        self._witness_peers = witness_peers
        self._lock = asyncio.Lock()
        self._grown = asyncio.Condition()
        network.serve("ledger.cosign", self._serve_cosign)

    @property
    def origin(self) -> str:
        """Origin of our account's log."""
        return self.genesis.origin(self.account.public)

    # ------------------------------------------------------------------ reading

    async def _on_store(self, work: Callable[[], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(work)

    async def size(self, origin: str) -> int:
        """Number of certified entries that we have of a log."""
        return await self._on_store(lambda: self._certified_size(origin))

    def _certified_size(self, origin: str) -> int:
        certificate = self._store.certified(origin)
        return certificate.size if certificate else 0

    async def entries(self, origin: str, start: int) -> list[Entry]:
        """The certified entries of a log from `start` on."""
        return [
            parse(data)
            for data in await self._on_store(lambda: self._store.entries(origin, start, self._certified_size(origin)))
        ]

    async def ledger(self) -> Ledger:
        """Balances and runs, folded from everything certified that we have."""
        return await self._on_store(self._store.ledger)

    async def grown(self, origin: str, beyond: int) -> int:
        """Wait until we have more than `beyond` certified entries of a log; returns how many."""
        async with self._grown:
            while (size := await self.size(origin)) <= beyond:
                await self._grown.wait()
            return size

    # ------------------------------------------------------------------ writing

    async def append(self, origin: str, entries: Sequence[Entry]) -> None:
        """Append to a log of ours, as one, and return once it is certified; unreachable witnesses are tried again.

        Raises:
            LedgerError: the entries break a rule; nothing was appended.
        """
        data = [entry.encode() for entry in entries]
        await self._on_store(lambda: self._store.append(origin, data, self.account))
        await self._certify(origin)

    async def certify(self, origin: str) -> None:
        """Have all that we have of a log of ours certified; unreachable witnesses are tried until a quorum has signed.

        Entries that a crash left without a signature are signed first.
        """
        if await self._on_store(lambda: self._store.size(origin)) == 0:
            return
        await self._on_store(lambda: self._store.append(origin, [], self.account))
        await self._certify(origin)

    async def _certify(self, origin: str) -> None:
        while True:
            note = await self._on_store(lambda: self._store.head(origin))
            assert note is not None  # `append` signed one
            lines, problems = await self._cosignatures(origin, note)
            if len(lines) >= self.genesis.quorum:
                await self._on_store(lambda note=note, lines=lines: self._store.certify(origin, combine(note, lines)))  # type: ignore[misc]
                await self._tell()
                return
            log.warning(
                "not_certified",
                origin=origin[-20:],
                cosignatures=len(lines),
                wanted=self.genesis.quorum,
                problems="; ".join(problems),
            )
            await asyncio.sleep(RETRY_S)

    async def _cosignatures(self, origin: str, note: bytes) -> tuple[list[bytes], list[str]]:
        """Ask every witness at once; returns the cosignature lines and what went wrong."""
        peers = self._witness_peers()
        lines: list[bytes] = []
        problems: list[str] = []

        async def ask(name: str) -> None:
            try:
                if self._witness is not None and name == self._witness.name:
                    lines.append(await self._cosign_here(origin, note))
                elif name in peers:
                    lines.append(await self._cosign_there(peers[name], origin, note))
                else:
                    problems.append(f"witness {name}: its peer is not known yet")
            except (NetworkError, LedgerError) as exc:
                problems.append(f"witness {name}: {exc}")

        async with asyncio.TaskGroup() as group:
            for name, _ in self.genesis.witnesses:
                group.create_task(ask(name))
        return lines, problems

    async def _cosign_here(self, origin: str, note: bytes) -> bytes:
        witness = self._witness
        assert witness is not None
        return await self._on_store(
            lambda: witness.cosign(origin, self._store.size(origin), [], note, int(time.time()))
        )

    async def _cosign_there(self, peer: str, origin: str, note: bytes) -> bytes:
        """Send a witness what it lacks, then the head."""
        start = self._certified_size(origin)
        for _ in range(COSIGN_ASKS):
            entries = await self.bundle(origin, start, None, most=COSIGN_ENTRIES)
            body = WitnessRequest(origin=origin, start=start, entries=entries, note=note.decode()).body()
            answer = await self._network.call(peer, "ledger.cosign", body, timeout_s=COSIGN_S)
            if line := str(answer.get("cosignature", "")):
                return line.encode()
            start = int(answer["behind"])
        raise Refused("FP-425", f"it lacks more of the log than one message holds, from entry {start} on")

    async def accept(self, bundles: Sequence[Bundle]) -> None:
        """Store certified entries of somebody's log: consecutive bundles under the last one's certificate.

        Raises:
            LedgerError: they do not lead to the certified root, or the certificate does not hold. Nothing is stored.
        """
        first, last = bundles[0], bundles[-1]
        data = [entry.encode() for bundle in bundles for entry in bundle.entries]
        await self._on_store(lambda: self._store.accept(first.origin, first.start, data, last.certificate.encode()))
        await self._tell()

    async def _tell(self) -> None:
        async with self._grown:
            self._grown.notify_all()

    # ------------------------------------------------------------------ for other peers

    async def bundle(self, origin: str, start: int, end: int | None, *, most: int = BUNDLE_ENTRIES) -> list[str]:
        """Entries from `start` on, as many as one message holds and at most so many."""
        stop = min(start + most, end if end is not None else start + most)
        kept: list[str] = []
        room = BUNDLE_BYTES
        for data in await self._on_store(lambda: self._store.entries(origin, start, stop)):
            room -= len(data)
            if room < 0 and kept:
                break
            kept.append(data.decode())
        return kept

    async def certificate(self, origin: str) -> Certificate | None:
        """The newest certificate of a log."""
        return await self._on_store(lambda: self._store.certified(origin))

    async def heads(self) -> list[tuple[str, int]]:
        """(origin, certified size) of every log."""

        def read() -> list[tuple[str, int]]:
            return [(origin, size) for origin in self._store.origins() if (size := self._certified_size(origin))]

        return await self._on_store(read)

    async def _serve_cosign(self, caller: str, body: dict[str, Any]) -> dict[str, Any]:
        witness = self._witness
        if witness is None:
            raise Refused("FP-418", "this peer is not a witness")
        request = WitnessRequest.read(body)
        data = [entry.encode() for entry in request.entries]
        try:
            line = await self._on_store(
                lambda: witness.cosign(request.origin, request.start, data, request.note.encode(), int(time.time()))
            )
        except Behind as exc:
            return {"behind": exc.size}
        except LedgerError as exc:
            log.warning("cosignature_refused", caller=caller, origin=request.origin[-20:], reason=str(exc))
            raise Refused(exc.code, str(exc)) from exc
        if self.genesis.quorum == 1:  # our line alone makes the certificate: no need to wait until we are told of it
            await self._on_store(lambda: self._store.certify(request.origin, combine(request.note.encode(), [line])))
            await self._tell()
        return {"cosignature": line.decode()}
