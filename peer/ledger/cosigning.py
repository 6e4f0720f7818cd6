"""Heads to witnesses, certificates back: all witnesses are asked at once, and a quorum is enough.

One courier per witness and log brings the log's newest head there, one message at a time: first what the witness lacks,
then the head. When q witnesses have signed, the certificate is there; couriers of the others go on in the background
with what they are at, and a witness that fails is not asked again before a pause, so it costs little while it is away.
A line counts only after it was checked against the genesis; what does not count is told in the log once.

IO: calls over the network, the store through `Storage`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from ledger import notes
from ledger.errors import LedgerError, TermOver
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.quorum import Quorum
from ledger.store.store import Store
from peer.errors import MessageInvalid, NetworkError, Refused, Unreachable
from peer.ledger.errands import Errands
from peer.ledger.storage import Storage
from peer.messages import WitnessAnswer, WitnessRequest
from peer.network.network import Network

log = structlog.get_logger(__name__)

COSIGN_S = 10.0
"""Deadline of one message to a witness."""
MESSAGE_BYTES = 900_000
"""Entries in one message, as they are written in it."""
MESSAGE_ENTRIES = 4096
LATE_MESSAGES = 64
"""So many messages go to one witness for a head that is certified without it; beyond that it replicates the log."""
DETOURS = 4
"""So often a witness may ask for other entries without taking any."""
BACK_S = 60.0
"""How often a witness may ask for entries that it has cosigned."""
RETRY_S = 0.5
"""First pause before a witness that failed is asked again; doubled up to 8 times that, with jitter."""
TELL_S = 5.0
"""How long a head may lack its quorum before the operator is told; doubled each time."""
CONTRADICTED = {"FP-211", "FP-213"}
"""What a witness answers that has another log than ours."""

WitnessPeers = Callable[[], dict[str, str]]
"""Witness name → PeerID, for the witnesses whose peers are known just now."""


class Ask:
    """One head on its way to its certificate."""

    def __init__(self, genesis: Genesis, note: bytes, known: int, fresh: Sequence[bytes] = ()) -> None:
        """`known` is the certified size so far, which witnesses are likely to have; `fresh` the entries from there on,
        if they are at hand."""
        head = notes.checkpoint(notes.parse(note))
        self.origin, self.size = head.origin, head.size
        self.note = note
        self.known = known
        self.fresh = message_of(fresh[:MESSAGE_ENTRIES])
        self.quorum = Quorum(genesis, note)
        self.problems: dict[str, str] = {}
        """What went wrong last with each witness that has not signed."""
        self.over: set[str] = set()
        """Witnesses that say that it is another leader's term."""
        self.certificate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def take(self, name: str, line: bytes) -> None:
        """Count a witness's line. Raises NoteInvalid where it is none of this witness and head."""
        certified = self.quorum.add(name, line)
        self.problems.pop(name, None)
        if certified and not self.certificate.done():
            certificate = self.quorum.certificate
            assert certificate is not None
            self.certificate.set_result(certificate)


class Cosigners:
    """The network's witnesses, as those see them who need their signatures."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        key: PrivateKey,
        network: Network,
        storage: Storage,
        witness_peers: WitnessPeers,
        here: tuple[str, Callable[[Ask], Awaitable[bytes]]] | None,
        errands: Errands,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`here` is our own witness, if we are one: its name and how it cosigns; `key` signs our logs."""
        self.genesis = genesis
        self.key = key
        self.network = network
        self.storage = storage
        self.witness_peers = witness_peers
        self.here = here
        self.jitter = jitter
        self.newest: dict[str, Ask] = {}
        """By log; a courier that is done with one head looks here for a newer one."""
        self.contradicted: Callable[[str], None] = lambda origin: None
        """Told when a witness says that it has another log of this origin."""
        self._errands = errands
        self._couriers: dict[tuple[str, str], Courier] = {}

    async def certificate(self, note: bytes, known: int, fresh: Sequence[bytes] = ()) -> bytes:
        """The certificate of a head of ours, as soon as a quorum has signed; tried until then.

        Args:
            note: the head; at most one of each log at a time.
            known: the certified size so far.
            fresh: the entries that follow it, if they are at hand.
        """
        ask = Ask(self.genesis, note, known, fresh)
        self.newest[ask.origin] = ask
        for name, _ in self.genesis.witnesses:
            courier = self._couriers.setdefault((name, ask.origin), Courier(self, name, ask.origin))
            courier.wake(self._errands)
        patience = TELL_S
        while True:
            try:
                async with asyncio.timeout(patience):
                    return await asyncio.shield(ask.certificate)
            except TimeoutError:
                self._tell(ask)
                patience = min(2 * patience, 60.0)

    def fail(self, origin: str, exc: LedgerError) -> None:
        """Give up the head that waits for its certificate."""
        ask = self.newest.get(origin)
        if ask is not None and not ask.certificate.done():
            ask.certificate.set_exception(exc)

    def _tell(self, ask: Ask) -> None:
        told = [f"witness {name}: {ask.problems.get(name, 'no answer yet')}" for name in ask.quorum.missing]
        log.warning(
            "not_certified",
            origin=ask.origin[-20:],
            size=ask.size,
            cosignatures=len(self.genesis.witnesses) - len(told),
            wanted=self.genesis.quorum,
            problems="; ".join(told),
        )


