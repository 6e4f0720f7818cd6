"""Tensors longer than a frame, in parts: gathered before a pass, handed out after it, within bounds and deadlines.

Every caller has a budget of bytes here, and what is not asked for in time is dropped.

Pure: time is an argument.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from peer.errors import Refused
from peer.wire import PAYLOAD_LIMIT

KEPT_S = 60.0
MOST_PARCELS = 64
"""Of one caller."""
TOO_MUCH, BAD = "FP-305", "FP-455"

Key = tuple[str, str]
"""Who called, and which call."""


def digest(*parts: bytes | memoryview) -> str:
    """What both sides compare: 32 hex digits of the SHA-256 over the parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:32]


def parts_of(size: int) -> int:
    """How many parts so many bytes travel in."""
    return max(1, -(-size // PAYLOAD_LIMIT))


@dataclass(kw_only=True)
class _Parcel:
    data: bytearray
    here: set[int] = field(default_factory=set)
    until: float = 0.0


class Parcels:
    """What is on its way to or from one replica's callers. Written only by its calls."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._parcels: dict[Key, _Parcel] = {}

    def put(self, key: Key, index: int, data: bytes, total: int, *, most_bytes: int, now: float) -> None:
        """Take a part of a parcel. Raises Refused where it is no part of it, or there is no room."""
        self._forget(now)
        parcel = self._parcels.get(key)
        start, wanted = index * PAYLOAD_LIMIT, min(PAYLOAD_LIMIT, total - index * PAYLOAD_LIMIT)
        known = parcel is None or (total == len(parcel.data) and index not in parcel.here)
        if len(data) != wanted or not known:
            raise Refused(BAD, f"part {index} of {total} bytes: {len(data)} bytes, wanted {max(wanted, 0)}, once")
        if parcel is None:
            self._room(key[0], total, most_bytes)
            parcel = self._parcels[key] = _Parcel(data=bytearray(total), until=now + KEPT_S)
        parcel.data[start : start + wanted] = data
        parcel.here.add(index)

    def keep(self, key: Key, data: bytes, *, now: float) -> None:
        """Have these bytes handed out in parts."""
        self._forget(now)
        self._parcels[key] = _Parcel(data=bytearray(data), until=now + KEPT_S)

    def take(self, key: Key, total: int) -> bytes:
        """A whole parcel, which is gone then. Raises Refused."""
        parcel = self._parcels.pop(key, None)
        if parcel is None or len(parcel.data) != total or len(parcel.here) != parts_of(total):
            here = len(parcel.here) if parcel is not None else 0
            raise Refused(BAD, f"{here} of {parts_of(total)} parts are here")
        return bytes(parcel.data)

    def part(self, key: Key, index: int) -> bytes:
        """A part of what is handed out; after the last one it is gone. Raises Refused."""
        parcel = self._parcels.get(key)
        if parcel is None or not 0 <= index < parts_of(len(parcel.data)):
            raise Refused(BAD, f"part {index} is not here")
        parcel.here.add(index)
        start = index * PAYLOAD_LIMIT
        data = bytes(parcel.data[start : start + PAYLOAD_LIMIT])
        if len(parcel.here) == parts_of(len(parcel.data)) - 1:  # the first came with the answer
            del self._parcels[key]
        return data

    def _room(self, caller: str, total: int, most_bytes: int) -> None:
        held = [len(parcel.data) for key, parcel in self._parcels.items() if key[0] == caller]
        if len(held) >= MOST_PARCELS or sum(held) + total > most_bytes:
            here = f"{len(held)} parcels of {sum(held)} bytes of yours are here"
            raise Refused(TOO_MUCH, f"{here}, {total} more do not fit")

    def _forget(self, now: float) -> None:
        for key in [key for key, parcel in self._parcels.items() if now >= parcel.until]:
            del self._parcels[key]
