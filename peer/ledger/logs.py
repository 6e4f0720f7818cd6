"""The daemon's replica of the ledger: appends to our own logs, has them certified, keeps everybody's.

One `Logs` owns the store; every access goes through it, one at a time, on a thread (commits wait for the disk).
Whoever needs to know that a log grew waits on `grown`.

IO: SQLite through `ledger.store.store`, libp2p through `Network`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog

from ledger.entries import Entry, parse
from ledger.errors import LedgerError, SelfFork
from ledger.fold.fold import Ledger
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store.store import Certificate, Store
from ledger.witness import Witness
from peer.errors import NetworkError
from peer.ledger.appending import Writer
from peer.ledger.bidding import Bidding
from peer.ledger.comparing import Comparing
from peer.ledger.cosigning import Ask, Cosigners, WitnessPeers, message_of
from peer.ledger.errands import Errands
from peer.ledger.ownheads import OwnHeads
from peer.ledger.storage import Storage
from peer.ledger.terms import TermDesk
from peer.ledger.witnessing import Witnessing
from peer.messages import Bundle, HeadQuery
from peer.network.network import Network

log = structlog.get_logger(__name__)

BUNDLE_BYTES = 600_000
BUNDLE_ENTRIES = 256
REACH_S = 3.0
"""How long a witness may take to tell that it is there."""

T = TypeVar("T")


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
        recover: str = "forge-ledger recover",
    ) -> None:
        """Serve heads on the network; `witness` is ours if the genesis names our witness key.

        `recover` is the command that is told where an old backup was restored.
        """
        self.genesis = genesis
        self.account = account
        self._storage = Storage(store)
        self._network = network
        self._witness_peers = witness_peers
        self._errands = Errands()
        self._closed = False
        self._grown = asyncio.Condition()
        self._writers: dict[str, Writer] = {}
        self._witness = witness
        self._looking: set[str] = set()
        desk = TermDesk(network=network, storage=self._storage, witness=witness)
        self.witnessing = Witnessing(
            genesis=genesis, network=network, storage=self._storage, witness=witness, change=self.change,
            heard=desk.heard,
        )  # fmt: skip
        self.bidding = Bidding(
            genesis=genesis, key=account, network=network, storage=self._storage, witness_peers=witness_peers,
            here=(witness.name, desk) if witness is not None else None,
        )  # fmt: skip
        self._cosigners = Cosigners(
            genesis=genesis,
            key=account,
            network=network,
            storage=self._storage,
            witness_peers=witness_peers,
            here=(witness.name, self._cosign_here) if witness is not None else None,
            errands=self._errands,
        )
        self._own_heads = OwnHeads(
            genesis=genesis,
            account=account.public,
            network=network,
            storage=self._storage,
            witness_peers=witness_peers,
            here=witness.name if witness is not None else None,
            errands=self._errands,
            fix=f"stop this daemon, then {recover}",
        )
        self._cosigners.contradicted = self._look_again

    def start(self) -> None:
        """Compare our account's log, and as a witness our promises, with what witnesses have; in the background."""
        self._own_heads.begin(self.origin)
        if self._witness is not None and len(self.genesis.witnesses) > 1:
            comparing = Comparing(
                name=self._witness.name,
                network=self._network,
                storage=self._storage,
                witness_peers=self._witness_peers,
            )
            self._errands.start("comparing promises", comparing.run())

    async def close(self) -> None:
        """End what goes on in the background; before the store is closed."""
        self._closed = True
        await self._errands.close()

    def abandon(self) -> None:
        """As `close`, without waiting: as if the process had died."""
        self._closed = True
        self._errands.cancel()

    @property
    def origin(self) -> str:
        """Origin of our account's log."""
        return self.genesis.origin(self.account.public)

    # ------------------------------------------------------------------ reading

    async def on_store(self, work: Callable[[Store], T]) -> T:
        """The result of `work` on the store, in turn with everybody else's."""
        return await self._storage.use(work)

    async def change(self, work: Callable[[Store], T]) -> T:
        """As `on_store`, for work that may certify: who waits for that is told, even if the caller is cancelled."""
        doing = self._storage.begin(work)
        doing.add_done_callback(self._changed)
        return await asyncio.shield(doing)

    def _changed(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None and not self._closed:
            self._errands.start("tell", self.tell())

    async def size(self, origin: str) -> int:
        """Number of certified entries that we have of a log."""
        return await self._storage.use(lambda store: certified_size(store, origin))

    async def entries(self, origin: str, start: int) -> list[Entry]:
        """The certified entries of a log from `start` on."""
        found = await self._storage.use(lambda store: store.entries(origin, start, certified_size(store, origin)))
        return [parse(data) for data in found]

    async def ledger(self) -> Ledger:
        """Balances and runs, folded from everything certified that we have."""
        return await self._storage.use(lambda store: store.ledger())

    async def grown(self, origin: str, beyond: int) -> int:
        """Wait until we have more than `beyond` certified entries of a log; returns how many."""
        async with self._grown:
            while (size := await self.size(origin)) <= beyond:
                await self._grown.wait()
            return size

    @property
    def forks(self) -> dict[str, str]:
        """Logs of ours that we do not write to, and why: our key signed more of them elsewhere."""
        return {origin: str(fork) for origin, fork in self._own_heads.forks.items()}

    async def witnesses(self) -> list[dict[str, Any]]:
        """Every witness: name, PeerID or "", and why it does not answer or ""."""
        return await asyncio.gather(*[self._reach(name) for name, _ in self.genesis.witnesses])

    async def _reach(self, name: str) -> dict[str, Any]:
        if self._witness is not None and name == self._witness.name:
            return {"name": name, "peer_id": self._network.peer_id, "problem": ""}
        peer, problem = self._witness_peers().get(name, ""), "its peer is not known yet"
        if peer:
            try:
                await self._network.call(peer, "ledger.head", HeadQuery(origin=self.origin).body(), timeout_s=REACH_S)
                problem = ""
            except NetworkError as exc:
                problem = str(exc)
        return {"name": name, "peer_id": peer, "problem": problem}

    # ------------------------------------------------------------------ writing

    async def append(self, origin: str, entries: Sequence[Entry]) -> None:
        """Append to a log of ours, as one, and return once it is certified; unreachable witnesses are tried again.

        Calls that come while an earlier one waits for its certificate are appended together; each is valid or refused
        by itself.

        Raises:
            LedgerError: the entries break a rule, or we must not sign; nothing was appended.
        """
        await self._writer(origin).append([entry.encode() for entry in entries], self._errands)

    async def sign(self, origin: str, entries: Sequence[Entry]) -> bytes:
        """Append to a log of ours and sign, without waiting for a certificate, which `certify` gets; returns the head.

        Raises:
            LedgerError: as `append`.
        """
        return await self._writer(origin).sign([entry.encode() for entry in entries])

    async def certify(self, origin: str) -> None:
        """Have all that we have of a log of ours certified; unreachable witnesses are tried until a quorum has signed.

        Entries that a crash left without a signature are signed first.

        Raises:
            LedgerError: we must not sign.
        """
        await self._writer(origin).append([], self._errands)

    def give_up(self, origin: str, reason: LedgerError) -> None:
        """Wait no longer for the certificate of our newest head of a log: whoever appended is told the reason."""
        self._cosigners.fail(origin, reason)

    def _writer(self, origin: str) -> Writer:
        if origin not in self._writers:
            self._writers[origin] = Writer(
                origin=origin,
                key=self.account,
                storage=self._storage,
                cosigners=self._cosigners,
                cleared=self._own_heads.cleared,
                grown=self.tell,
            )
        return self._writers[origin]

    def _look_again(self, origin: str) -> None:
        """A witness has another log than ours of this origin: if our key signed that, we stop."""
        if origin not in self._looking:
            self._looking.add(origin)
            self._errands.start(f"own head {origin[-20:]}", self._compare(origin))

    async def _compare(self, origin: str) -> None:
        try:
            await self._own_heads.compare(origin)
        except SelfFork as exc:
            self._cosigners.fail(origin, exc)
        finally:
            self._looking.discard(origin)

    async def _cosign_here(self, ask: Ask) -> bytes:
        witness = self._witness
        assert witness is not None
        return await self._storage.use(lambda _: witness.cosign(ask.origin, ask.size, [], ask.note, int(time.time())))

    async def accept(self, bundles: Sequence[Bundle]) -> None:
        """Store certified entries of somebody's log: consecutive bundles under the last one's certificate.

        Raises:
            LedgerError: they do not lead to the certified root, or the certificate does not hold. Nothing is stored.
        """
        first, last = bundles[0], bundles[-1]
        data = [entry.encode() for bundle in bundles for entry in bundle.entries]
        await self.change(lambda store: store.accept(first.origin, first.start, data, last.certificate.encode()))

    async def tell(self) -> None:
        """Wake those who wait for a log to grow: something was certified."""
        async with self._grown:
            self._grown.notify_all()

    # ------------------------------------------------------------------ for other peers

    async def bundle(self, origin: str, start: int, end: int | None, *, most: int = BUNDLE_ENTRIES) -> list[str]:
        """Entries from `start` on, as many as one message holds and at most so many."""
        stop = min(start + most, end if end is not None else start + most)
        return message_of(await self._storage.use(lambda store: store.entries(origin, start, stop)), BUNDLE_BYTES)

    async def certificate(self, origin: str) -> Certificate | None:
        """The newest certificate of a log."""
        return await self._storage.use(lambda store: store.certified(origin))

    async def heads(self) -> list[tuple[str, int]]:
        """(origin, certified size) of every log."""

        def read(store: Store) -> list[tuple[str, int]]:
            return [(origin, size) for origin in store.origins() if (size := certified_size(store, origin))]

        return await self._storage.use(read)


def certified_size(store: Store, origin: str) -> int:
    """Number of certified entries that a store has of a log."""
    certificate = store.certified(origin)
    return certificate.size if certificate else 0
