"""The network's time: our clock, corrected where it is far from those of the peers that we join through.

Records expire by wall time, so a peer whose clock is off by minutes would believe nobody and be believed by nobody.
Only peers that we chose to dial correct us; whoever dials us is only told of. Rounds, terms and leases go by monotonic
clocks.

Pure: the wall clock is an argument.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from statistics import median_high, median_low

from peer.network.hello import Hello
from peer.network.rpc import Event, OnEvent

TOLERANCE_S = 45.0
"""Clocks that differ by less do no harm: records live longer than that."""
_DIALED = 64


class NetworkClock:
    """What time it is, as far as the network is concerned."""

    def __init__(self, tell: OnEvent, wall: Callable[[], float] = time.time) -> None:
        """`tell` is told of clocks that are far from ours; `wall` is this machine's, Unix time in seconds."""
        self._tell = tell
        self._wall = wall
        self._offsets: OrderedDict[str, float] = OrderedDict()

    def now(self) -> float:
        """Unix time in seconds."""
        return self._wall() + self.offset_s

    @property
    def offset_s(self) -> float:
        """How far ahead of ours the clocks of those we dialed are; 0 while that does no harm."""
        if not self._offsets:
            return 0.0
        offsets = list(self._offsets.values())
        middle = min(median_low(offsets), median_high(offsets), key=abs)
        return middle if abs(middle) > TOLERANCE_S else 0.0

    def compare(self, hello: Hello, *, dialed: bool) -> None:
        """A peer says what time it is; `dialed`: we chose to ask it."""
        if not hello.time:
            return
        apart = hello.time - self.now()
        if dialed:
            self._offsets[hello.peer_id] = hello.time - self._wall()
            self._offsets.move_to_end(hello.peer_id)
            if len(self._offsets) > _DIALED:
                self._offsets.popitem(last=False)
        if abs(apart) <= TOLERANCE_S:
            return
        reason = f"clock of peer {hello.peer_id} differs by {span(apart)}"
        if dialed and self.offset_s:
            reason += f"; ours is taken to be {span(-self.offset_s)} until it is set right"
        detail: dict[str, str | int | float] = {"account": hello.account, "offset_s": round(apart), "reason": reason}
        self._tell(Event(kind="clock", peer_id=hello.peer_id, detail=detail))


def span(seconds: float) -> str:
    """A signed time for people: +3.0 h, -4.2 min."""
    size, unit = (3600, "h") if abs(seconds) >= 3600 else (60, "min")
    return f"{seconds / size:+.1f} {unit}"
