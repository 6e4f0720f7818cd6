"""This peer on the network: calls to other peers and from them, the DHT, and joining; over one watched p2pd.

A peer of another network is refused, naming both. p2pd is started again when it dies; calls wait for it within their
deadlines. The context ends with TransportFailed if p2pd cannot be kept alive.

IO: sockets and the p2pd process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, TypeVar

from ledger.genesis import Genesis
from peer.config import Settings
from peer.errors import DeadlineExceeded, ForgeError, RecordInvalid, Refused, Unreachable, WrongNetwork
from peer.identity import Home, PeerIdentity
from peer.network.bootstrap import Bootstrap
from peer.network.clock import NetworkClock
from peer.network.contacts import Contacts
from peer.network.hello import HELLO, Hello, check_hello
from peer.network.limits import Allowance, Limits
from peer.network.p2pd import P2pdOptions
from peer.network.rpc import (
    Body,
    BytesHandler,
    Dispatcher,
    Events,
    Handler,
    OnEvent,
    deadline,
    log_event,
    read_request,
    write_request,
)
from peer.network.shaper import patience_s
from peer.network.traffic import Traffic
from peer.network.uplink import Uplink, split_address
from peer.network.validator import RecordValidator
from peer.records import Record
from peer.wire import Reply, pack_reply, unpack_reply

if TYPE_CHECKING:
    from peer.network.link import Link

HELLO_PROTOCOL = "/p2p-llm-forge/hello/1"
CONNECT_TIMEOUT_S = 15.0
DHT_TIMEOUT_S = 10.0

R = TypeVar("R", bound=Record)


class Network:
    """Made by `start`; every method may be called from any task of its loop."""

    def __init__(
        self, identity: PeerIdentity, genesis: Genesis, on_event: OnEvent, limits: Limits, client: bool, line: Traffic
    ) -> None:
        self.identity = identity
        self.genesis = genesis
        self.emit = Events(on_event)
        """Tells the operator something."""
        self.allowance = Allowance(limits)
        self.traffic = line
        """What goes over our line, and its caps."""
        self.dispatcher = Dispatcher(self.allowance, self.emit, line)
        self._prefix = f"/p2p-llm-forge/{genesis.id[:16]}/"
        self._rpc = self._prefix + "rpc/1"
        self.clock = NetworkClock(self.emit)
        self._validator = RecordValidator(genesis.id, self.clock.now, own=identity.account)
        self._hello_dispatcher = Dispatcher(self.allowance, self.emit)
        self._hello_dispatcher.add(HELLO, self._on_hello, 0)
        self._contacts = Contacts()
        self._bootstrap = Bootstrap(self, self.emit)
        self._addresses: list[str] = []
        self._uplink = Uplink(
            prefix=self._prefix, validator=self._validator, allowance=self.allowance,
            attach=self._attach, on_event=self.emit, client=client, clock=self.clock.now,
        )  # fmt: skip

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        *,
        home: Home,
        identity: PeerIdentity,
        genesis: Genesis,
        settings: Settings,
        bootstrap: Iterable[str] = (),
        known: Iterable[str] = (),
        on_event: OnEvent = log_event,
        limits: Limits | None = None,
        client: bool = False,
    ) -> AsyncIterator[Network]:
        """Runs p2pd and joins the network; `home` must be locked by this process.

        `bootstrap` adds to the addresses of the settings; `known` are those of peers met before, tried quietly;
        a `client` takes no part in the DHT.

        Raises:
            TransportFailed: p2pd does not start, or cannot be kept alive later.
            WrongNetwork: those that answered at the bootstrap addresses belong to other networks.
            Unreachable: nobody answered there and `settings.require_bootstrap` is set.
            AddressInvalid: a bootstrap address that is none.
        """
        line = Traffic(upload_mbit=settings.upload_mbit, download_mbit=settings.download_mbit)
        self = cls(identity, genesis, on_event, limits or Limits(), client, line)
        addresses = self._bootstrap.take([*settings.bootstrap, *bootstrap])
        self._bootstrap.take(known, quiet=True)
        options = P2pdOptions(listen=settings.listen, announce=settings.announce, relay=settings.relay)
        try:
            async with asyncio.TaskGroup() as tasks:
                works = [tasks.create_task(self._uplink.run(home.p2pd_pid_file, identity.peer_key_file, options))]
                try:
                    await self._uplink.link()
                    if addresses:
                        await self._bootstrap.first(settings.bootstrap_timeout_s, settings.require_bootstrap)
                    works.append(tasks.create_task(self._bootstrap.keep()))
                    yield self
                finally:
                    for task in works:
                        task.cancel()
        except BaseExceptionGroup as group:  # the task group wraps what the body or p2pd's keeper raised
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from group.exceptions[0].__cause__
            raise

    async def _attach(self, link: Link) -> list[str]:
        """Makes a new link ours; returns our addresses."""
        await link.serve(HELLO_PROTOCOL, self._hello_dispatcher.answer)
        await link.serve(self._rpc, self.dispatcher.answer)
        self._addresses = await link.addresses()
        self._bootstrap.wake()
        return self._addresses

    # ------------------------------------------------------------------ who we are

    @property
    def peer_id(self) -> str:
        """Our PeerID."""
        return self.identity.peer_id

    async def addresses(self) -> list[str]:
        """Our multiaddresses, PeerID included, as others may use them."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(2):
                self._addresses = await (await self._uplink.link()).addresses()
        return list(self._addresses)

    async def connected(self) -> list[str]:
        """PeerIDs with an open connection just now."""
        async with deadline("p2pd", 5.0):
            return await (await self._uplink.link()).connected()

    # ------------------------------------------------------------------ calls

    def serve(self, method: str, handler: Handler, *, reply_bytes: int = 1 << 16) -> None:
        """Serves a method to every peer of this network; before or after the start."""

        async def handle(caller: str, body: Body, payload: bytes) -> Reply:
            if payload:
                raise Refused("FP-307", f"method {method!r} takes no payload, got {len(payload)} bytes")
            return Reply(await handler(caller, body))

        self.dispatcher.add(method, handle, reply_bytes)

    def serve_bytes(
        self, method: str, handler: BytesHandler, *, reply_bytes: int = 1 << 20, bulk: bool = False
    ) -> None:
        """Serves a method whose requests or answers carry raw bytes; those of a `bulk` one wait for all others."""
        self.dispatcher.add(method, handler, reply_bytes, bulk=bulk)

    async def call(self, peer_id: str, method: str, body: Body, *, timeout_s: float = 10.0) -> Body:
        """Asks a peer; our own PeerID is answered here.

        Raises:
            Refused: it answered with an error, whose code this is.
            Unreachable, DeadlineExceeded, WrongNetwork, Oversize, MessageInvalid.
        """
        return (await self.exchange(peer_id, method, body, timeout_s=timeout_s)).body

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = b"", timeout_s: float = 10.0, expects: int = 0
    ) -> Reply:
        """`call` with raw bytes beside both bodies, of which at most `expects` come; they lengthen the deadline."""
        frame = write_request(method, body, payload, timeout_s)
        if peer_id == self.peer_id:
            return await self._here(frame, timeout_s, method)

        async def send() -> bytes:
            async with deadline(f"peer {peer_id}: {method}", timeout_s + patience_s(len(frame) + expects)):
                return await self._send(peer_id, self._rpc, frame)

        return unpack_reply(await self.traffic.exchange(peer_id, len(frame), expects, send))

    async def _here(self, frame: bytes, timeout_s: float, method: str) -> Reply:
        """A call to ourselves: no network and no limits, the same encoding and the same errors."""
        try:
            async with deadline(f"here: {method}", timeout_s):
                request, payload = read_request(frame)
                return unpack_reply(pack_reply(await self.dispatcher.run(self.peer_id, request, payload)))
        except (Refused, DeadlineExceeded):
            raise
        except ForgeError as exc:
            raise Refused(exc.code, exc.message, exc.fix) from exc

    async def _send(self, peer_id: str, protocol: str, frame: bytes) -> bytes:
        link = await self._uplink.link()
        try:
            return await link.call(peer_id, protocol, frame)
        except Unreachable as exc:
            if link.lost:
                raise  # p2pd died under the call; whether the other side acted on it is unknown
            if "protocols not supported" in exc.message and protocol != HELLO_PROTOCOL:
                await self._hello(link, peer_id)  # raises WrongNetwork where that is the reason
                raise
            addresses = self._contacts.of(peer_id)
            if addresses is None or "stream reset" in exc.message:
                raise
            await link.connect(peer_id, addresses)  # p2pd forgot, or never knew, the way; nothing was sent yet
            return await link.call(peer_id, protocol, frame)

    # ------------------------------------------------------------------ joining

    async def connect(self, address: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
        """Dials an address, compares networks, joins its DHT; returns the PeerID.

        Raises:
            AddressInvalid, Unreachable, WrongNetwork.
        """
        base, peer_id = split_address(address)
        if peer_id == self.peer_id:
            return peer_id
        async with deadline(address, timeout_s):
            link = await self._uplink.link()
            await link.connect(peer_id, [base])
            await self._hello(link, peer_id)
            self._contacts.remember(peer_id, [address])
            await link.join_dht(peer_id)
        return peer_id

    async def hello(self, peer_id: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Hello:
        """Who a peer is: network, rules, and the account bound to its PeerID, verified.

        Raises:
            Unreachable, WrongNetwork, IdentityInvalid.
        """
        async with deadline(f"peer {peer_id}: hello", timeout_s):
            return await self._hello(await self._uplink.link(), peer_id)

    async def _hello(self, link: Link, peer_id: str) -> Hello:
        frame = write_request(HELLO, self._own_hello().body(), b"", CONNECT_TIMEOUT_S)
        try:
            reply = unpack_reply(await link.call(peer_id, HELLO_PROTOCOL, frame))
        except Refused as exc:
            raise (WrongNetwork(exc.message) if exc.code == WrongNetwork.CODE else exc) from exc
        hello = check_hello(Hello.read(reply.body), peer_id, self.genesis)
        self._contacts.remember(peer_id, hello.addresses)
        self.clock.compare(hello, dialed=True)
        return hello

    def _own_hello(self) -> Hello:
        return Hello.of(self.genesis, self.identity.binding, self._addresses, self.clock.now())

    async def _on_hello(self, caller: str, body: Body, payload: bytes) -> Reply:
        hello = check_hello(Hello.read(body), caller, self.genesis)
        self._contacts.remember(caller, hello.addresses)
        self.clock.compare(hello, dialed=False)
        return Reply(self._own_hello().body())

    def recent(self, count: int) -> list[str]:
        """Addresses of the peers that we learnt of last, one each."""
        return self._contacts.recent(count)

    # ------------------------------------------------------------------ records

    async def publish(self, record: Record) -> bool:
        """Stores a signed record until it expires; False where nobody took it or a newer one is there."""
        async with deadline("DHT store", DHT_TIMEOUT_S):
            link = await self._uplink.link()
            return await link.store(record.key, record.subkey, record.encode(), float(record.expires))

    async def lookup(self, kind: type[R]) -> list[R]:
        """Every record of a kind that can be found; each is verified again, the rest is left out."""
        async with deadline("DHT lookup", DHT_TIMEOUT_S):
            found = await (await self._uplink.link()).find(kind.keys(self.genesis.id))
        records: list[R] = []
        for entries in found.values():
            for subkey, value in entries.items():
                with contextlib.suppress(RecordInvalid):
                    record = self._validator.read(kind, value)
                    if isinstance(record, kind) and record.subkey == subkey:
                        records.append(record)
                        if addresses := getattr(record, "addresses", None):
                            self._contacts.remember(record.peer_id, list(addresses))
        return records
