"""A replica's machine in a round: whom it serves, what it holds, lacks and writes.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import StageSeat
from ledger.stages import bitmap
from peer.errors import RoundError
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Attempt, Cut, Freeze, Halt, Kind, Losses
from peer.stages.tasks import Undo, WriteUpdate
from tests.peer.stages_kit import COUNT, D1, D2, M1, M2, OPEN, PLAN, S0, S1, log_of, receipt, replica, tag
from tests.peer.stages_replica import FIRST, SECOND, THIRD, begun, freeze, serve, work


def losses(*accounts: str) -> Losses:
    """The leader says that these are gone."""
    return Losses(round=1, leader="leader", accounts=accounts)


def test_it_serves_drivers_their_own_microbatches_of_its_stage_and_state() -> None:
    machine = begun()
    assert machine.admit(tag(1, 3), D1) is None
    for request, caller in ((tag(1, 4), D1), (tag(1, 0), D2), (tag(1, 0), M2), (tag(2, 0), D1), (tag(1, 99), D1)):
        refusal = machine.admit(request, caller)
        assert refusal is not None
        assert refusal.code == "FP-452"
    refusal = machine.admit(tag(1, 0, state=S1), D1)
    assert refusal is not None
    assert (refusal.code, refusal.round, refusal.state) == ("STALE", 0, S0)


def test_a_request_that_it_is_at_is_not_done_twice_and_says_for_how_long() -> None:
    machine = begun()
    assert machine.admit(tag(1, 0), D1) is None
    refusal = machine.admit(tag(1, 0), D1, 4.0)
    assert refusal is not None
    assert (refusal.code, refusal.wait_s) == ("WORKING", 4.0)
    assert machine.admit(tag(1, 0, Kind.FORWARD), D1) is None


def test_a_driver_that_floods_is_put_off_and_the_others_are_served() -> None:
    machine = begun()
    requests = [tag(1, number, kind) for kind in Kind for number in range(4)]
    refusals = [machine.admit(request, D1) for request in requests]
    assert [refusal.code for refusal in refusals if refusal] == ["BUSY"] * (len(requests) - 2 * PLAN.in_flight)
    assert min(refusal.wait_s for refusal in refusals if refusal) > 0
    assert machine.admit(tag(1, 4), D2) is None


def test_it_undoes_what_is_beyond_its_manifest_then_writes_just_that() -> None:
    machine = begun()
    serve(machine, 0, 1, 2)
    assert work(machine.receive(freeze(FIRST, 0, 2), 0.0)) == [Undo(round=1, microbatches=(1,))]
    refusal = machine.admit(tag(1, 3, attempt=SECOND), D1)
    assert refusal is not None
    assert refusal.code == "BUSY"
    [write] = work(machine.receive(tasks.Undone(round=1), 0.0))
    assert isinstance(write, WriteUpdate)
    assert write.served == bitmap([0, 2], COUNT)
    effects = machine.receive(tasks.Wrote(receipt=receipt(M1, [0, 2])), 0.0)
    assert effects == [tasks.Say()]
    assert machine.status().receipt == receipt(M1, [0, 2])
    assert machine.status().frozen == FIRST


def test_it_says_what_it_lacks_once_nothing_is_under_way_any_more() -> None:
    machine = begun()
    serve(machine, 0)
    assert machine.admit(tag(1, 1), D1) is None
    assert work(machine.receive(freeze(FIRST, 0, 1, 2), 0.0)) == []
    assert machine.status().lacking == ""
    machine.receive(tasks.Served(tag=tag(1, 1)), 0.0)
    assert machine.status().lacking == bitmap([2], COUNT)
    assert serve(machine, 2, attempt=SECOND) != []


def test_once_frozen_only_requests_of_later_attempts_are_taken() -> None:
    machine = begun()
    machine.receive(freeze(SECOND, 0), 0.0)
    for attempt in (FIRST, SECOND):
        refusal = machine.admit(tag(1, 0, attempt=attempt), D1)
        assert refusal is not None
        assert refusal.code == "FROZEN"
    assert machine.admit(tag(1, 0), D1) is not None
    assert machine.admit(tag(1, 0, attempt=THIRD), D1) is None
    assert work(machine.receive(freeze(FIRST, 1), 0.0)) == []
    assert machine.status().frozen == SECOND


def test_what_could_not_be_served_is_not_held_and_the_unasked_for_is_not_counted() -> None:
    machine = begun()
    assert machine.admit(tag(1, 0), D1) is None
    machine.receive(tasks.Unserved(tag=tag(1, 0)), 0.0)
    machine.receive(tasks.Served(tag=tag(1, 1)), 0.0)
    assert machine.work is not None
    assert not machine.work.held


def test_a_manifest_of_another_size_is_refused_and_nothing_changes() -> None:
    machine = begun()
    before = machine.status()
    with pytest.raises(RoundError, match="FP-450"):
        machine.receive(Freeze(round=1, attempt=FIRST, manifest="fff"), 0.0)
    assert replace(machine.status(), seq=before.seq) == before


def test_orders_of_another_round_change_nothing() -> None:
    machine = begun()
    orders = (
        replace(freeze(FIRST, 0), round=2),
        Cut(round=2, attempt=FIRST, receipts=()),
        Halt(round=2, attempt=FIRST),
    )
    for order in orders:
        assert machine.receive(order, 0.0) == []


def test_a_receipt_signed_before_a_restart_is_told_again() -> None:
    ours = receipt(M1, [0, 1])
    machine = replica(M1, log_of(OPEN), life=2, promised=[ours])
    machine.receive(LogGrew(), 0.0)
    assert machine.status().receipt == ours
    assert work(machine.receive(freeze(FIRST, 0, 1), 0.0)) == []
    assert machine.status().lacking == ""


def test_a_receipt_for_a_round_that_gave_way_to_another_of_the_same_number_is_not_told() -> None:
    ours = receipt(D1, [2, 3])
    log = log_of()
    log.follow([OPEN])
    machine = replica(D1, log, promised=[ours])
    machine.receive(LogGrew(), 0.0)
    assert machine.status().receipt == ours
    seats = [StageSeat(D1, 0, 4, 0), StageSeat(D2, 4, 12, 0), *OPEN.roster[2:]]
    log.extend([replace(OPEN, roster=tuple(seats))])
    machine.receive(LogGrew(), 0.0)
    assert machine.status().receipt is None
    assert machine.work is not None
    assert not machine.work.written


def test_a_driver_begins_as_soon_as_it_holds_the_state_and_tells_its_table_when_halted() -> None:
    machine = replica(D1, log_of(OPEN))
    effects = machine.receive(LogGrew(), 0.0)
    calls = [effect for effect in effects if isinstance(effect, tasks.Call)]
    assert [call.tag.microbatch for call in calls] == [0, 1]
    assert {call.account for call in calls} == {D1}
    assert machine.status().halted == Attempt(0, "")
    machine.receive(Halt(round=1, attempt=FIRST), 0.0)
    assert (machine.status().halted, machine.status().table) == (FIRST, ())


def test_every_status_is_newer_than_the_one_before() -> None:
    machine = begun()
    one, other = machine.status(), machine.status()
    assert (one.life, one.seq) < (other.life, other.seq)


def test_what_a_driver_had_that_is_gone_is_undone_one_by_one_while_nothing_else_is_to_be_done() -> None:
    machine = begun()
    serve(machine, 0, 1, 4)
    assert machine.admit(tag(1, 5), D2) is None
    assert work(machine.receive(losses(D1), 0.0)) == []
    assert machine.status().losses == Attempt(1, "leader")
    [undo] = work(machine.receive(tasks.Served(tag=tag(1, 5)), 0.0))
    assert undo == Undo(round=1, microbatches=(0,), beside=True)
    assert machine.admit(tag(1, 6), D2) is None, "others are served meanwhile"
    assert work(machine.receive(tasks.Undone(round=1), 0.0)) == []
    [undo] = work(machine.receive(tasks.Served(tag=tag(1, 6)), 0.0))
    assert undo == Undo(round=1, microbatches=(1,), beside=True)
    assert work(machine.receive(tasks.Undone(round=1), 0.0)) == []
    assert work(machine.receive(losses(D1), 0.0)) == [], "the same order again is no news"
    [write] = work(machine.receive(freeze(FIRST, 4, 5, 6), 0.0))
    assert isinstance(write, WriteUpdate)


def test_late_in_the_round_that_takes_its_turn_though_others_wait() -> None:
    machine = begun()
    serve(machine, 0)
    assert machine.admit(tag(1, 5), D2) is None
    late_s = PLAN.plan.time_budget_s
    assert work(machine.receive(losses(D1), late_s)) == [Undo(round=1, microbatches=(0,), beside=True)]


def test_a_driver_that_was_taken_to_be_gone_and_calls_again_keeps_what_was_not_undone_yet() -> None:
    machine = begun()
    serve(machine, 0, 1)
    [undo] = work(machine.receive(losses(D1), 0.0))
    assert undo == Undo(round=1, microbatches=(0,), beside=True)
    refusal = machine.admit(tag(1, 0), D1)
    assert refusal is not None
    assert refusal.code == "BUSY", "it is just being taken out"
    assert machine.admit(tag(1, 2), D1) is None
    machine.receive(tasks.Undone(round=1), 0.0)
    assert machine.admit(tag(1, 0), D1) is None
    effects = [*machine.receive(tasks.Served(tag=tag(1, 2)), 0.0), *machine.receive(tasks.Served(tag=tag(1, 0)), 0.0)]
    assert work(effects) == []
    [write] = work(machine.receive(freeze(FIRST, 0, 1, 2), 0.0))
    assert isinstance(write, WriteUpdate)


def test_what_cannot_be_taken_out_by_itself_stays_until_the_end() -> None:
    machine = begun()
    serve(machine, 0, 4)
    assert work(machine.receive(losses(D1), 0.0)) == [Undo(round=1, microbatches=(0,), beside=True)]
    assert work(machine.receive(tasks.Undone(round=1, kept=(0,)), 0.0)) == []
    assert work(machine.receive(freeze(FIRST, 4), 0.0)) == [Undo(round=1, microbatches=(0,))]


def test_what_is_replayed_for_a_later_attempt_is_not_undone_for_an_older_one() -> None:
    machine = begun()
    serve(machine, 0, 1)
    machine.receive(freeze(FIRST, 0, 1), 0.0)
    machine.receive(tasks.Wrote(receipt=receipt(M1, [0, 1])), 0.0)
    assert serve(machine, 4, attempt=SECOND) == []
    assert machine.status().lacking == ""
    [write] = work(machine.receive(freeze(SECOND, 0, 1, 4), 0.0))
    assert isinstance(write, WriteUpdate)
    assert write.served == bitmap([0, 1, 4], COUNT)
