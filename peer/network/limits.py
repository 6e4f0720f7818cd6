"""How much one remote peer may ask of us: a token bucket of requests and of bytes, and what it may hold in flight.

The table itself is bounded: the peer that was quiet for longest is forgotten first.

Pure: time is an argument.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from peer.errors import Busy


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one remote peer may ask; the defaults let a leader serve blobs at loopback speed."""

    requests_per_s: float = 2000.0
    """Sustained rate of requests."""
    burst_requests: float = 4000.0
    """Requests that may come at once after a quiet time."""
    bytes_per_s: float = 1 << 30
    """Sustained rate of bytes, requests and replies together."""
    burst_bytes: float = 1 << 30
    """Bytes that may come at once after a quiet time."""
    in_flight: int = 64
    """Requests of one peer that are being handled at the same time."""
    in_flight_bytes: int = 32 << 20
    """Bytes of one peer's requests and replies that are held in memory at the same time."""
    total_in_flight_bytes: int = 256 << 20
    """The same for all peers together."""
    peers: int = 4096
    """Size of the table."""


FLOOD = 100
"""So many refused requests of one peer are told to the operator."""
FLOOD_AGAIN_S = 60.0


class Bucket:
    """A token bucket that starts full."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """Takes the tokens and returns 0, or takes none and returns the seconds until they will be there."""
        if wait_s := self.lacks(amount, now):
            return wait_s
        self._tokens -= amount
        return 0.0

    def lacks(self, amount: float, now: float) -> float:
        """Seconds until so many tokens will be there; 0 if they are."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
        return max(0.0, amount - self._tokens) / self._rate

    def owe(self, amount: float) -> None:
        """Takes tokens that are already spent, below zero where needed; gives back where negative."""
        self._tokens -= amount


class _Remote:
    def __init__(self, limits: Limits, now: float) -> None:
        self.requests = Bucket(limits.requests_per_s, limits.burst_requests, now)
        self.bytes = Bucket(limits.bytes_per_s, limits.burst_bytes, now)
        self.count = 0
        self.held_bytes = 0
        self.refused = 0
        self.told_at = float("-inf")


class Allowance:
    """Counts what every remote peer uses."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._remotes: OrderedDict[str, _Remote] = OrderedDict()
        self._held_bytes = 0
        self.refused = 0
        """Requests refused since the start."""

    def enter(self, peer_id: str, size: int, now: float) -> None:
        """Admits a request of `size` bytes; every admitted one must `leave`.

        Raises:
            Busy: with what is used up.
        """
        remote = self._remote(peer_id, now)
        limits = self._limits
        reason = ""
        if remote.count >= limits.in_flight:
            reason = f"{remote.count} requests in flight, the limit is {limits.in_flight}"
        elif remote.held_bytes + size > limits.in_flight_bytes:
            reason = f"{remote.held_bytes} + {size} bytes in flight, the limit is {limits.in_flight_bytes}"
        elif self._held_bytes + size > limits.total_in_flight_bytes:
            reason = f"{self._held_bytes} bytes of all peers in flight, the limit is {limits.total_in_flight_bytes}"
        elif wait_s := remote.requests.take(1, now):
            reason = f"more than {limits.requests_per_s:g} requests/s; try again in {wait_s:.2f} s"
        elif wait_s := remote.bytes.take(size, now):
            reason = f"more than {limits.bytes_per_s:g} bytes/s; try again in {wait_s:.2f} s"
        if reason:
            self.refused += 1
            remote.refused += 1
            raise Busy(f"peer {peer_id}: {reason}")
        remote.count += 1
        remote.held_bytes += size
        self._held_bytes += size

    def flood(self, peer_id: str, now: float) -> int:
        """How many requests of this peer were refused since it was asked last; 0 while that is not worth telling."""
        remote = self._remotes.get(peer_id)
        if remote is None or remote.refused < FLOOD or now < remote.told_at + FLOOD_AGAIN_S:
            return 0
        refused, remote.refused, remote.told_at = remote.refused, 0, now
        return refused

    def leave(self, peer_id: str, size: int, reply_bytes: int) -> None:
        """The request is answered."""
        self._held_bytes -= size
        remote = self._remotes.get(peer_id)
        if remote is not None:
            remote.count -= 1
            remote.held_bytes -= size
            remote.bytes.owe(reply_bytes)

    @contextlib.contextmanager
    def reserve(self, peer_id: str, size: int) -> Iterator[None]:
        """Holds memory for a reply; raises Busy. Only between `enter` and `leave`."""
        remote = self._remotes.get(peer_id)
        held = remote.held_bytes if remote is not None else 0
        if held + size > self._limits.in_flight_bytes or self._held_bytes + size > self._limits.total_in_flight_bytes:
            self.refused += 1
            raise Busy(f"peer {peer_id}: {held} + {size} bytes in flight, the limit is {self._limits.in_flight_bytes}")
        self._held_bytes += size
        if remote is not None:
            remote.held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size
            if remote is not None:
                remote.held_bytes -= size

    def _remote(self, peer_id: str, now: float) -> _Remote:
        remote = self._remotes.get(peer_id)
        if remote is None:
            remote = self._remotes[peer_id] = _Remote(self._limits, now)
            self._forget()
        self._remotes.move_to_end(peer_id)
        return remote

    def _forget(self) -> None:
        if len(self._remotes) > self._limits.peers:
            idle = next((name for name, remote in self._remotes.items() if remote.count == 0), None)
            if idle is not None:
                del self._remotes[idle]