class Courier:
    """Keeps one witness up to date with one log of ours. Written only by its own task."""

    def __init__(self, cosigners: Cosigners, name: str, origin: str) -> None:
        self._of = cosigners
        self._name = name
        self._origin = origin
        self._size = 0
        """Entries that the witness has cosigned, as far as we know."""
        self._served: Ask | None = None
        self._failures = 0
        self._not_before = 0.0
        self._back_not_before = 0.0
        self._told = ""
        self._task: asyncio.Task[None] | None = None

    def wake(self, errands: Errands) -> None:
        """There is a newer head."""
        if self._task is None or self._task.done():
            self._task = errands.start(f"courier {self._name} {self._origin[-20:]}", self._work())

    async def _work(self) -> None:
        while (ask := self._of.newest[self._origin]) is not self._served:
            if (pause := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(pause)
                ask = self._of.newest[self._origin]
            try:
                ask.take(self._name, await self._deliver(ask))
            except (NetworkError, LedgerError) as exc:
                newest = self._of.newest[self._origin]
                self._failed(newest, exc)
                if newest.certificate.done():
                    return  # it gets the log with the next head, or replicates it
            else:
                self._served, self._size = ask, ask.size
                self._failures, self._not_before, self._told = 0, 0.0, ""

    def _failed(self, ask: Ask, exc: NetworkError | LedgerError) -> None:
        away = isinstance(exc, Unreachable)
        unknown = self._name not in self._of.witness_peers() and away  # waiting for its advert costs nobody anything
        self._failures = 1 if unknown else self._failures + 1
        pause = RETRY_S * min(8, 2 ** (self._failures - 1)) * (1 + self._of.jitter()) / 2
        self._not_before = time.monotonic() + pause
        ask.problems[self._name] = str(exc)
        if not away and exc.code != self._told:  # who is away is told of only where a quorum is missing
            self._told = exc.code
            log.warning("cosignature_missing", witness=self._name, origin=self._origin[-20:], reason=str(exc))
        if exc.code in CONTRADICTED:
            self._of.contradicted(self._origin)
        if exc.code == TermOver.code:
            ask.over.add(self._name)
            witnesses, quorum = len(self._of.genesis.witnesses), self._of.genesis.quorum
            if len(ask.over) > witnesses - quorum:
                self._of.fail(self._origin, TermOver(str(exc).removeprefix(f"{exc.code}: ")))

    async def _deliver(self, ask: Ask) -> bytes:
        """Send what the witness lacks, then the head; returns its line.

        Where one message does not hold all, each carries a head of its own that ends where its entries end, so that the
        witness keeps what it got.
        """
        if self._of.here is not None and self._name == self._of.here[0]:
            return await self._of.here[1](ask)
        peer = self._of.witness_peers().get(self._name)
        if peer is None:
            raise Unreachable("its peer is not known yet")
        start, furthest, detours, sent = max(self._size, ask.known), 0, 0, 0
        while True:
            at_hand = ask.fresh and start == ask.known
            entries = ask.fresh if at_hand else await self._of.storage.use(partial(_some, ask=ask, start=start))
            end, note = start + len(entries), ask.note
            if end < ask.size:
                note = await self._of.storage.use(partial(Store.head_at, origin=ask.origin, size=end, key=self._of.key))
            request = WitnessRequest(origin=ask.origin, start=start, entries=entries, note=note.decode())
            answer = WitnessAnswer.read(
                await self._of.network.call(peer, "ledger.cosign", request.body(), timeout_s=COSIGN_S)
            )
            sent += 1
            if answer.cosignature is not None:
                if end == ask.size:
                    return answer.cosignature.encode()
                start, furthest, detours = end, max(furthest, end), 0 if end > furthest else detours
            elif answer.behind is None or answer.behind >= start or detours == DETOURS:
                raise MessageInvalid(f"asks for entries from {answer.behind} on, was sent {start} to {end}")
            else:
                self._go_back(answer.behind)
                start, detours = answer.behind, detours + 1
            if sent >= LATE_MESSAGES and ask.certificate.done():
                raise Refused("FP-425", f"lacks the log from entry {start} on, which it has to replicate")

    def _go_back(self, behind: int) -> None:
        """A witness may have lost its disk; one that says so again and again is not sent the log again and again."""
        if behind < self._size:
            now = time.monotonic()
            if now < self._back_not_before:
                raise MessageInvalid(f"asks for entries from {behind} on again, of which it cosigned {self._size}")
            self._size, self._back_not_before = behind, now + BACK_S


def _some(store: Store, *, ask: Ask, start: int) -> list[str]:
    """Entries of a log from `start` on, as many as one message holds."""
    return message_of(store.entries(ask.origin, start, min(ask.size, start + MESSAGE_ENTRIES)))


def message_of(entries: Sequence[bytes], room: int = MESSAGE_BYTES) -> list[str]:
    """The first of these entries, as many as one message holds; at least one."""
    kept: list[str] = []
    for data in entries:
        room -= len(data) + data.count(b'"') + data.count(b"\\") + 3  # a string in JSON, and its comma
        if room < 0 and kept:
            break
        kept.append(data.decode())
    return kept
