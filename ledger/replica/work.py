"""What the replica machine has under way: questions, fetches, and entries that wait to be stored; and what comes next.

Pure: no IO; changed only by `ledger.replica`.
"""

from random import Random

from .book import Book
from .state import Fetch, Log, Peer
from .values import Ask, Effect, EntriesOf, EvidenceOf, HeadsSince, Request, Settings, Take, TakeEvidence


class Work:
    """Everything under way, counted."""

    def __init__(self, book: Book, rng: Random, settings: Settings) -> None:
        self.fetching: dict[str, Log] = {}
        """Logs with a fetch, in the order in which they began."""
        self.held = 0
        """Bytes that are asked for or wait to be stored."""
        self._book, self._rng, self._settings = book, rng, settings
        self._ranges = 0

    # ------------------------------------------------------------------ ends

    def answered(self, name: str, request: Request) -> Peer | None:
        """The peer, if it was asked this and has not answered yet."""
        peer = self._book.peers.get(name)
        if peer is None or request not in peer.asked:
            return None
        del peer.asked[request]
        if isinstance(request, EntriesOf):
            self.hold(peer, -self._settings.answer_bytes)
            self._ranges -= 1
        return peer

    def taken(self, take: Take | TakeEvidence) -> Log | None:
        """The log, if this is what it waited for."""
        log = self._book.logs.get(take.origin)
        if isinstance(take, TakeEvidence):
            if log is None or log.asking is None:
                return None
            log.asking = None
            return log
        if log is None or log.taking is not take:
            return None
        log.taking = None
        if peer := self._book.peers.get(take.peer):
            self.hold(peer, -_room(take))
        else:
            self.held -= _room(take)
        return log

    def left(self, peer: Peer) -> None:
        """A peer goes: nothing of it is under way any more, but for what is being stored."""
        self.abandon(peer)
        for request in list(peer.asked):
            self.answered(peer.name, request)
            self.unasked(request)

    def unasked(self, request: Request) -> None:
        """A question for evidence came to nothing."""
        if isinstance(request, EvidenceOf) and (log := self._book.logs.get(request.origin)):
            log.asking = None
            self._book.settle(log)

    def abandon(self, peer: Peer) -> None:
        """Give up all that is being fetched from a peer; others may have it."""
        for log in [log for log in self.fetching.values() if log.fetch and log.fetch.peer == peer.name]:
            self.stop(log)

    def stop(self, log: Log) -> None:
        """Give up the fetch of a log; what is being stored goes on."""
        fetch, log.fetch = log.fetch, None
        self.fetching.pop(log.origin, None)
        if fetch is not None and (peer := self._book.peers.get(fetch.peer)):
            self.hold(peer, -sum(answer.room for answer in fetch.arrived.values()))
        self._book.settle(log)

    def hold(self, peer: Peer, size: int) -> None:
        """Count bytes that a peer makes us hold, or no longer does."""
        peer.pending_bytes += size
        self.held += size

    # ------------------------------------------------------------------ what comes next

    def ask(self, peer: Peer, request: Request) -> Ask:
        """Ask, and wait for the answer."""
        peer.asked[request] = None
        if isinstance(request, EntriesOf):
            self.hold(peer, self._settings.answer_bytes)
            self._ranges += 1
        return Ask(peer=peer.name, request=request)

    def heads(self, peer: Peer, now: float) -> list[Effect]:
        """Ask for heads, unless it is asked already, rests, or has us busy with what it said before."""
        busy = peer.page is not None or len(peer.wanted) > self._settings.heads // 2
        if busy or peer.not_before > now or any(isinstance(request, HeadsSince) for request in peer.asked):
            return []
        peer.page_at = None
        return [self.ask(peer, HeadsSince(instance=peer.instance, cursor=peer.cursor))]

    def next(self, now: float) -> list[Effect]:
        """All that the limits allow to begin."""
        self._assign(now)
        return self._ranges_due(now) + self._takes()

    def _free(self, peer: Peer, now: float) -> bool:
        """Whether one more range may be asked of a peer."""
        settings = self._settings
        asked = len(peer.asked) < settings.peer_requests and self._ranges < settings.requests
        return asked and peer.not_before <= now and not self._full(peer)

    def _full(self, peer: Peer) -> bool:
        """Whether one more answer might be more than we want to hold."""
        settings, size = self._settings, self._settings.answer_bytes
        return peer.pending_bytes + size > settings.peer_pending_bytes or self.held + size > settings.pending_bytes

    def _assign(self, now: float) -> None:
        """Give the logs that wait to peers that are free, each to one of the best."""
        if self._ranges >= self._settings.requests:
            return
        room = {name: self._settings.peer_requests for name, peer in self._book.peers.items() if self._free(peer, now)}
        for log in self.fetching.values():
            if log.fetch is not None and log.fetch.more() and log.fetch.peer in room:
                room[log.fetch.peer] -= 1
        for origin in list(self._book.queue):
            if len(self.fetching) >= self._settings.requests or not any(count > 0 for count in room.values()):
                return
            log = self._book.logs[origin]
            found = [self._book.peers[name] for name in log.sources if room.get(name, 0) > 0]
            if found and log.not_before <= now:
                peer = min(found, key=lambda peer: (peer.lies, peer.silent, self._rng.random()))
                room[peer.name] -= 1
                goal = log.sources[peer.name]
                log.fetch = Fetch(peer.name, goal, log.start, log.fact.certified)
                self.fetching[origin] = log
                self._book.settle(log)

    def _ranges_due(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for log in self.fetching.values():
            fetch = log.fetch
            assert fetch is not None  # that is what `fetching` holds
            peer = self._book.peers[fetch.peer]
            stuck = fetch.arrived and not fetch.asked and log.taking is None and fetch.due() is None
            if stuck and self._full(peer):  # what arrived keeps out what must come before it
                self.hold(peer, -sum(answer.room for answer in fetch.arrived.values()))
                fetch.again()
            while fetch.more() and self._free(peer, now):
                request = fetch.range(log.origin)
                if request in peer.asked:
                    fetch.asked[request] = 0  # a fetch that was given up asked for the same: its answer will do
                else:
                    fetch.asked[request] = fetch.goal
                    effects.append(self.ask(peer, request))
        return effects

    def _takes(self) -> list[Effect]:
        effects: list[Effect] = []
        for log in self.fetching.values():
            fetch = log.fetch
            assert fetch is not None
            start = fetch.due() if log.taking is None else None
            if start is not None:
                answer = fetch.arrived.pop(start)
                log.taking = Take(
                    peer=fetch.peer, origin=log.origin, start=start, entries=answer.entries,
                    certificate=answer.certificate, proof=answer.proof or None,
                )  # fmt: skip
                effects.append(log.taking)
        return effects

    def evidence(self, now: float) -> list[Effect]:
        """Ask for the proofs against the owners of logs that are worth having."""
        effects: list[Effect] = []
        for peer in self._book.peers.values():
            for origin in peer.accused if peer.not_before <= now else ():
                log = self._book.logs[origin]
                if len(peer.asked) >= self._settings.peer_requests:
                    break
                if log.fact.worth and log.asking is None:
                    log.asking = EvidenceOf(origin=origin)
                    effects.append(self.ask(peer, log.asking))
        return effects


def _room(take: Take) -> int:
    return sum(map(len, take.entries)) + 2 * len(take.entries)
