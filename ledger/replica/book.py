"""Who says to have what: the heads and accusations of every peer that go beyond our own store, within bounds.

Pure: no IO; changed only by `ledger.replica`.
"""

from collections import OrderedDict
from collections.abc import Mapping

from .state import Log, Peer
from .values import Fact, Heads, Look, Settings

LOOKS = 4096
"""The most logs that are looked up at once."""
GRUDGES = 1024
"""How many blamed peers that left are remembered."""


class Book:
    """Peers, and the logs that they have and we lack."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.peers: dict[str, Peer] = {}
        """By name."""
        self.logs: dict[str, Log] = {}
        """By origin."""
        self.queue: OrderedDict[str, None] = OrderedDict()
        """Logs worth having that wait for a peer to be fetched from."""
        self._grudges: OrderedDict[str, tuple[int, float]] = OrderedDict()

    # ------------------------------------------------------------------ peers

    def joined(self, name: str, preferred: bool) -> None:
        """A peer can be asked now."""
        if name in self.peers:
            self.peers[name].preferred = preferred
        elif len(self.peers) < self._settings.peers:
            lies, not_before = self._grudges.pop(name, (0, 0.0))
            scan_s = self._settings.scan_s
            self.peers[name] = Peer(
                name=name, preferred=preferred, lies=lies, not_before=not_before, scan_at=0.0, scan_s=scan_s
            )

    def left(self, name: str) -> None:
        """A peer is gone, and with it what it said."""
        peer = self.peers.pop(name, None)
        if peer is None:
            return
        if peer.lies:
            self._grudges[name] = (peer.lies, peer.not_before)
            if len(self._grudges) > GRUDGES:
                self._grudges.popitem(last=False)
        for origin in [*peer.dull, *peer.wanted, *peer.accused]:
            if log := self.logs.get(origin):
                log.sources.pop(name, None)
                log.accusers.pop(name, None)
                self.settle(log)

    # ------------------------------------------------------------------ what they say

    def digest(self, peer: Peer, page: Heads, facts: Mapping[str, Fact]) -> bool:
        """Remember what of a page goes beyond our store; whether any of it is worth having."""
        use = False
        for origin, size in page.heads:
            fact = facts.get(origin)
            if fact is not None and size > fact.certified:
                use |= fact.worth
                self.raised(peer, self.logs.setdefault(origin, Log(origin=origin, fact=fact)), size)
        for origin in page.evidence:
            fact = facts.get(origin)
            if fact is not None and not fact.accused:
                use |= fact.worth
                log = self.logs.setdefault(origin, Log(origin=origin, fact=fact))
                log.accusers[peer.name] = None
                peer.accused[origin] = None
                peer.accused.move_to_end(origin)
        self._bound(peer)
        return use

    def _bound(self, peer: Peer) -> None:
        over = peer.remembers() - self._settings.heads
        if over > 0:
            idle = [origin for origin in (*peer.dull, *peer.wanted) if self.logs[origin].idle]
            peer.dropped = True
            for origin in idle[:over]:
                self.forget(peer, self.logs[origin])
        while len(peer.accused) > self._settings.heads:
            origin, _ = peer.accused.popitem(last=False)
            peer.dropped = True
            self.logs[origin].accusers.pop(peer.name, None)
            self.settle(self.logs[origin])

    def forget(self, peer: Peer, log: Log) -> None:
        """A peer has no more of a log than we, as far as we care."""
        log.sources.pop(peer.name, None)
        peer.dull.pop(log.origin, None)
        peer.wanted.pop(log.origin, None)
        self.settle(log)

    def raised(self, peer: Peer, log: Log, size: int) -> None:
        """A peer has so much of a log, or more than it said."""
        if size > max(log.fact.certified, log.sources.get(peer.name, 0)):
            log.sources[peer.name] = size
            kind = peer.wanted if log.fact.worth else peer.dull
            kind[log.origin] = None
            kind.move_to_end(log.origin)
            self.settle(log)

    def lowered(self, peer: Peer, log: Log, size: int) -> None:
        """A peer has less of a log than it said."""
        if log.sources.get(peer.name, 0) > size:
            log.sources[peer.name] = size
            self.learned(log, log.fact)

    def learned(self, log: Log, fact: Fact) -> None:
        """What our store says of a log that somebody mentioned."""
        log.fact = fact
        for name, size in list(log.sources.items()):
            peer = self.peers[name]
            if size <= fact.certified:
                self.forget(peer, log)
            elif fact.worth and log.origin in peer.dull:
                del peer.dull[log.origin]
                peer.wanted[log.origin] = None
        if fact.accused:
            for name in log.accusers:
                self.peers[name].accused.pop(log.origin, None)
            log.accusers.clear()
        self.settle(log)

    def settle(self, log: Log) -> None:
        """Queue the log, or take it off the queue, or forget it: as what is known of it says."""
        if log.fact.worth and log.idle and log.sources:
            self.queue[log.origin] = None
        else:
            self.queue.pop(log.origin, None)
        if not log.needed:
            self.logs.pop(log.origin, None)

    def dull(self) -> Look | None:
        """A question whether some of what was not worth having has become so, the longest unasked first."""
        found: dict[str, None] = {}
        for peer in self.peers.values():
            for kind in (peer.dull, peer.accused):
                for origin in list(kind)[: LOOKS // max(1, len(self.peers))]:
                    kind.move_to_end(origin)
                    found[origin] = None
        return Look(peer="", origins=tuple(found)) if found else None
