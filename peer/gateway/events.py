"""Server-sent events: one JSON object per event, a comment as heartbeat, and an end marker when the stream is complete.

A reader that sees no `: end` knows that the stream was cut short.

IO: awaits the events' source; touches nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse

HEARTBEAT_S = 10.0
HEARTBEAT = b": beat\n\n"
END = b": end\n\n"

Event = Mapping[str, Any]


def encode(event: Event) -> bytes:
    """One event as it goes over the wire."""
    return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


async def frames(source: AsyncIterator[Event], closing: asyncio.Event) -> AsyncIterator[bytes]:
    """The source's events with heartbeats while it is silent; stops without the end marker when the gateway closes."""
    closed = asyncio.ensure_future(closing.wait())
    upcoming = asyncio.ensure_future(anext(source, None))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming, closed}, timeout=HEARTBEAT_S, return_when="FIRST_COMPLETED")
            if upcoming in done:
                event = upcoming.result()
                if event is None:
                    yield END
                    return
                yield encode(event)
                upcoming = asyncio.ensure_future(anext(source, None))
            elif closed in done:
                return
            else:
                yield HEARTBEAT
    finally:
        for task in (upcoming, closed):
            task.cancel()
        await asyncio.wait({upcoming, closed})
        if not upcoming.cancelled():
            upcoming.exception()  # seen: the stream is over, nobody is left to tell
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


def stream(source: AsyncIterator[Event], closing: asyncio.Event) -> StreamingResponse:
    """The HTTP answer that carries the source."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames(source, closing), media_type="text/event-stream", headers=headers)
