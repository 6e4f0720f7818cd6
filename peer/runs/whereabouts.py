"""Where a run's leader is: of those who may lead, the one that answered last; when it fails, the next one is tried.

Pure: no IO, no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Whereabouts:
    """Which of a run's leaders we speak to. Written only by the member's heart."""

    def __init__(self, leaders: Sequence[str], peer_of: Callable[[str], str | None]) -> None:
        """`leaders` are accounts in the spec's order; `peer_of` gives an account's PeerID while it is known."""
        self._leaders = leaders
        self._peer_of = peer_of
        self._at = 0

    @property
    def account(self) -> str:
        """The leader that we speak to."""
        return self._leaders[self._at]

    @property
    def peer(self) -> str | None:
        """Its PeerID, if that is known just now."""
        return self._peer_of(self.account)

    def next(self) -> None:
        """It does not lead, or does not answer: try the next one whose peer is known."""
        for step in range(1, len(self._leaders) + 1):
            at = (self._at + step) % len(self._leaders)
            if self._peer_of(self._leaders[at]) is not None:
                self._at = at
                return
