"""Whether this peer trains just now: `forge-peer pause` until a time or until `resume`, also over restarts.

While it is paused a run's member role ends: it says goodbye, delivers what it can of the open round and gives the
worker's memory back. The run's log is followed on, and everything else of the peer goes on: it serves blobs, cosigns,
and leads what it leads, for which its worker applies updates but does not train.

IO: the pause's file in the home; the member role; the run's journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from peer.absence import Absence
from peer.errors import ConfigError
from peer.files import write_atomic
from peer.runs.roles import AnyMember, AnyWorker

log = structlog.get_logger(__name__)

LOOK_S = 60.0
"""The clock may be set: so often it is asked again whether a pause is over."""


class Presence:
    """The volunteer's wish. Written only by `pause` and `resume`."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        """Take up what the file says.

        Raises:
            ConfigError: it is damaged.
        """
        self._file = file
        self._clock = clock
        self._changed = asyncio.Event()
        self._absence: Absence | None = None
        if file.exists():
            try:
                self._absence = Absence.decode(file.read_bytes())
            except ConfigError as exc:
                raise ConfigError(f"{file}: {exc.message}", "delete the file to train, then pause again") from exc

    @classmethod
    def of(cls, home: Path) -> Presence:
        """That of the peer with this home."""
        return cls(home / "paused.json")

    @property
    def absence(self) -> Absence | None:
        """The pause that lasts now."""
        over = self._absence is None or self._absence.over(self._clock())
        return None if over else self._absence

    @property
    def paused(self) -> bool:
        """Whether this peer must not train."""
        return self.absence is not None

    def pause(self, seconds: float | None) -> Absence:
        """Train no more for so long, or until `resume`; a new pause replaces the old one."""
        now = self._clock()
        self._absence = Absence(since=now, until=None if seconds is None else now + seconds)
        write_atomic(self._file, self._absence.encode())
        log.info("paused", until=self._absence.until or "resumed")
        self._tell()
        return self._absence

    def resume(self) -> bool:
        """Train again; returns whether there was a pause to end."""
        was = self.paused
        self._absence = None
        self._file.unlink(missing_ok=True)
        self._tell()
        return was

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def gone(self) -> Absence:
        """Wait until the peer is paused."""
        while (absence := self.absence) is None:
            await self._changed.wait()
        return absence

    async def back(self) -> None:
        """Wait until it is not."""
        while (absence := self.absence) is not None:
            left_s = absence.left_s(self._clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if left_s is None else min(left_s, LOOK_S)):
                    await self._changed.wait()


class Attendance:
    """One run's member role, while the peer is not paused; `serve` is its life."""

    def __init__(self, *, presence: Presence, member: AnyMember, worker: AnyWorker, leads: Callable[[], bool]) -> None:
        """`leads`: whether we lead the run just now with this very worker, which is needed then."""
        self._presence = presence
        self._member = member
        self._worker = worker
        self._leads = leads

    async def serve(self) -> None:
        """Take part whenever we are present, until the run is closed and its final state is here."""
        journal = self._member.run.journal
        while True:
            if (absence := self._presence.absence) is not None:
                await journal.add("paused", until=absence.until)
                if not self._leads():
                    await self._worker.close()
                if await self._away():
                    return
                await journal.add("resumed")
            if await self._present():
                return

    async def _present(self) -> bool:
        """Take part; returns whether that is over, else we are paused."""
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(self._member.serve())
            leaving = tasks.create_task(self._leave(serving))
            await asyncio.wait([serving])
            leaving.cancel()
        return not serving.cancelled()

    async def _leave(self, serving: asyncio.Task[None]) -> None:
        absence = await self._presence.gone()
        await self._member.leave("its volunteer paused it" + until_text(absence))
        serving.cancel()

    async def _away(self) -> bool:
        """Follow the log until we are back; returns whether nothing is left to do in the run."""
        run = self._member.run
        async with asyncio.TaskGroup() as tasks:
            back = tasks.create_task(self._presence.back())
            over = tasks.create_task(self._member.following.follow(until_closed=True))
            await asyncio.wait([back, over], return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            here = self._worker.newest_state() == (run.log.round, run.log.state)
            if run.log.close is not None and here:
                back.cancel()
                return True
        return False


def until_text(absence: Absence) -> str:
    """ " until …", as others are told it, or nothing."""
    if absence.until is None:
        return ""
    return time.strftime(" until %Y-%m-%d %H:%M UTC", time.gmtime(absence.until))
