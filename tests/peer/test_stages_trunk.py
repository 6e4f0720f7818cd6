"""A driver's round where the experts live elsewhere: through the trunk, counted by the holders, whoever fails.

IO: none.
"""

from __future__ import annotations

import random
from itertools import count

from peer.stages.drive_trunk import MISSING, TrunkDriver
from peer.stages.messages import Attempt, Halt, Losses, Refusal
from peer.stages.routing import Router
from peer.stages.tasks import Answered, Call, Declined, Reset
from tests.peer.stages_kit import D1, L1, L2, M1, OPEN, log_of

FIRST, SECOND = Attempt(1, "leader"), Attempt(2, "leader")


class Bench:
    """A driver whose calls are answered by the test."""

    def __init__(self, microbatches: int = 1, *, lasts: tuple[str, ...] = (L1, L2)) -> None:
        opened = log_of(OPEN).open
        assert opened is not None
        self.driver = TrunkDriver(
            account=D1, open_round=opened, replicas={1: (M1,), 2: lasts}, microbatches=range(microbatches),
            in_flight=2, until=100.0, router=Router(random.Random(1)), ids=count(1),
        )  # fmt: skip
        self.calls: list[Call] = self.driver.tick(0.0)
        self.made = list(self.calls)

    def next(self, stage: int) -> Call:
        """The oldest call of this stage that is not answered."""
        found = next(call for call in self.calls if call.tag.stage == stage)
        self.calls.remove(found)
        return found

    def took(self, calls: list[Call]) -> None:
        self.calls += calls
        self.made += calls

    def answer(self, stage: int) -> Call:
        """It was done."""
        call = self.next(stage)
        self.took(self.driver.receive(Answered(id=call.id, value=str(call.id)), 0.0))
        return call

    def lost(self, stage: int, account: str = "", now: float = 0.0) -> None:
        """The line broke."""
        self.took(self.driver.receive(Reset(id=self.next(stage).id, account=account), now))

    def decline(self, stage: int, code: str) -> None:
        """It was refused."""
        self.took(self.driver.receive(Declined(id=self.next(stage).id, refusal=Refusal(code=code)), 0.0))

    def halt(self, attempt: Attempt, *gaps: tuple[int, int], gone: tuple[str, ...] = ()) -> None:
        """The leader ends the driving."""
        self.took(self.driver.receive(Halt(round=1, attempt=attempt, gaps=gaps, gone=gone), 1.0))


def test_a_microbatch_is_driven_and_then_counted_by_the_holders_that_were_asked() -> None:
    bench = Bench()
    driven = bench.answer(0)
    assert driven.holders[0] == M1
    assert bench.answer(1).account == M1
    assert not bench.driver.finished
    assert bench.answer(2).account == driven.holders[1]
    assert bench.driver.finished
    assert bench.driver.table == {0: driven.holders}


def test_a_holder_that_the_leader_calls_lost_is_not_waited_for_and_not_asked_again() -> None:
    bench = Bench(microbatches=4)
    (first, second) = (call.holders[1] for call in bench.calls)
    assert {first, second} == {L1, L2}, "each serves one of the two that are under way"
    assert not bench.driver.gives_up(L1)
    bench.took(bench.driver.receive(Losses(round=1, leader="leader", accounts=(L1,)), 0.5))
    assert bench.driver.gives_up(L1)
    bench.lost(0, L1, 0.5)
    while bench.calls:
        bench.answer(bench.calls[0].tag.stage)
    assert bench.driver.finished
    assert {row[1] for row in bench.driver.table.values()} <= {L2, *([L1] if first == L2 else [])}
    assert all(L1 not in call.holders for call in bench.made[2:])


def test_after_a_holder_failed_the_microbatch_is_driven_again_with_another_of_its_group() -> None:
    bench = Bench()
    first = bench.calls[0].holders
    bench.lost(0, first[1])
    again = bench.calls[0]
    assert {first[1], again.holders[1]} == {L1, L2}
    bench.answer(0)
    bench.answer(1)
    assert bench.answer(2).account == again.holders[1]
    assert bench.driver.table == {0: again.holders}


def test_a_group_that_nobody_serves_is_left_out() -> None:
    bench = Bench(lasts=(L1,))
    bench.lost(0, L1)
    assert bench.answer(0).holders == (M1, "")
    bench.answer(1)
    assert bench.driver.finished
    assert bench.driver.table == {0: (M1, "")}
    assert not bench.calls


def test_a_holder_that_dies_before_it_counted_is_replaced_and_without_another_the_trunk_counts_alone() -> None:
    bench = Bench()
    holders = bench.answer(0).holders
    bench.answer(1)
    bench.lost(2)
    other = bench.answer(2).account
    assert {other, holders[1]} == {L1, L2}
    assert bench.driver.table == {0: (M1, other)}
    alone = Bench(lasts=(L1,))
    alone.answer(0)
    alone.answer(1)
    alone.lost(2)
    assert alone.driver.finished
    assert alone.driver.table == {0: (M1, "")}


def test_what_a_lost_holder_had_counted_is_counted_by_another_or_by_nobody() -> None:
    bench = Bench()
    bench.answer(0)
    bench.answer(1)
    dead = bench.answer(2).account
    bench.took(bench.driver.receive(Losses(round=1, leader="leader", accounts=(dead,)), 1.0))
    while (asked := bench.calls[0]).account == dead:
        bench.lost(2, now=1.0)
    bench.answer(2)
    assert bench.driver.table == {0: (M1, asked.account)}
    bench.halt(FIRST, (2, 0), gone=(L1, L2))
    assert bench.driver.table == {0: (M1, "")}
    assert bench.driver.settled_for == FIRST


def test_what_is_at_the_trunk_when_the_driving_ends_goes_on_to_its_end() -> None:
    bench = Bench(microbatches=3)
    bench.halt(FIRST)
    assert bench.driver.settled_for != FIRST
    for stage in (0, 0, 1, 1, 2, 2):
        call = bench.answer(stage)
        assert call.tag.attempt == (FIRST if stage else call.tag.attempt)
    assert bench.driver.settled_for == FIRST
    assert sorted(bench.driver.table) == [0, 1], "nothing else is begun"


def test_a_trunk_that_lost_a_microbatch_drives_it_again_with_the_same_holders() -> None:
    bench = Bench()
    holders = bench.answer(0).holders
    bench.answer(1)
    bench.answer(2)
    bench.halt(FIRST, (0, 0))
    assert bench.answer(0).holders == holders
    bench.answer(1)
    bench.answer(2)
    assert bench.driver.table == {0: holders}
    assert bench.driver.settled_for == FIRST


def test_frozen_holders_end_the_driving_and_do_not_unmake_what_is_through_the_trunk() -> None:
    bench = Bench(microbatches=3)
    bench.answer(0)
    bench.decline(0, "FROZEN")
    assert bench.driver.halted
    bench.answer(1)
    bench.answer(2)
    assert sorted(bench.driver.table) == [0]


def test_without_records_a_group_does_not_count() -> None:
    bench = Bench()
    bench.answer(0)
    bench.answer(1)
    bench.decline(2, MISSING)
    assert bench.driver.table == {0: (M1, "")}
    assert bench.driver.finished
