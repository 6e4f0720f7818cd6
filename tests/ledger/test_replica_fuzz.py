"""Whatever peers answer, and however the executor's reports come, the replica machine neither raises nor grows.

Pure: memory only.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.replica.machine import Replica
from ledger.replica.values import (
    Accusation,
    Answer,
    Ask,
    Effect,
    Entries,
    Fact,
    Heads,
    Look,
    Settings,
    Take,
    TakeEvidence,
)

LIMITS = Settings(
    heads=5, page=4, useless_pages=3, peers=3, requests=4, peer_requests=3, answer_bytes=2000, pending_bytes=9000,
    peer_pending_bytes=5000,
)  # fmt: skip
ORIGINS = tuple("abcdefghijkl")


class Chaos:
    """Answers, failures, departures and outcomes at random, some of them twice or of nothing that was asked."""

    def __init__(self, seed: int) -> None:
        self.rng, self.now = Random(seed), 0.0
        self.machine = Replica(Random(seed + 1), LIMITS)
        self.asks: list[Ask] = []
        self.looks: list[Look] = []
        self.takes: list[Take | TakeEvidence] = []
        self.done: list[object] = []

    def keep(self, effects: list[Effect]) -> None:
        for effect in effects:
            for kind, kept in ((Ask, self.asks), (Look, self.looks), ((Take, TakeEvidence), self.takes)):
                if isinstance(effect, kind):  # type: ignore[arg-type]
                    kept.append(effect)  # type: ignore[attr-defined]

    def pick(self, kept: list) -> object | None:  # type: ignore[type-arg]
        """One of them; sometimes it stays, to be answered again."""
        if not kept:
            return None
        at = self.rng.randrange(len(kept))
        return kept[at] if self.rng.random() < 0.1 else kept.pop(at)

    def answer(self) -> Answer:
        rng = self.rng
        if rng.random() < 0.4:
            sizes = rng.choices([0, 1, 5, 300, 2**53 - 1], k=rng.randint(0, 6))
            heads = tuple((rng.choice(ORIGINS), size) for size in sizes)
            named = tuple(rng.sample(ORIGINS, rng.randint(0, 3)))
            return Heads(instance=rng.choice(["", "ab" * 16]), cursor=rng.randint(0, 9), heads=heads, evidence=named)
        if rng.random() < 0.2:
            return Accusation(items=(b"x",) * rng.randint(0, 2))
        entries = (b"e" * rng.choice([0, 10, 1500]),) * rng.choice([0, 1, 5, 256])
        proof = (bytes(32),) * rng.randint(0, 1)
        return Entries(entries=entries, size=rng.choice([0, 1, 5, 300, 2**53 - 1]), certificate=b"c", proof=proof)

    def fact(self) -> Fact:
        rng = self.rng
        certified = rng.choice([0, 1, 5, 299])
        have = certified + rng.choice([0, 0, 3])
        return Fact(have=have, certified=certified, worth=rng.random() < 0.6, accused=rng.random() < 0.2)

    def step(self) -> None:
        rng, machine = self.rng, self.machine
        self.now += rng.choice([0.0, 0.1, 5.0, 100.0])
        what = rng.randrange(8)
        if what == 0:
            self.keep(machine.peer_joined(rng.choice("pqrst"), self.now, rng.random() < 0.3))
        elif what == 1 and rng.random() < 0.2:
            self.keep(machine.peer_left(rng.choice("pqrst"), self.now))
        elif what in (2, 3) and (ask := self.pick(self.asks)):
            assert isinstance(ask, Ask)
            if rng.random() < 0.2:
                self.keep(machine.failed(ask.peer, ask.request, "no", self.now, lie=rng.random() < 0.3))
            else:
                self.keep(machine.receive(ask.peer, ask.request, self.answer(), self.now))
        elif what == 4 and (look := self.pick(self.looks)):
            assert isinstance(look, Look)
            known = {origin: self.fact() for origin in look.origins if rng.random() < 0.9}
            self.keep(machine.looked(look, known, self.now))
        elif what == 5 and (take := self.pick(self.takes)):
            assert isinstance(take, Take | TakeEvidence)
            end = rng.randrange(3)
            if end == 0:
                self.keep(machine.stored(take, self.fact(), self.now))
            elif end == 1:
                self.keep(machine.refused(take, "no", self.fact(), self.now, blame=rng.random() < 0.5))
            else:
                self.keep(machine.unable(take, self.now))
        else:
            self.now = max(self.now, machine.deadline)
            self.keep(machine.tick(self.now))
            assert machine.deadline > self.now, "or it would be called again at once, for ever"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_makes_it_raise_or_hold_more_than_it_may(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(300):
        chaos.step()
        state = chaos.machine.state
        assert state.peers <= LIMITS.peers
        assert state.remembered <= state.peers * 3 * LIMITS.heads + len(ORIGINS)
        assert state.requests <= state.peers * (LIMITS.peer_requests + 2)
    for name in "pqrst":
        chaos.machine.peer_left(name, chaos.now)
    for take in chaos.takes:
        chaos.machine.unable(take, chaos.now)
    state = chaos.machine.state
    assert (state.peers, state.fetching, state.requests, state.pending_bytes) == (0, 0, 0, 0)
