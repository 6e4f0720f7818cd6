"""What goes over our line in both directions: counted, and held to the caps that the volunteer has set.

IO: waits on the event loop's clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from peer.network.shaper import MOST_PIECE_BYTES, SMALL_BYTES, Shaper, Turn

BYTES_PER_MBIT = 125_000


class Lane:
    """One direction of the line."""

    def __init__(self, mbit: float) -> None:
        """At most so many Mbit/s; 0 for no cap."""
        self.bytes = 0
        """All that went this way."""
        self._shaper = Shaper(mbit * BYTES_PER_MBIT, time.monotonic()) if mbit else None
        self._waiting: dict[Turn, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def piece_bytes(self) -> int:
        """Bulk goes in pieces of at most so much."""
        return self._shaper.piece_bytes if self._shaper is not None else MOST_PIECE_BYTES

    def count(self, size: int) -> None:
        """So much went, or less than was waited for where negative."""
        self.bytes += size
        if self._shaper is not None:
            self._shaper.count(size)

    async def turn(self, peer: str, size: int, *, bounded: bool = False) -> None:
        """Wait until so much bulk to or from this peer may go; it is counted here.

        Raises:
            Busy: too much waits already; only where that is to be bounded.
        """
        if self._shaper is not None:
            turn = self._shaper.ask(peer, size, bounded=bounded)
            waiting = self._waiting[turn] = asyncio.get_running_loop().create_future()
            try:
                self._give()
                await waiting
            finally:
                del self._waiting[turn]
                self._shaper.drop(turn)
        self.bytes += size

    async def send(self, peer: str, size: int, *, bulk: bool, bounded: bool = False) -> None:
        """`turn` for what is bulk by its nature or size, else `count`."""
        if bulk or size > SMALL_BYTES:
            await self.turn(peer, size, bounded=bounded)
        else:
            self.count(size)

    def _give(self) -> None:
        assert self._shaper is not None
        now = time.monotonic()
        for turn in self._shaper.give(now):
            if not self._waiting[turn].done():
                self._waiting[turn].set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self._shaper.wait_s(now)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._give) if wait_s is not None else None


class Traffic:
    """Both directions."""

    def __init__(self, *, upload_mbit: float = 0.0, download_mbit: float = 0.0) -> None:
        """At most so many Mbit/s each way; 0 for no cap."""
        self.up = Lane(upload_mbit)
        self.down = Lane(download_mbit)

    async def exchange(self, peer: str, sent: int, expects: int, call: Callable[[], Awaitable[bytes]]) -> bytes:
        """One call of ours, made when the line is free for it.

        Args:
            sent: bytes that we send.
            expects: most bytes of bulk that may come; waited for beforehand. Bulk that comes without is paid for later.
            call: makes the call; its deadline begins there.
        """
        if expects:
            await self.down.turn(peer, expects)
        got = 0
        try:
            await self.up.send(peer, sent, bulk=False)
            answer = await call()
            got = len(answer)
        finally:
            announced = expects or got <= SMALL_BYTES
            self.down.count((got if announced else 0) - expects)
        if not announced:
            await self.down.turn(peer, got)
        return answer
