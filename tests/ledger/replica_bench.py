"""One replica machine over a shelf: the test decides what peers answer, and when.

Pure: memory only.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from ledger.replica.machine import Replica
from ledger.replica.values import Answer, Ask, Blame, Effect, Heads, HeadsSince, Look, Settings, Take, TakeEvidence
from tests.ledger.replica_kit import Shelf

BIG = "a"


class Bench:
    """One machine over a shelf; the test decides what peers answer, and when."""

    def __init__(self, *peers: str, **settings: float) -> None:
        self.shelf = Shelf("ours" * 8)
        self.machine = Replica(Random(1), Settings(**{"answer_bytes": 4000, **settings}))  # type: ignore[arg-type]
        self.now = 0.0
        self.asked: list[Ask] = []
        self.takes: list[Take | TakeEvidence] = []
        self.blamed: list[Blame] = []
        for peer in peers:
            self.do(self.machine.peer_joined(peer, self.now))

    def do(self, effects: Iterable[Effect]) -> None:
        """Look up at once; keep the rest for the test."""
        for effect in effects:
            match effect:
                case Ask():
                    self.asked.append(effect)
                case Look():
                    facts = {origin: self.shelf.fact(origin) for origin in effect.origins}
                    self.do(self.machine.looked(effect, facts, self.now))
                case Blame():
                    self.blamed.append(effect)
                case _:
                    self.takes.append(effect)

    def wait(self, pause_s: float = 0.0) -> None:
        """Let time pass, to the machine's deadline at least."""
        self.now = max(self.now + pause_s, self.machine.deadline)
        self.do(self.machine.tick(self.now))

    def next(self, kind: type, peer: str = "") -> Ask:
        """The next question of a kind, taken off the list."""
        for _ in range(50):
            for ask in self.asked:
                if isinstance(ask.request, kind) and peer in ("", ask.peer):
                    self.asked.remove(ask)
                    return ask
            self.wait()
        raise AssertionError(f"{kind.__name__} was never asked")

    def answer(self, ask: Ask, answer: Answer) -> None:
        self.do(self.machine.receive(ask.peer, ask.request, answer, self.now))

    def heads(self, peer: str, *heads: tuple[str, int], evidence: tuple[str, ...] = ()) -> None:
        """A peer is asked for heads and says this."""
        ask = self.next(HeadsSince, peer)
        self.answer(ask, Heads(instance=peer * 32, cursor=1, heads=heads, evidence=evidence))

    def store(self) -> None:
        """All that is to be stored is, or is refused."""
        while self.takes:
            take = self.takes.pop(0)
            reason, fact = self.shelf.take(take), self.shelf.fact(take.origin)
            if reason:
                self.do(self.machine.refused(take, reason, fact, self.now))
            else:
                self.do(self.machine.stored(take, fact, self.now))

    def serve(self, other: Shelf, peer: str = "p") -> None:
        """A peer answers all that is asked, truly, until nothing is."""
        while self.takes or any(ask.peer == peer for ask in self.asked):
            for ask in [ask for ask in self.asked if ask.peer == peer]:
                self.asked.remove(ask)
                found = other.answer(ask.request)
                assert found is not None, ask
                self.answer(ask, found)
            self.store()


def shelf(**sizes: int) -> Shelf:
    """A store that has these logs."""
    other = Shelf("their" * 6 + "xx")
    for origin, size in sizes.items():
        other.grow(origin, size)
    return other
