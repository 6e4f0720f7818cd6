"""Staying on the network: the addresses to join through, tried at start and again, with back-off, while we run.

IO: through the network that it is given.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from peer.errors import AddressInvalid, ForgeError, Unreachable, WrongNetwork
from peer.network.rpc import Event, OnEvent

CHECK_S = 30.0
"""How often connections to bootstrap peers are looked at."""
MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
TRY_S = 15.0
"""How long one try may take."""
_REJOIN_PEERS = 8
_REJOIN_S = 5.0


class Dialer(Protocol):
    """What is needed of a network."""

    @property
    def peer_id(self) -> str:
        """Our PeerID."""

    async def connect(self, address: str, *, timeout_s: float = ...) -> str:
        """Dials, compares networks, joins the DHT."""

    async def connected(self) -> list[str]:
        """PeerIDs with an open connection."""

    def recent(self, count: int) -> list[str]:
        """Addresses of peers that we know."""


@dataclass
class _Target:
    """One address; owned by `Bootstrap`."""

    address: str
    peer_id: str
    quiet: bool = False
    """Known from last time, not given: it may be gone for good, and nobody wants to hear of it."""
    joined: bool = False
    failures: int = 0
    next_try: float = 0.0
    error: ForgeError | None = None


class Bootstrap:
    """Keeps us connected to the addresses we were given."""

    def __init__(self, network: Dialer, on_event: OnEvent) -> None:
        self._network = network
        self._on_event = on_event
        self._targets: list[_Target] = []
        self._wake = asyncio.Event()
        self._alone = False

    def take(self, addresses: Iterable[str], *, quiet: bool = False) -> list[str]:
        """Remembers addresses; `quiet` ones are tried without a word. Raises AddressInvalid: no PeerID at the end."""
        for address in dict.fromkeys(addresses):
            peer_id = address.rpartition("/p2p/")[2]
            if "/p2p/" not in address:
                raise AddressInvalid(f"bootstrap address {address!r}: it does not end in /p2p/<PeerID>")
            if all(target.address != address for target in self._targets):
                self._targets.append(_Target(address=address, peer_id=peer_id, quiet=quiet))
        return [target.address for target in self._targets if not target.quiet]

    def wake(self) -> None:
        """p2pd was started again: every connection is gone."""
        for target in self._targets:
            target.joined, target.next_try = False, 0.0
        self._alone = True
        self._wake.set()

    async def first(self, timeout_s: float, required: bool) -> None:
        """One try of every given address, before the peer does anything else.

        Raises:
            WrongNetwork: whoever answered belongs to another network.
            Unreachable: nobody answered, and that is required.
            AddressInvalid: a malformed address.
        """
        given = [target for target in self._targets if not target.quiet]
        await asyncio.gather(*(self._try(target, timeout_s) for target in given))
        others = [target for target in given if target.peer_id != self._network.peer_id]
        if not others or any(target.joined for target in others):
            return
        for kind in (AddressInvalid, WrongNetwork):
            for target in others:
                if isinstance(target.error, kind):
                    raise target.error
        if required:
            tried = "; ".join(f"{target.address}: {target.error.message if target.error else ''}" for target in others)
            fix = "is that peer running, and is this its present address?"
            raise Unreachable(f"no bootstrap peer answers: {tried}", fix)

    async def keep(self) -> None:
        """Until cancelled: joins again what is lost, with back-off."""
        while True:
            if self._alone:
                self._alone = False
                await self._rejoin()
            now = time.monotonic()
            await self._look()
            due = [target for target in self._targets if not target.joined and target.next_try <= now]
            await asyncio.gather(*(self._try(target, TRY_S) for target in due))
            waits = [target.next_try - time.monotonic() for target in self._targets if not target.joined]
            self._wake.clear()
            try:
                async with asyncio.timeout(max(0.05, min([CHECK_S, *waits])) if self._targets else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _rejoin(self) -> None:
        """After a restart of p2pd: back to the peers we knew; whether they are still there does not matter."""
        recent = self._network.recent(_REJOIN_PEERS)
        dials = [self._network.connect(address, timeout_s=_REJOIN_S) for address in recent]
        for outcome in await asyncio.gather(*dials, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ForgeError):
                raise outcome

    async def _look(self) -> None:
        if not any(target.joined for target in self._targets):
            return
        try:
            connected = set(await self._network.connected())
        except Unreachable:
            return
        for target in self._targets:
            if target.joined and target.peer_id not in connected and target.peer_id != self._network.peer_id:
                target.joined = False
                self._tell(target, "bootstrap_lost")

    async def _try(self, target: _Target, timeout_s: float) -> None:
        try:
            await self._network.connect(target.address, timeout_s=timeout_s)
        except ForgeError as exc:
            target.error = exc
            wait_s = min(MAX_RETRY_S, MIN_RETRY_S * 2**target.failures) * random.uniform(0.8, 1.2)
            target.failures += 1
            target.next_try = time.monotonic() + wait_s
            kind = "bootstrap_refused" if isinstance(exc, WrongNetwork) else "bootstrap_unreachable"
            self._tell(target, kind, reason=exc.message, retry_s=round(wait_s, 1))
            return
        target.joined, target.failures, target.error = True, 0, None
        if target.peer_id != self._network.peer_id:
            self._tell(target, "bootstrap_joined")

    def _tell(self, target: _Target, kind: str, **detail: str | float) -> None:
        if not target.quiet:
            self._on_event(Event(kind=kind, peer_id=target.peer_id, detail={"address": target.address, **detail}))
