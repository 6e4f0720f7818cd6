"""A driver's round: through all stages, several at a time, and what it does about whoever does not answer.

IO: none.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import pytest

from peer.stages.drive import ENOUGH_HERE, Driver
from peer.stages.jobs import way
from peer.stages.messages import NO_ATTEMPT, Attempt, Halt, Kind, Losses, Refusal
from peer.stages.routing import LEAST_TIMEOUT_S, Router
from peer.stages.tasks import Answered, Call, Declined, Reset
from tests.peer.stages_kit import D1, L1, L2, M1, M2, OPEN, log_of

FIRST, SECOND = Attempt(1, "leader"), Attempt(2, "leader")


class Bench:
    """A driver whose calls are answered by the test."""

    def __init__(self, microbatches: int = 1, in_flight: int = 8) -> None:
        opened = log_of(OPEN).open
        assert opened is not None
        self.driver = Driver(
            account=D1, open_round=opened, replicas={1: (M1, M2), 2: (L1, L2)}, microbatches=range(microbatches),
            in_flight=in_flight, until=100.0, router=Router(random.Random(1)), ids=count(1),
        )  # fmt: skip
        self.calls: list[Call] = []
        self.made: list[Call] = []

    def took(self, calls: list[Call]) -> Bench:
        """These are to be made."""
        self.calls += calls
        self.made += calls
        return self

    def tick(self, now: float) -> Bench:
        """Time passes."""
        return self.took(self.driver.tick(now))

    def answer(self, call: Call, now: float = 0.0) -> Bench:
        """It was served."""
        self.calls = [other for other in self.calls if other is not call]
        stage = call.tag.stage
        value = f"x{stage + 1}" if call.tag.kind is Kind.FORWARD else f"g{stage}"
        return self.took(self.driver.receive(Answered(id=call.id, value=value, service_s=0.5), now))

    def decline(self, call: Call, code: str, now: float = 0.0, wait_s: float = 0.0) -> Bench:
        """It was refused."""
        self.calls = [other for other in self.calls if other is not call]
        refusal = Refusal(code=code, wait_s=wait_s)
        return self.took(self.driver.receive(Declined(id=call.id, refusal=refusal), now))

    def reset(self, call: Call, now: float = 0.0) -> Bench:
        """The line broke."""
        self.calls = [other for other in self.calls if other is not call]
        return self.took(self.driver.receive(Reset(id=call.id), now))

    def until(self, wanted: Callable[[Call], bool]) -> Call:
        """Answer calls until there is one like this."""
        while not any(map(wanted, self.calls)):
            self.answer(self.calls[0])
        return next(call for call in self.calls if wanted(call))

    def finish(self) -> Bench:
        """Answer everything."""
        while self.calls:
            self.answer(self.calls[0])
        return self

    def halt(self, attempt: Attempt, *gaps: tuple[int, int], gone: tuple[str, ...] = ()) -> Bench:
        """The leader ends the driving."""
        order = Halt(round=1, attempt=attempt, gaps=gaps, gone=gone)
        return self.took(self.driver.receive(order, 1.0))


def middle(call: Call) -> bool:
    """Whether a call is the backward of stage 1."""
    return (call.tag.stage, call.tag.kind) == (1, Kind.BACKWARD)


def test_a_microbatch_goes_forward_through_the_stages_and_backward_again() -> None:
    bench = Bench().tick(0.0).finish()
    steps = [(call.tag.stage, call.tag.kind.value, call.input, call.gradient) for call in bench.made]
    assert steps == [
        (0, "forward", "", ""), (1, "forward", "x1", ""), (2, "backward", "x2", ""), (1, "backward", "x1", "g2"),
        (0, "backward", "", "g1"),
    ]  # fmt: skip
    assert {call.account for call in bench.made if call.tag.stage == 0} == {D1}
    by_stage = {call.tag.stage: call.account for call in bench.made if call.tag.kind is Kind.BACKWARD}
    assert bench.driver.table == {0: (by_stage[1], by_stage[2])}
    assert bench.driver.finished


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_every_stage_does_one_backward_and_all_but_the_last_one_forward(stages: int) -> None:
    steps = way(stages)
    assert [stage for stage, kind in steps if kind is Kind.FORWARD] == list(range(stages - 1))
    assert [stage for stage, kind in steps if kind is Kind.BACKWARD] == list(reversed(range(stages)))


def test_so_many_are_under_way_at_a_time_and_few_of_them_wait_for_our_own_worker() -> None:
    bench = Bench(microbatches=20, in_flight=5).tick(0.0)
    assert len(bench.calls) == ENOUGH_HERE
    for _ in range(10):
        bench.answer(next((call for call in bench.calls if call.tag.stage == 0), bench.calls[0]))
    assert bench.driver.under_way == 5
    assert sorted(bench.finish().driver.table) == list(range(20))


def test_after_the_time_budget_nothing_is_begun_and_what_is_under_way_is_finished() -> None:
    bench = Bench(microbatches=9, in_flight=2).tick(0.0)
    assert bench.driver.deadline is None
    bench.tick(100.0)
    while bench.calls:
        bench.answer(bench.calls[0], now=100.0)
    assert len(bench.driver.table) == 2
    assert bench.driver.finished


def test_a_call_that_takes_too_long_is_made_once_more_at_the_same_replica_then_at_another() -> None:
    bench = Bench().tick(0.0)
    call = bench.until(lambda call: call.tag.stage == 1)
    due = bench.driver.deadline
    assert due is not None
    assert due >= LEAST_TIMEOUT_S
    again = bench.tick(due).made[-1]
    assert (again.account, again.tag, again.input) == (call.account, call.tag, call.input)
    assert again.id != call.id
    due = bench.driver.deadline
    assert due is not None
    assert {bench.tick(due).made[-1].account, call.account} == {M1, M2}


def test_whoever_says_that_it_is_at_it_is_waited_for() -> None:
    bench = Bench().tick(0.0)
    call = bench.until(lambda call: call.tag.stage == 1)
    due = bench.driver.deadline or 0.0
    again = bench.tick(due).made[-1]
    bench.decline(again, "WORKING", now=due, wait_s=20.0)
    assert bench.driver.deadline == due + 40.0
    assert bench.answer(call, now=due + 15.0).made[-1].tag.stage == 2


def test_a_broken_line_sends_the_call_to_another_replica_at_once() -> None:
    bench = Bench().tick(0.0)
    call = bench.until(middle)
    other = bench.reset(call).made[-1]
    assert (other.tag, other.input, other.gradient) == (call.tag, call.input, call.gradient)
    assert {other.account, call.account} == {M1, M2}
    assert bench.finish().driver.table[0][0] == other.account


@pytest.mark.parametrize("code", ["STALE", "FP-452", "FP-453"])
def test_who_holds_another_state_or_answers_garbage_is_passed_over(code: str) -> None:
    bench = Bench().tick(0.0)
    call = bench.until(middle)
    assert {bench.decline(call, code).made[-1].account, call.account} == {M1, M2}


def test_with_all_replicas_of_a_stage_failing_they_are_tried_again_later() -> None:
    bench = Bench().tick(0.0)
    call = bench.until(middle)
    other = bench.reset(call).calls[-1]
    bench.reset(other)
    assert bench.calls == []
    due = bench.driver.deadline
    assert due == 1.0
    bench.tick(due)
    assert middle(bench.calls[0])
    assert bench.finish().driver.finished


def test_a_replica_without_room_is_asked_again_after_the_time_that_it_says() -> None:
    bench = Bench().tick(0.0)
    call = bench.until(middle)
    other = bench.decline(call, "BUSY", wait_s=3.0).calls[-1]
    assert {other.account, call.account} == {M1, M2}
    bench.decline(other, "BUSY", wait_s=2.0)
    assert (bench.calls, bench.driver.deadline) == ([], 2.0)
    assert bench.tick(2.0).calls[-1].account == other.account


def test_of_two_answers_to_one_step_the_first_counts_also_if_it_comes_from_the_one_given_up() -> None:
    bench = Bench().tick(0.0)
    call = bench.until(middle)
    other = bench.reset(call).made[-1]
    bench.answer(call)
    made = len(bench.made)
    bench.answer(other)
    assert len(bench.made) == made
    assert bench.finish().driver.table[0][0] == call.account
    assert bench.driver.receive(Answered(id=999, value="x"), 0.0) == []


def test_halted_it_gives_up_what_is_under_way_and_replays_the_gaps_from_its_records() -> None:
    bench = Bench(microbatches=3, in_flight=1).tick(0.0)
    bench.until(lambda call: call.tag.microbatch == 2)
    assert sorted(bench.driver.table) == [0, 1]
    late = bench.calls[0]
    bench.calls.clear()
    bench.halt(FIRST)
    assert bench.driver.settled_for == FIRST
    assert bench.answer(late).calls == []
    holder = bench.driver.table[1][0]
    [gap] = bench.halt(SECOND, (1, 1), gone=(holder,)).calls
    assert (gap.tag.stage, gap.tag.microbatch, gap.tag.attempt) == (1, 1, SECOND)
    assert (gap.input, gap.gradient) == ("x1", "g2")
    assert gap.account != holder
    assert bench.driver.settled_for == NO_ATTEMPT
    bench.answer(gap)
    assert bench.driver.settled_for == SECOND
    assert bench.driver.table[1][0] == gap.account
    assert bench.driver.finished


def test_an_older_halt_changes_nothing_and_gaps_that_are_not_ours_are_left_out() -> None:
    bench = Bench().tick(0.0).finish()
    bench.halt(SECOND, (1, 7))
    assert (bench.calls, bench.driver.settled_for) == ([], SECOND)
    bench.halt(FIRST, (1, 0))
    assert (bench.calls, bench.driver.attempt) == ([], SECOND)


def test_a_round_that_is_frozen_without_us_is_driven_no_further() -> None:
    bench = Bench(microbatches=9, in_flight=2).tick(0.0)
    call = bench.until(lambda call: call.tag.stage == 1)
    bench.calls.clear()
    assert bench.decline(call, "FROZEN").calls == []
    assert bench.driver.finished


def test_what_a_lost_replica_held_is_replayed_while_the_others_are_driven() -> None:
    bench = Bench(microbatches=6, in_flight=2).tick(0.0)
    while len(bench.driver.table) < 4:
        bench.answer(bench.calls[0])
    lost = bench.driver.table[0][0]
    held = {number for number, row in bench.driver.table.items() if row[0] == lost}
    order = Losses(round=1, leader="leader", accounts=(lost,))
    bench.took(bench.driver.receive(order, 1.0))
    bench.took(bench.driver.receive(order, 1.0))
    replays = [call for call in bench.calls if middle(call) and call.tag.microbatch in held]
    assert 0 < len(replays) <= 2
    made = len(bench.made)
    bench.finish()
    redone = [call for call in bench.made[made:] + replays if middle(call) and call.tag.microbatch in held]
    assert sorted(call.tag.microbatch for call in redone) == sorted(held)
    assert sorted(bench.driver.table) == list(range(6))
    assert bench.driver.losses == Attempt(1, "leader")
