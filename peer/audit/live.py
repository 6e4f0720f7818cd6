"""Asks live witnesses on behalf of `forge-ledger`, from a peer that exists for these questions only.

It has a temporary home, keys and p2pd of its own, listens on loopback, publishes nothing and serves nothing. Signed
adverts in the DHT show who is a witness; its answers are checked in form here and in substance by the caller.

IO: a p2pd process, sockets and a temporary folder, while a method runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ledger import notes
from ledger.errors import LedgerError
from ledger.genesis import Genesis
from ledger.live import Head, Tail, WitnessView
from ledger.replica.values import HEADS, EntriesOf, Heads, HeadsSince
from peer.config import Settings
from peer.errors import ForgeError, MessageInvalid, Unreachable
from peer.identity import Home
from peer.ledger.messages import METHODS, answer_of, body_of
from peer.messages import HeadAnswer, HeadQuery, TailAnswer, TailQuery
from peer.network.network import Network
from peer.network.rpc import Body
from peer.records import PeerAdvert, Record
from peer.wire import Reply

JOIN_S = 15.0
"""How long joining may take."""
LOOK_S = 0.3
"""Pause between two looks for adverts."""
AT_ONCE = 16
"""Questions to one witness at a time."""
MAX_PAGES = 300
"""Answers that one list or log may take."""
MAX_TAIL_BYTES = 1 << 28
"""The most bytes of entries that are taken from one witness."""

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class Asker(Protocol):
    """What is needed of a network."""

    async def call(self, peer_id: str, method: str, body: Body, *, timeout_s: float = ...) -> Body:
        """Asks a peer."""

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = ..., timeout_s: float = ...
    ) -> Reply:
        """Asks a peer, raw bytes beside the bodies."""

    async def lookup(self, kind: type[R]) -> list[R]:
        """Records in the DHT."""


class LiveWitnesses:
    """The plug-in `live` of `forge-ledger`; see `ledger.live.Live`."""

    def heads(
        self, genesis: Genesis, bootstrap: Sequence[str], sizes: Mapping[str, int], timeout_s: float
    ) -> dict[str, WitnessView]:
        """What every witness has of these logs, and how far that is from here."""

        async def ask(network: Asker) -> dict[str, WitnessView]:
            return await heads_of(network, genesis, sizes, timeout_s)

        return _run(genesis, bootstrap, ask)

    def entries(
        self, genesis: Genesis, bootstrap: Sequence[str], starts: Mapping[str, int], timeout_s: float
    ) -> dict[str, dict[str, Tail]]:
        """By log and witness, the entries of these logs from their starts on."""

        async def ask(network: Asker) -> dict[str, dict[str, Tail]]:
            return await tails_of(network, genesis, starts, timeout_s)

        return _run(genesis, bootstrap, ask)


def _run(genesis: Genesis, bootstrap: Sequence[str], ask: Callable[[Asker], Awaitable[T]]) -> T:
    async def work() -> T:
        async with _joined(genesis, bootstrap) as network:
            return await ask(network)

    try:
        return asyncio.run(work())
    except ForgeError as exc:
        raise LedgerError(exc.code, exc.message + (f"; {exc.fix}" if exc.fix else "")) from exc


@contextlib.asynccontextmanager
async def _joined(genesis: Genesis, bootstrap: Sequence[str]) -> AsyncIterator[Network]:
    if not bootstrap:
        raise Unreachable("no address to join the network through", "give one: --bootstrap ADDRESS, see forge-peer id")
    with tempfile.TemporaryDirectory(prefix="forge-audit-") as folder:
        home = Home(Path(folder))
        settings = Settings(home=home.path, require_bootstrap=True, bootstrap_timeout_s=JOIN_S)
        with home.lock():
            identity = home.identity()
            async with Network.start(
                home=home, identity=identity, genesis=genesis, settings=settings, bootstrap=bootstrap, client=True
            ) as network:
                yield network


# ---------------------------------------------------------------------- witnesses


async def witnesses(network: Asker, genesis: Genesis, timeout_s: float) -> dict[str, str]:
    """Witness name → PeerID, for those whose advert is found in time; the newest advert counts."""
    names = {public: name for name, public in genesis.witnesses}
    found: dict[str, PeerAdvert] = {}
    until = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(Unreachable):
            for advert in await network.lookup(PeerAdvert):
                known = found.get(advert.witness)
                if advert.witness in names and (known is None or known.expires <= advert.expires):
                    found[advert.witness] = advert
        if len(found) == len(names) or time.monotonic() + LOOK_S > until:
            return {names[public]: advert.peer_id for public, advert in found.items()}
        await asyncio.sleep(LOOK_S)


async def heads_of(
    network: Asker, genesis: Genesis, sizes: Mapping[str, int], timeout_s: float
) -> dict[str, WitnessView]:
    """Ask all witnesses at once; see `Live.heads`."""

    async def view(peer: str) -> WitnessView:
        theirs = await _sizes(network, peer, timeout_s)

        async def head(origin: str) -> Head:
            return await _head(network, peer, origin, sizes[origin], timeout_s)

        return WitnessView(heads=await _each(sizes, head), sizes=theirs)

    return await _ask_all(network, genesis, timeout_s, view, lambda error: WitnessView(error=error))


async def tails_of(
    network: Asker, genesis: Genesis, starts: Mapping[str, int], timeout_s: float
) -> dict[str, dict[str, Tail]]:
    """Ask all witnesses at once; see `Live.entries`."""
    found: dict[str, dict[str, Tail]] = {}
    for origin, start in starts.items():

        async def tail(peer: str, origin: str = origin, start: int = start) -> Tail:
            return await _tail(network, peer, origin, start, timeout_s)

        found[origin] = await _ask_all(network, genesis, timeout_s, tail, lambda error: Tail(error=error))
    return found


async def _ask_all(
    network: Asker,
    genesis: Genesis,
    timeout_s: float,
    ask: Callable[[str], Awaitable[T]],
    failed: Callable[[str], T],
) -> dict[str, T]:
    """What each witness of the genesis answers, or how it failed."""
    peers = await witnesses(network, genesis, timeout_s)

    async def one(name: str) -> T:
        peer = peers.get(name)
        if peer is None:
            return failed("no advert of it is in the network: it is not running, or cannot be reached from here")
        try:
            async with asyncio.timeout(timeout_s):
                return await ask(peer)
        except TimeoutError:
            return failed(f"no whole answer within {timeout_s:g} s")
        except (ForgeError, LedgerError) as exc:
            return failed(exc.message)

    names = [name for name, _ in genesis.witnesses]
    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


async def _each(origins: Iterable[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """One question per log, some at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(origin: str) -> tuple[str, T]:
        async with room:
            return origin, await ask(origin)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(origin)) for origin in origins]
    except* (ForgeError, LedgerError) as failures:
        raise failures.exceptions[0] from None
    return dict(task.result() for task in tasks)


