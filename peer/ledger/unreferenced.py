"""How much room strangers' logs get at a witness: logs that no certified entry refers to are worth nothing to anybody.

Anyone may begin a log, since making a key costs nothing. So what one peer brings of such logs is bounded per day, and
what all bring together is too. A log that a certified entry names (as payee, source, leader or member) is not counted.

Pure: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.errors import Unreferenced

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Room:
    """What fits into one day."""

    logs: int = 64
    """New logs of one peer."""
    size_bytes: int = 4 << 20
    """Entries of one peer, in all such logs."""
    all_logs: int = 4096
    """New logs of all peers together."""
    all_bytes: int = 256 << 20
    """Entries of all peers together."""


class _Account:
    def __init__(self) -> None:
        self.origins: set[str] = set()
        self.size_bytes = 0


class Strangers:
    """What was brought since the day began."""

    def __init__(self, room: Room = Room(), now: float = 0.0) -> None:
        self._room = room
        self._since = now
        self._callers: dict[str, _Account] = {}
        self._logs = 0
        self._bytes = 0

    def admit(self, caller: str, origin: str, size_bytes: int, now: float) -> None:
        """Check that there is room for entries that a peer brings of a log that nothing refers to.

        Args:
            caller: who brings them.
            origin: the log.
            size_bytes: size of the entries that are new here.
            now: seconds on any clock that does not jump.

        Raises:
            Unreferenced: there is none.
        """
        if now - self._since >= DAY_S:
            self._since, self._callers, self._logs, self._bytes = now, {}, 0, 0
        room, known = self._room, self._callers.get(caller) or _Account()
        new = origin not in known.origins
        uses = (
            (len(known.origins) + new, room.logs, "such logs of this peer"),
            (known.size_bytes + size_bytes, room.size_bytes, "bytes of such logs of this peer"),
            (self._logs + new, room.all_logs, "such logs of all peers"),
            (self._bytes + size_bytes, room.all_bytes, "bytes of such logs of all peers"),
        )
        for wanted, limit, what in uses:
            if wanted > limit:
                raise Unreferenced(
                    f"{origin}: no certified entry refers to it, and this witness takes {limit} {what} a day; "
                    "have credits sent to its account or run first, or come again tomorrow"
                )

    def count(self, caller: str, origin: str, size_bytes: int) -> None:
        """They are stored now."""
        known = self._callers.setdefault(caller, _Account())
        self._logs += origin not in known.origins
        known.origins.add(origin)
        known.size_bytes += size_bytes
        self._bytes += size_bytes
