"""The replica machine: whom to ask for which heads and entries, so that connected honest replicas come to agree.

It asks random peers what changed since it last asked, looks up what its store lacks of that and is worth having,
fetches each such log from one peer at a time in ranges, several at once, and hands them on in order to be checked and
stored. A peer that fails is left alone for a while, one that lies for longer, and its logs are asked of others. What
peers can make it remember or hold is bounded. Whoever runs it carries out the effects and says how each ended.

Pure: time and randomness are arguments; no input raises.
"""

from collections.abc import Mapping
from random import Random

from .book import Book
from .state import Log, Peer
from .values import (
    Accusation,
    Answer,
    Blame,
    Effect,
    Entries,
    EntriesOf,
    EvidenceOf,
    Fact,
    Heads,
    HeadsSince,
    Look,
    Request,
    Settings,
    State,
    Take,
    TakeEvidence,
)
from .work import Work

FEW_PEERS = 8
"""With more peers than this, not everybody asks a preferred one every time."""


class Replica:
    """Anti-entropy of one store with its peers."""

    def __init__(self, rng: Random, settings: Settings | None = None) -> None:
        self.deadline = 0.0
        """When to call `tick`, if nothing happens before."""
        self._rng = rng
        self._settings = settings or Settings()
        self._book = Book(self._settings)
        self._work = Work(self._book, rng, self._settings)
        self._now = 0.0
        self._poll_at = 0.0
        self._pause_s = self._settings.quick_s
        self._rest_until = 0.0

    @property
    def state(self) -> State:
        """The machine at a glance."""
        peers = self._book.peers.values()
        return State(
            peers=len(peers),
            resting=sum(peer.not_before > self._now for peer in peers),
            remembered=len(self._book.logs),
            wanted=len(self._book.queue),
            fetching=len(self._work.fetching),
            requests=sum(len(peer.asked) for peer in peers),
            pending_bytes=self._work.held,
        )

    # ------------------------------------------------------------------ inputs

    def peer_joined(self, peer: str, now: float, preferred: bool = False) -> list[Effect]:
        """A peer can be asked from now on; `preferred` ones are likely to know the newest heads."""
        self._book.joined(peer, preferred)
        return self._go(now)

    def peer_left(self, peer: str, now: float) -> list[Effect]:
        """A peer cannot be asked any more."""
        if known := self._book.peers.get(peer):
            self._work.left(known)
            self._book.left(peer)
        return self._go(now)

    def tick(self, now: float) -> list[Effect]:
        """Time passed, or something changed here: ask what is due."""
        return self._work.evidence(now) + self._go(now)

    def receive(self, peer: str, request: Request, answer: Answer, now: float) -> list[Effect]:
        """A peer answered; an answer that was not asked for, or comes twice, changes nothing."""
        known = self._work.answered(peer, request)
        if known is None:
            return []
        effects: list[Effect] = []
        if isinstance(request, HeadsSince) and isinstance(answer, Heads):
            known.failures, known.page = 0, answer
            named = dict.fromkeys([*(origin for origin, _ in answer.heads), *answer.evidence])
            effects.append(Look(peer=peer, origins=tuple(named)))
        elif isinstance(request, EntriesOf) and isinstance(answer, Entries):
            effects += self._entries(known, request, answer, now)
        elif isinstance(request, EvidenceOf) and isinstance(answer, Accusation) and answer.items:
            effects.append(TakeEvidence(peer=peer, origin=request.origin, items=answer.items))
        else:
            self._work.unasked(request)
            effects += self._blame(known, f"gave no answer to {type(request).__name__}", now)
        return effects + self._go(now)

    def failed(self, peer: str, request: Request, reason: str, now: float, *, lie: bool = False) -> list[Effect]:
        """A peer did not answer; `lie`: it answered what no honest peer answers."""
        known = self._work.answered(peer, request)
        if known is None:
            return []
        self._work.unasked(request)
        if lie:
            return [*self._blame(known, reason, now), *self._go(now)]
        if isinstance(request, HeadsSince):
            known.failures += 1
        else:
            known.silent += 1
        settings, tries = self._settings, max(known.failures, known.silent)
        self._rest(known, min(settings.most_retry_s, settings.retry_s * 2.0 ** min(tries - 1, 30)), now)
        self._work.abandon(known)
        return self._go(now)

    def looked(self, look: Look, facts: Mapping[str, Fact], now: float) -> list[Effect]:
        """What our store knows of the logs of a `Look`; those that cannot be of this network are left out."""
        effects: list[Effect] = []
        for origin, fact in facts.items():
            if log := self._book.logs.get(origin):
                self._book.learned(log, fact)
        peer = self._book.peers.get(look.peer)
        if peer is not None and peer.page is not None:
            page, peer.page = peer.page, None
            effects += self._paged(peer, page, self._book.digest(peer, page, facts), now)
        return effects + self._work.evidence(now) + self._go(now)

    def stored(self, take: Take | TakeEvidence, fact: Fact, now: float) -> list[Effect]:
        """What was to be taken held and is stored; the store's word on the log after it."""
        log, peer = self._work.taken(take), self._book.peers.get(take.peer)
        if log is None:
            return []
        self._pause_s = self._settings.quick_s
        self._poll_at = min(self._poll_at, now + self._pause_s)
        if isinstance(take, Take):
            end = take.start + len(take.entries)
            log.proven = max(log.proven, end)
            if log.fetch is not None:
                log.fetch.at = max(log.fetch.at, end)
            log.doubts = log.doubts if fact.certified == log.fact.certified else 0
        self._book.learned(log, fact)
        effects = self._over(log, now)
        if peer is not None:
            peer.silent, peer.lies = 0, max(0, peer.lies - 1)
            if isinstance(take, TakeEvidence) and not fact.accused:
                effects += self._blame(peer, f"sent evidence that accuses nobody of {take.origin}", now)
        return effects + self._go(now)

    def refused(
        self, take: Take | TakeEvidence, reason: str, fact: Fact, now: float, *, blame: bool = True
    ) -> list[Effect]:
        """What was to be taken does not hold; without `blame`, it is our own log that does not fit."""
        log, peer = self._work.taken(take), self._book.peers.get(take.peer)
        if log is None:
            return []
        self._book.learned(log, fact)
        self._work.stop(log)
        effects: list[Effect] = []
        if not blame or (isinstance(take, Take) and fact.have > max(fact.certified, log.proven)):
            log.doubts += 1  # our own tail may be wrong: once more from what is certified, then ever more rarely
            pause_s = self._settings.retry_s * 2.0 ** min(log.doubts, 30) if log.doubts > 1 else 0.0
            log.not_before = now + min(pause_s, self._settings.most_blame_s)
        elif peer is not None:
            effects += self._blame(peer, reason, now)
        return effects + self._go(now)

    def unable(self, take: Take | TakeEvidence, now: float) -> list[Effect]:
        """Our own store could not store; the peer is not to blame, and nothing is fetched for a while."""
        log = self._work.taken(take)
        if log is None:
            return []
        self._work.stop(log)
        self._rest_until = now + self._settings.slow_s
        return self._go(now)

    # ------------------------------------------------------------------ what answers mean

    def _paged(self, peer: Peer, page: Heads, use: bool, now: float) -> list[Effect]:
        """Heads were compared with our store."""
        settings = self._settings
        peer.instance, peer.cursor, peer.page_at = page.instance, page.cursor, None
        if use:
            self._pause_s, peer.useless, peer.scan_s = settings.quick_s, 0, settings.scan_s
        if len(page.heads) + len(page.evidence) >= settings.page:
            peer.page_at = now if use else now + settings.quick_s
            peer.useless += not use
            if peer.useless >= settings.useless_pages:
                peer.useless = 0
                return self._blame(peer, f"sent {settings.useless_pages} full answers without anything of use", now)
        elif peer.dropped and peer.scan_at <= now and not peer.wanted:
            peer.dropped, peer.cursor = False, 0  # what was forgotten may be worth having by now
            peer.scan_at, peer.scan_s = now + peer.scan_s, min(2 * peer.scan_s, settings.most_scan_s)
        return []

    def _entries(self, peer: Peer, request: EntriesOf, answer: Entries, now: float) -> list[Effect]:
        log = self._book.logs.get(request.origin)
        fetch = log.fetch if log is not None else None
        if log is None or fetch is None or fetch.peer != peer.name or request not in fetch.asked:
            return []  # of a fetch that was given up
        wrong = fetch.answered(request, answer, self._settings)
        if wrong:
            effects = self._blame(peer, wrong, now)
            self._book.lowered(peer, log, answer.size)
            return effects
        self._book.raised(peer, log, answer.size)
        self._work.hold(peer, answer.room)
        return []

    def _over(self, log: Log, now: float) -> list[Effect]:
        """End a fetch that has nothing left to do."""
        fetch = log.fetch
        wrong = fetch.over(log.fact.certified) if fetch is not None else None
        if fetch is None or wrong is None or log.taking is not None:
            return []
        self._work.stop(log)
        peer = self._book.peers.get(fetch.peer)
        return self._blame(peer, f"{log.origin}: {wrong}", now) if wrong and peer is not None else []

    def _blame(self, peer: Peer, reason: str, now: float) -> list[Effect]:
        peer.lies += 1
        pause_s = min(self._settings.most_blame_s, self._settings.blame_s * 2.0 ** min(peer.lies - 1, 30))
        self._rest(peer, pause_s, now)
        self._work.abandon(peer)
        return [Blame(peer=peer.name, reason=reason, pause_s=pause_s)]

    def _rest(self, peer: Peer, pause_s: float, now: float) -> None:
        peer.not_before = max(peer.not_before, now + pause_s * self._rng.uniform(0.75, 1.25))

    # ------------------------------------------------------------------ what comes next

    def _go(self, now: float) -> list[Effect]:
        """All that is due and within the limits."""
        self._now = now
        effects = self._poll(now)
        if self._rest_until <= now:
            effects += self._work.next(now)
        peers, waiting = self._book.peers.values(), bool(self._book.queue)
        times = [peer.page_at for peer in peers if peer.page_at is not None]
        times += [peer.not_before for peer in peers if waiting or peer.page_at is not None]
        self.deadline = min([self._poll_at, *(time for time in [*times, self._rest_until] if time > now)])
        return effects

    def _poll(self, now: float) -> list[Effect]:
        """Ask for heads, seldom while nothing happens; and look again at what was not worth having."""
        effects: list[Effect] = []
        ready = [peer for peer in self._book.peers.values() if peer.not_before <= now]
        if now >= self._poll_at:
            self._poll_at = now + self._pause_s * self._rng.uniform(0.75, 1.25)
            self._pause_s = min(self._settings.slow_s, 1.5 * self._pause_s)
            chosen = self._rng.sample(ready, min(self._settings.asked_peers, len(ready)))
            preferred = [peer for peer in ready if peer.preferred]
            if preferred and self._rng.random() * len(self._book.peers) < FEW_PEERS:
                chosen[-1] = self._rng.choice(preferred)
            for peer in chosen:
                effects += self._work.heads(peer, now)
            if look := self._book.dull():
                effects.append(look)
        for peer in ready:
            if peer.page_at is not None and peer.page_at <= now:
                effects += self._work.heads(peer, now)
        return effects
