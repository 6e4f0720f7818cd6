"""One direction of our line under a cap: small messages go at once and are counted, bulk waits for its turn.

Bulk is sent in pieces of at most a twentieth of a second of the cap, and peers take turns by the bytes that they had.
So no second holds more than the cap and a piece, beside the small messages, and no long transfer delays another.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from peer.errors import Busy
from peer.network.limits import Bucket

PIECES_PER_S = 20
LEAST_PIECE_BYTES = 1024
MOST_PIECE_BYTES = 1 << 20
"""A whole chunk of a blob."""
SMALL_BYTES = 16 << 10
"""A frame of at most so much goes before all bulk, unless its method is bulk by nature."""
FLOOR_BYTES_PER_S = 8 << 10
"""Who is slower than this is given up; deadlines grow with sizes at this rate."""


def patience_s(size: int) -> float:
    """How much longer a deadline must be because of so many bytes on a line that is slow, but not too slow."""
    return size / FLOOR_BYTES_PER_S


@dataclass(eq=False)
class Turn:
    """Bulk that waits; owned by `Shaper`."""

    peer: str
    size: int


class Shaper:
    """Says when which bulk may go."""

    def __init__(self, bytes_per_s: float, now: float, *, most_waiting: int = 64, most_of_one: int = 8) -> None:
        """`most_waiting`: turns that may wait when their number is bounded, `most_of_one` of them of one peer."""
        self.piece_bytes = min(MOST_PIECE_BYTES, max(LEAST_PIECE_BYTES, int(bytes_per_s / PIECES_PER_S)))
        """Bulk is to be sent in pieces of at most so much."""
        self._burst = max(float(LEAST_PIECE_BYTES), bytes_per_s / PIECES_PER_S)
        self._bucket = Bucket(bytes_per_s, self._burst, now)
        self._most_waiting, self._most_of_one = most_waiting, most_of_one
        self._waiting: dict[str, deque[Turn]] = {}
        self._had: dict[str, float] = {}
        """By peer: the share of the line that it had, on one scale for all (start-time fair queueing)."""
        self._level = 0.0

    def count(self, size: int) -> None:
        """Bytes that went without a turn, or were given back where negative: bulk waits the longer for them."""
        self._bucket.owe(size)

    def ask(self, peer: str, size: int, *, bounded: bool = True) -> Turn:
        """Bulk that wants to go; `give` tells when it may.

        Raises:
            Busy: too much waits already, of this peer or of all, and the caller wants that bounded.
        """
        waiting = self._waiting.get(peer, ())
        if bounded and (len(waiting) >= self._most_of_one or self.waiting >= self._most_waiting):
            raise Busy(f"peer {peer}: {len(waiting)} of {self.waiting} pieces that wait for the line are its own")
        turn = Turn(peer, size)
        self._waiting.setdefault(peer, deque()).append(turn)
        return turn

    def drop(self, turn: Turn) -> None:
        """Whoever asked does not want it any more."""
        waiting = self._waiting.get(turn.peer)
        if waiting is not None and turn in waiting:
            waiting.remove(turn)
            if not waiting:
                del self._waiting[turn.peer]

    def give(self, now: float) -> list[Turn]:
        """Those whose turn it is, in order."""
        given: list[Turn] = []
        while self._waiting:
            peer = min(self._waiting, key=lambda name: max(self._level, self._had.get(name, 0.0)))
            turn = self._waiting[peer][0]
            if self._bucket.take(min(turn.size, self._burst), now) > 0.0:
                break
            self._bucket.owe(max(0.0, turn.size - self._burst))
            self.drop(turn)
            self._level = max(self._level, self._had.get(peer, 0.0))
            self._had[peer] = self._level + turn.size
            given.append(turn)
        self._had = {name: had for name, had in self._had.items() if had > self._level}
        return given

    def wait_s(self, now: float) -> float | None:
        """Seconds until `give` has something; None while nobody waits."""
        if not self._waiting:
            return None
        peer = min(self._waiting, key=lambda name: max(self._level, self._had.get(name, 0.0)))
        return self._bucket.lacks(min(self._waiting[peer][0].size, self._burst), now)

    @property
    def waiting(self) -> int:
        """How many turns wait."""
        return sum(map(len, self._waiting.values()))
