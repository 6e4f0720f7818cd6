"""Keeps one p2pd alive and us attached to it: started again when it dies, on the same port, with everything registered.

IO: the p2pd process and its sockets.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from peer.errors import TransportFailed
from peer.files import write_atomic
from peer.network.limits import Allowance
from peer.network.p2pd import P2pd, P2pdOptions, check_ports
from peer.network.rpc import Event, OnEvent

if TYPE_CHECKING:
    from peer.network.link import Link, Validator

_ATTEMPTS = 5
"""Failures in a row before giving up."""
_STABLE_S = 30.0
"""A p2pd that lived for so long was no failure."""


class Uplink:
    """The owner of the link; `run` is its only writer."""

    def __init__(
        self,
        *,
        prefix: str,
        validator: Validator,
        allowance: Allowance,
        attach: Callable[[Link], Awaitable[list[str]]],
        on_event: OnEvent,
        client: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`attach` registers everything on a new link and returns our addresses; the DHT goes by `clock`."""
        self._prefix = prefix
        self._validator = validator
        self._allowance = allowance
        self._attach = attach
        self._on_event = on_event
        self._client = client
        self._clock = clock
        self._link: Link | None = None
        self._linked = asyncio.Event()

    async def link(self) -> Link:
        """The live link; waits while p2pd is being started. The caller sets the deadline."""
        while self._link is None:
            await self._linked.wait()
        return self._link

    async def run(self, pid_file: Path, key_file: Path, options: P2pdOptions) -> None:
        """Until cancelled.

        Raises:
            TransportFailed: the first start fails, or several later ones in a row.
        """
        failures, first = 0, True
        port_file = pid_file.with_name("port")
        options = replace(options, listen=_last_port(options.listen, port_file))
        while True:
            began = time.monotonic()
            try:
                options, reason = await self._once(pid_file, key_file, options, port_file)
                first = False
            except TransportFailed as exc:
                if first:
                    raise
                reason = exc.message
            failures = 1 if time.monotonic() - began > _STABLE_S else failures + 1
            if failures > _ATTEMPTS:
                raise TransportFailed(f"p2pd failed {failures} times in a row, at last: {reason}")
            self._on_event(Event(kind="p2pd_lost", detail={"reason": reason, "failures": failures}))
            await asyncio.sleep(min(5.0, 0.05 * 2**failures))

    async def _once(
        self, pid_file: Path, key_file: Path, options: P2pdOptions, port_file: Path
    ) -> tuple[P2pdOptions, str]:
        """One p2pd from start to death; returns the options to start the next one with, and why it died."""
        module = import_module("peer.network.link")  # imports hivemind and torch: seconds
        module.follow(self._clock)
        kind = module.Link
        async with (
            P2pd.start(pid_file=pid_file, key_file=key_file, options=options) as p2pd,
            kind.open(p2pd, self._prefix, self._validator, self._allowance, self._client) as link,
        ):
            addresses = await self._attach(link)
            listen = same_ports(options.listen, addresses)
            write_atomic(port_file, json.dumps(listen).encode())
            self._link = link
            self._linked.set()
            try:
                reason: str = await link.broken()
            finally:
                self._link = None
                self._linked.clear()
                link.lose("p2pd is gone")
        return replace(options, listen=listen), reason


def split_address(address: str) -> tuple[str, str]:
    """A multiaddress and the PeerID at its end; raises AddressInvalid."""
    parts: tuple[str, str] = import_module("peer.network.link").split_address(address)
    return parts


def same_ports(listen: tuple[str, ...], addresses: list[str]) -> tuple[str, ...]:
    """What to listen on next time: port 0 becomes the port that the system chose, so that others find us again."""
    ports = [word for address in addresses if (word := _tcp_port(address))]
    chosen = ports[0] if len(set(ports)) == 1 else "0"
    return tuple(re.sub(r"/tcp/0(?=/|$)", f"/tcp/{chosen}", item) for item in listen)


def _last_port(listen: tuple[str, ...], port_file: Path) -> tuple[str, ...]:
    """Where we listened last time, if that fits what is asked now and is still free: others know that address."""
    try:
        last = json.loads(port_file.read_bytes())
        if [re.sub(r"/tcp/[0-9]+", "/tcp/0", item) for item in last] == list(listen):
            check_ports(tuple(last))
            return tuple(last)
    except (OSError, ValueError, TypeError, TransportFailed):
        pass
    return listen


def _tcp_port(address: str) -> str:
    found = re.search(r"/tcp/([0-9]+)/p2p/[^/]+$", address)
    return found[1] if found else ""
