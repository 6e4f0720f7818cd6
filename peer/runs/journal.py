"""What happened in a run, for people: a file that only grows, and news to whoever follows.

IO: one file in the run's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

Event = dict[str, Any]


class Journal:
    """What happened in a run, one JSON line each, for people: history on disk, news to whoever follows."""

    def __init__(self, path: Path) -> None:
        """Take up the journal at `path`; a half-written last line is dropped."""
        self._path = path
        self._events: list[Event] = []
        self._torn = False
        """Whether the last line could not be written, so that the next begins on one of its own."""
        self._news = asyncio.Condition()
        if path.exists():
            whole, _, half = path.read_bytes().rpartition(b"\n")
            if half:
                os.truncate(path, len(whole) + 1 if whole else 0)
            for line in whole.split(b"\n"):
                with contextlib.suppress(ValueError):
                    self._events.append(json.loads(line))

    @property
    def events(self) -> list[Event]:
        """All events, oldest first."""
        return list(self._events)

    def last(self, name: str) -> Event | None:
        """The newest event of that name."""
        return next((event for event in reversed(self._events) if event["event"] == name), None)

    async def add(self, what: str, /, **fields: object) -> None:
        """Note that `what` happened."""
        event = {"event": what, "time": round(time.time(), 3), **fields}
        self._events.append(event)
        try:
            with self._path.open("a") as file:
                file.write("\n" * self._torn + json.dumps(event) + "\n")
            self._torn = False
        except OSError as exc:
            self._torn = True  # a part of the line may be there
            log.error("journal_not_written", path=str(self._path), happened=what, reason=str(exc))
        async with self._news:
            self._news.notify_all()

    async def follow(self, *, until_closed: bool) -> AsyncIterator[Event]:
        """All events so far; then, if `until_closed`, the news until the run is closed."""
        at, closed = 0, False
        while True:
            for event in self._events[at:]:
                at += 1
                closed = closed or event["event"] == "closed"
                yield event
            if closed or not until_closed:
                return
            async with self._news:
                await self._news.wait_for(lambda seen=at: len(self._events) > seen)  # type: ignore[misc]
