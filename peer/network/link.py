"""hivemind attached to one p2pd: unary calls as bytes, handlers as bytes, and a DHT node, all in our own event loop.

Everything here dies with its p2pd; `uplink` replaces the whole link. No stream handler is ever registered, so nobody
can send us a stream: one frame with a false length would otherwise fill the memory. The only file that imports
hivemind, and torch with it; import it late.

IO: sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from peer.errors import AddressInvalid, IdentityInvalid, Unreachable
from peer.network.limits import Allowance
from peer.network.p2pd import MESSAGE_LIMIT, P2pd
from peer.peerkey import public_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # hivemind imports torch.jit, which is deprecated
    from hivemind.dht import node as hivemind_node
    from hivemind.dht import protocol as hivemind_protocol
    from hivemind.dht import routing as hivemind_routing
    from hivemind.dht.node import DHTNode
    from hivemind.p2p import P2P, P2PContext, PeerID
    from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError, P2PHandlerError
    from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure
    from hivemind.utils import timed_storage
    from hivemind.utils.logging import use_hivemind_log_handler
    from hivemind.utils.multiaddr import Multiaddr
    from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

use_hivemind_log_handler("nowhere")
logging.getLogger("hivemind").addHandler(logging.NullHandler())  # never on stderr by itself
logging.getLogger("hivemind").setLevel(logging.ERROR)
log = logging.getLogger(__name__)

_DHT_REQUEST_LIMIT = 1 << 20
_DHT_KEYS_LIMIT = 8192
_DHT_TIMEOUT_S = 3.0
_MARGIN = 1 << 16
_LOST = (ConnectionError, asyncio.IncompleteReadError, P2PDaemonError, ControlFailure, OSError)

BytesHandler = Callable[[bytes, str], Awaitable[bytes]]
"""(request, PeerID of the caller) -> response."""


class Validator(Protocol):
    """hivemind's RecordValidatorBase, by shape."""

    def validate(self, record: Any) -> bool:
        """Whether to store or believe it."""

    def sign_value(self, record: Any) -> bytes:
        """The value to store."""

    def strip_value(self, record: Any) -> bytes:
        """The value to give to the application."""


def split_address(address: str) -> tuple[str, str]:
    """A multiaddress and the PeerID at its end.

    Raises:
        AddressInvalid: it does not parse, or does not end in `/p2p/<PeerID>`.
    """
    base, mark, peer_id = address.rpartition("/p2p/")
    try:
        if not mark or not base:
            raise ValueError("it does not end in /p2p/<PeerID>")
        Multiaddr(base)
        public_of(peer_id)
    except (ValueError, LookupError, MultiaddrError, IdentityInvalid) as exc:
        raise AddressInvalid(f"address {address!r}: {exc}", "copy it from `forge-peer id` of that peer") from exc
    return base, peer_id


def follow(clock: Callable[[], float]) -> None:
    """hivemind goes by this clock from now on, in the whole process: the time of the last network that was begun."""
    for module in (timed_storage, hivemind_node, hivemind_protocol, hivemind_routing):
        module.get_dht_time = clock