# ---------------------------------------------------------------------- questions


async def _sizes(network: Asker, peer: str, timeout_s: float) -> dict[str, int]:
    """The certified sizes of all logs of a peer."""
    sizes: dict[str, int] = {}
    request = HeadsSince(instance="", cursor=0)
    for _ in range(MAX_PAGES):
        reply = await network.exchange(peer, METHODS[HeadsSince], body_of(request), timeout_s=timeout_s)
        page = answer_of(request, reply)
        assert isinstance(page, Heads)  # the answer to such a request is one
        sizes.update(page.heads)
        if len(page.heads) < HEADS or (page.instance, page.cursor) == (request.instance, request.cursor):
            return sizes
        request = HeadsSince(instance=page.instance, cursor=page.cursor)
    raise MessageInvalid(f"peer {peer}: its list of logs does not end")


async def _head(network: Asker, peer: str, origin: str, size: int, timeout_s: float) -> Head:
    body = await network.call(peer, "ledger.head", HeadQuery(origin=origin).body(), timeout_s=timeout_s)
    found = HeadAnswer.read(body)
    proof: tuple[bytes, ...] = ()
    if size and _size(found.certificate) > size:
        request = EntriesOf(origin=origin, start=size - 1, end=size)
        answer = answer_of(
            request, await network.exchange(peer, METHODS[EntriesOf], body_of(request), timeout_s=timeout_s)
        )
        certificate: Any = getattr(answer, "certificate", b"")
        if _size(certificate.decode()) > size:  # it may have grown since
            found = found.model_copy(update={"certificate": certificate.decode()})
            proof = tuple(getattr(answer, "proof", ()))
    return Head(certificate=found.certificate.encode(), promised=found.promised.encode(), proof=proof)


async def _tail(network: Asker, peer: str, origin: str, start: int, timeout_s: float) -> Tail:
    body = await network.call(peer, "ledger.head", HeadQuery(origin=origin).body(), timeout_s=timeout_s)
    head = HeadAnswer.read(body)
    certified, promised = _size(head.certificate), _size(head.promised)
    take = _promised if promised > certified else _certified
    entries: list[bytes] = []
    note, size, room = (head.promised or head.certificate), max(certified, promised), MAX_TAIL_BYTES
    if certified >= promised:
        note = head.certificate
    for _ in range(MAX_PAGES):
        if start + len(entries) >= size:
            found = tuple(entries[: max(0, size - start)])
            return Tail(entries=found, note=note.encode(), certificate=head.certificate.encode())
        page, note = await take(network, peer, origin, start + len(entries), timeout_s)
        size, room = _size(note), room - sum(map(len, page))
        if not page or room < 0:
            break
        entries += page
    raise MessageInvalid(f"peer {peer}: sent {len(entries)} entries of {origin} from {start} on, its head is at {size}")


async def _promised(network: Asker, peer: str, origin: str, at: int, timeout_s: float) -> tuple[list[bytes], str]:
    body = TailQuery(origin=origin, start=at).body()
    found = TailAnswer.read(await network.call(peer, "ledger.tail", body, timeout_s=timeout_s))
    if (found.origin, found.start) != (origin, at):
        raise MessageInvalid(f"peer {peer}: sent entries from {found.start} on of {found.origin}, asked for {origin}")
    return [entry.encode() for entry in found.entries], found.promised


async def _certified(network: Asker, peer: str, origin: str, at: int, timeout_s: float) -> tuple[list[bytes], str]:
    request = EntriesOf(origin=origin, start=at, end=2**53 - 1)
    answer: Any = answer_of(
        request, await network.exchange(peer, METHODS[EntriesOf], body_of(request), timeout_s=timeout_s)
    )
    return list(answer.entries), answer.certificate.decode()


def _size(note: str) -> int:
    """The size that a head states; 0 where there is none.

    Raises:
        NoteInvalid: it is no head.
    """
    return notes.checkpoint(notes.parse(note.encode())).size if note else 0
