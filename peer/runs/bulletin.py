"""What heartbeats are answered with: only what the member does not know yet, and of many peers a few.

A member says which updates of the open round it heard of and which peers it knows; so an answer has the news only. Of
many peers each member is told those that follow it in the order of their PeerIDs: its own part of the group, which
changes only when one of them comes or goes.

Pure: values in, messages out.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterable, Sequence

from peer.messages import MOST_PEERS_TOLD, MOST_UPDATES_TOLD, Beat, News


class Bulletin:
    """The updates of the open round that the leader has and found sound. Written only by the leader role."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._round = 0
        self._updates: list[str] = []

    def arrived(self, round_number: int, update: str) -> None:
        """The leader has an update of this round."""
        if round_number > self._round:
            self._round, self._updates = round_number, []
        if round_number == self._round and update not in self._updates:
            self._updates.append(update)

    def news(self, beat: Beat, *, caller: str, size: int, signed: int, peers: Iterable[str]) -> News:
        """What the member may not know yet.

        Args:
            beat: its heartbeat.
            caller: its PeerID.
            size: of the certified log.
            signed: with what of its tail members may go by.
            peers: who takes part just now.
        """
        heard = beat.heard if beat.round == self._round else 0
        near = neighbours(caller, peers)
        return News(
            size=size,
            signed=signed,
            round=self._round,
            updates=self._updates[heard : heard + MOST_UPDATES_TOLD],
            peers=None if beat.peers == digest(near) else near,
        )


def neighbours(caller: str, peers: Iterable[str]) -> list[str]:
    """Those of many peers that one of them is told of, sorted."""
    others = sorted(set(peers) - {caller})
    at = bisect(others, caller)
    return sorted([*others[at:], *others[:at]][:MOST_PEERS_TOLD])


def digest(peers: Sequence[str]) -> str:
    """16 hex digits that differ where the peers differ; empty for nobody."""
    return hashlib.sha256("\n".join(peers).encode()).hexdigest()[:16] if peers else ""
