"""Peers that break the network's rules, by account, in the journals of the runs that we work on.

The network's events name peers; a person pays and is paid by accounts. Whoever offends again and again is told of once
a minute, so that this cannot fill the disk.

IO: the journals of runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import structlog

from peer.errors import BlobInvalid, Busy
from peer.network.rpc import Event
from peer.runs.run import Run

log = structlog.get_logger(__name__)

CODES = {"bad_chunk": BlobInvalid.CODE, "flood": Busy.CODE, "clock": "FP-313"}
"""The kinds of events that are offences, and their codes."""
AGAIN_S = 60.0
MOST_TOLD = 1024
WAITING = 256
MOST_CLOCKS = 64
LOOK_S = 1.0

Fields = dict[str, str | int | float]


class Offenders:
    """Who did what of late. Written only by the daemon's tasks."""

    def __init__(self, *, account_of: Callable[[str], str], runs: Callable[[], Iterable[Run]]) -> None:
        """`account_of` gives the account of a PeerID, or ""; `runs` are those that we work on."""
        self._account_of = account_of
        self._runs = runs
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._news: asyncio.Queue[Event] = asyncio.Queue(WAITING)
        self._clocks: OrderedDict[str, Fields] = OrderedDict()
        """By PeerID: those whose clocks are wrong, of whom runs that begin later are told, too."""
        self._knowing: set[str] = set()

    def noted(self, event: Event) -> None:
        """The network tells of something; what is no offence, or was told of just now, is passed over."""
        now, key = time.monotonic(), (event.kind, event.peer_id)
        again = self._told.get(key, float("-inf")) + AGAIN_S > now
        if event.kind not in CODES or again or self._news.full():
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        self._news.put_nowait(event)

    async def serve(self) -> None:
        """Write what is noted into the journals, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._told_of(await self._news.get())
            for run in list(self._runs()):
                if run.id not in self._knowing:
                    self._knowing.add(run.id)
                    for fields in self._clocks.values():
                        await self._tell(run, "clock", fields)

    async def _told_of(self, event: Event) -> None:
        account = self._account_of(event.peer_id)
        fields: Fields = {"account": account, **event.detail, "peer": event.peer_id, "code": CODES[event.kind]}
        log.warning(event.kind, **fields)
        if event.kind == "clock":
            self._clocks[event.peer_id] = fields
            if len(self._clocks) > MOST_CLOCKS:
                self._clocks.popitem(last=False)
        for run in list(self._runs()):
            if event.kind != "clock" or run.id in self._knowing:
                await self._tell(run, event.kind, fields)

    async def _tell(self, run: Run, kind: str, fields: Fields) -> None:
        if run.log.close is None:
            await run.journal.add(kind, **fields)