class Link:
    """One attachment to one p2pd."""

    def __init__(self, daemon: P2pd, p2p: Any, dht: Any) -> None:
        self.daemon = daemon
        self._p2p = p2p
        self._dht = dht
        self._lost = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, daemon: P2pd, prefix: str, validator: Validator, allowance: Allowance, client: bool = False
    ) -> AsyncIterator[Link]:
        """Attaches; `prefix` goes before the name of every DHT method, so that networks do not mix.

        A `client` asks the DHT and is no part of it: it will be gone soon.
        """
        kind = _private_p2p(daemon, prefix, allowance)
        p2p = await kind.replicate(Multiaddr(daemon.address))
        connector = p2p._client.control.daemon_connector
        connector.open_connection = _noting(connector.open_connection)
        p2p._client.control.persistent_conn_max_msg_size = MESSAGE_LIMIT - _MARGIN  # above p2pd's, it hangs up on us
        try:
            dht = await DHTNode.create(
                p2p=p2p,
                client_mode=client,
                record_validator=validator,
                wait_timeout=_DHT_TIMEOUT_S,
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
                cache_size=1,
            )
            dht.protocol.storage.maxsize = _DHT_KEYS_LIMIT
            try:
                yield cls(daemon, p2p, dht)
            finally:
                with contextlib.suppress(*_LOST, TimeoutError):
                    async with asyncio.timeout(1):
                        await dht.shutdown()
        finally:
            await _detach(p2p)

    @property
    def lost(self) -> bool:
        """Whether its p2pd is gone."""
        return bool(self._lost)

    def lose(self, reason: str) -> None:
        """p2pd is gone: every call that waits, and every later one, fails at once."""
        self._lost = reason
        for future in list(self._p2p._client.control._pending_calls.values()):
            if not future.done():
                future.set_exception(P2PDaemonError(reason))

    async def broken(self) -> str:
        """Returns why the link can no longer be used: p2pd died, or hung up on us."""
        dead = asyncio.ensure_future(self.daemon.wait())
        hung_up = self._p2p._client.control._read_task
        try:
            await asyncio.wait({dead, hung_up}, return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(1):
                return f"p2pd ended with status {await dead}"
        except TimeoutError:
            return "p2pd hung up"
        finally:
            dead.cancel()

    async def serve(self, protocol: str, handler: BytesHandler) -> None:
        """Registers a unary handler for a libp2p protocol name."""

        async def handle(request: bytes, remote: Any) -> bytes:
            return await handler(request, str(remote))

        await self._p2p._client.add_unary_handler(protocol, handle)

    async def call(self, peer_id: str, protocol: str, request: bytes) -> bytes:
        """One unary call; the caller sets the deadline.

        Raises:
            Unreachable: with libp2p's words.
        """
        if self._lost:
            raise Unreachable(f"peer {peer_id}: {self._lost}")
        try:
            reply: bytes = await self._p2p._client.call_unary_handler(PeerID.from_base58(peer_id), protocol, request)
        except (*_LOST, P2PHandlerError) as exc:
            raise Unreachable(f"peer {peer_id}: {_words(exc)}") from exc
        return reply

    async def connect(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Dials; raises Unreachable."""
        try:
            with _closing_what_it_opens():
                await self._p2p._client.connect(PeerID.from_base58(peer_id), [Multiaddr(item) for item in addresses])
        except _LOST as exc:
            raise Unreachable(f"peer {peer_id}: {_words(exc)}") from exc

    async def addresses(self) -> list[str]:
        """Our multiaddresses, PeerID included."""
        with _closing_what_it_opens():
            return [str(item) for item in await self._p2p.get_visible_maddrs(latest=True)]

    async def connected(self) -> list[str]:
        """PeerIDs with an open connection."""
        try:
            with _closing_what_it_opens():
                return [str(item.peer_id) for item in await self._p2p.list_peers()]
        except _LOST as exc:
            raise Unreachable(f"p2pd: {_words(exc)}") from exc

    async def join_dht(self, peer_id: str) -> bool:
        """Exchanges DHT ids with a connected peer and looks for our neighbours; False if it does not take part."""
        if await self._dht.protocol.call_ping(PeerID.from_base58(peer_id)) is None:
            return False
        await self._dht.find_nearest_nodes([self._dht.node_id])
        return True

    async def store(self, key: str, subkey: str, value: bytes, expires: float) -> bool:
        """Stores on the nearest nodes; False where a newer value was found or nobody took it."""
        return bool(await self._dht.store(key, value, expires, subkey=subkey))

    async def find(self, keys: Sequence[str]) -> dict[str, dict[str, bytes]]:
        """The newest sub-values under each key, as stored (validated by our own validator)."""
        found = await self._dht.get_many(keys, sufficient_expiration_time=float("inf"))
        result: dict[str, dict[str, bytes]] = {}
        for key, item in found.items():
            entries = item.value if item is not None and isinstance(item.value, dict) else {}
            result[key] = {subkey: entry.value for subkey, entry in entries.items()}
        return result


_opened: ContextVar[list[asyncio.StreamWriter] | None] = ContextVar("opened", default=None)


def _noting(connect: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """`connect`, but it notes its connection for `_closing_what_it_opens`."""

    async def open_connection() -> Any:
        reader, writer = await connect()
        noted = _opened.get()
        if noted is not None:
            noted.append(writer)
        return reader, writer

    return open_connection


@contextlib.contextmanager
def _closing_what_it_opens() -> Iterator[None]:
    """hivemind closes the connection of a control call only when p2pd has answered; ours may be given up before."""
    noted: list[asyncio.StreamWriter] = []
    token = _opened.set(noted)
    try:
        yield
    finally:
        _opened.reset(token)
        for writer in noted:
            writer.close()


def _words(exc: BaseException) -> str:
    text = str(exc).removeprefix("Connect failed. msg=").strip()
    return " ".join(text.split())[:300] or type(exc).__name__


async def _detach(p2p: Any) -> None:
    """Ends hivemind's two loops over the control socket and waits for them, so that nothing is left half closed."""
    control = p2p._client.control
    loops = [task for task in (control._read_task, control._write_task) if task is not None]
    handlers = list(control._handler_tasks.values())
    p2p._terminate()
    for task in handlers:
        task.cancel()
    await asyncio.gather(*loops, *handlers, return_exceptions=True)


def _private_p2p(daemon: P2pd, prefix: str, allowance: Allowance) -> Any:
    """A P2P class for this p2pd: private socket, DHT methods under our prefix and within the callers' allowance."""

    class PrivateP2P(P2P):  # type: ignore[misc]
        _UNIX_SOCKET_PREFIX = f"/unix{daemon.sockets}/"

        async def _add_protobuf_unary_handler(
            self, name: str, handler: Any, message: Any, balanced: bool = False
        ) -> None:
            async def guarded(request: bytes, remote: Any) -> bytes:
                caller, size = str(remote), len(request)
                if size > _DHT_REQUEST_LIMIT:
                    raise ValueError(f"a DHT request of {size} bytes, the limit is {_DHT_REQUEST_LIMIT}")
                allowance.enter(caller, size, time.monotonic())
                try:
                    context = P2PContext(handle_name=name, local_id=self.peer_id, remote_id=remote)
                    reply: bytes = (await handler(message.FromString(request), context)).SerializeToString()
                finally:
                    allowance.leave(caller, size, 0)
                return reply

            await self._client.add_unary_handler(prefix + name, guarded, balanced=balanced)

        async def _call_unary_protobuf_handler(self, peer_id: Any, name: str, request: Any, message: Any) -> Any:
            reply = await self._client.call_unary_handler(peer_id, prefix + name, request.SerializeToString())
            return message.FromString(reply)

    return PrivateP2P
