"""Addresses of peers met before, kept so that a peer finds its network again without being told.

They are hints: an unusable file is forgotten, never fatal.

IO: one file of the home folder.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from peer.files import write_atomic

log = structlog.get_logger(__name__)

MOST = 16
LIMIT_BYTES = 16 * 1024
SAVE_S = 5.0


def load(path: Path) -> list[str]:
    """The addresses in the file; none where it is missing or damaged."""
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, at most {LIMIT_BYTES} are read")
        found = json.loads(path.read_bytes())
        if not isinstance(found, list) or not all(isinstance(item, str) and "/p2p/" in item for item in found):
            raise ValueError("not a list of addresses")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as exc:
        log.warning("addresses_forgotten", path=str(path), reason=str(exc))
        return []
    return found[:MOST]


async def keep(path: Path, recent: Callable[[int], Sequence[str]]) -> None:
    """Write what `recent(count)` says whenever it has changed; until cancelled."""
    saved: list[str] = []
    while True:
        await asyncio.sleep(SAVE_S)
        now = list(recent(MOST))
        if now and sorted(now) != sorted(saved):
            saved = now
            await asyncio.to_thread(write_atomic, path, json.dumps(now).encode())
