"""A replica's machine: whom it serves, what it holds and writes, how it comes from one state to the next.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.stages import bitmap
from peer.errors import RoundError
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Assign, Attempt, Cut, Freeze, Halt, Kind
from peer.stages.serve import ReplicaMachine
from peer.stages.tasks import ApplyStage, LoadStage, OpenStage, ReplicaEffect, Say, SumUpdates, Undo, WriteUpdate
from tests.peer.stages_kit import (
    COUNT,
    D1,
    D2,
    L1,
    M1,
    M2,
    OPEN,
    PLAN,
    S0,
    S1,
    log_of,
    receipt,
    replica,
    settle,
    state,
    tag,
)

FIRST, SECOND, THIRD = (Attempt(number, "leader") for number in (1, 2, 3))
NORMS = ("3ff0000000000000",) * 3


def work(effects: list[ReplicaEffect]) -> list[ReplicaEffect]:
    """Without what only tells the leader, and without a driver's calls."""
    return [effect for effect in effects if not isinstance(effect, Say | tasks.Call)]


def freeze(attempt: Attempt, *served: int) -> Freeze:
    """The order to hold these."""
    return Freeze(round=1, attempt=attempt, manifest=bitmap(served, COUNT))


def serve(machine: ReplicaMachine, *numbers: int, **changes: object) -> list[ReplicaEffect]:
    """The backward of these microbatches is asked for and done."""
    effects: list[ReplicaEffect] = []
    for number in numbers:
        request = tag(1, number, **changes)
        refusal = machine.admit(request, D1 if number < 4 else D2)
        assert refusal is None, refusal
        effects += work(machine.receive(tasks.Served(tag=request), 0.0))
    return effects


def begun(account: str = M1) -> ReplicaMachine:
    """A replica in the first round."""
    machine = replica(account, log_of(OPEN))
    assert work(machine.receive(LogGrew(), 0.0)) == [OpenStage(round=1, state=S0, stage=machine.status().stage)]
    return machine


def delivered() -> ReplicaMachine:
    """One that wrote its update with microbatches 0 and 1."""
    machine = begun()
    serve(machine, 0, 1)
    machine.receive(freeze(FIRST, 0, 1), 0.0)
    machine.receive(tasks.Wrote(receipt=receipt(M1, [0, 1])), 0.0)
    return machine


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
    assert effects == [Say()]
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
    orders = (replace(freeze(FIRST, 0), round=2), Cut(round=2, attempt=FIRST, receipts=()), Halt(round=2, attempt=FIRST))
    for order in orders:
        assert machine.receive(order, 0.0) == []


def test_with_the_cut_it_sums_with_the_norms_it_applies_and_with_the_settle_it_holds_the_state() -> None:
    machine = delivered()
    receipts = (receipt(M1, [0, 1]),)
    cut = Cut(round=1, attempt=FIRST, receipts=receipts)
    assert work(machine.receive(cut, 0.0)) == [SumUpdates(round=1, stage=1, receipts=receipts)]
    machine.receive(tasks.Normed(receipts=receipts, norm=NORMS[0]), 0.0)
    assert machine.status().norm == NORMS[0]
    told = replace(cut, norms=NORMS)
    assert work(machine.receive(told, 0.0)) == [ApplyStage(round=1, stage=1, receipts=receipts, norms=NORMS)]
    machine.receive(tasks.AppliedStage(round=1, receipts=receipts, state=state(1, 1)), 0.0)
    assert (machine.status().applied, machine.status().state) == (state(1, 1), S0)
    refusal = machine.admit(tag(1, 3, attempt=SECOND), D1)
    assert refusal is not None
    assert refusal.code == "STALE"
    machine.log.extend([*receipts, settle(machine.log.size, 1)])
    assert work(machine.receive(LogGrew(), 0.0)) == []
    assert machine.status().state == S1


def test_a_cut_that_gives_way_is_gone_back_from() -> None:
    machine = delivered()
    receipts = (receipt(M1, [0, 1]),)
    machine.receive(Cut(round=1, attempt=FIRST, receipts=receipts, norms=NORMS), 0.0)
    machine.receive(tasks.AppliedStage(round=1, receipts=receipts, state=state(1, 1)), 0.0)
    load = LoadStage(round=0, stage=1, state=state(1))
    assert work(machine.receive(freeze(SECOND, 0, 1), 0.0)) == [load]
    assert machine.status().state == ""
    assert isinstance(work(machine.receive(tasks.HoldsStage(round=0, stage=1, state=state(1)), 0.0))[0], OpenStage)
    machine.receive(freeze(SECOND, 0, 1), 0.0)
    assert machine.status().receipt == receipt(M1, [0, 1]), "what it wrote before still stands"
    machine.receive(freeze(THIRD, 0), 0.0)
    assert machine.status().lacking == bitmap([0], COUNT)


def test_the_same_receipts_told_by_another_leader_are_not_applied_twice() -> None:
    machine = delivered()
    receipts = (receipt(M1, [0, 1]),)
    machine.receive(Cut(round=1, attempt=FIRST, receipts=receipts, norms=NORMS), 0.0)
    machine.receive(tasks.AppliedStage(round=1, receipts=receipts, state=state(1, 1)), 0.0)
    later = Cut(round=1, attempt=Attempt(2, "another"), receipts=receipts, norms=NORMS)
    assert work(machine.receive(later, 0.0)) == []
    assert (machine.status().frozen, machine.status().applied) == (later.attempt, state(1, 1))


def test_a_worker_that_ends_loses_its_accumulator_and_says_so_when_it_is_asked() -> None:
    machine = begun()
    serve(machine, 0)
    assert work(machine.receive(tasks.WorkerLost(), 0.0)) == [LoadStage(round=0, stage=1, state=state(1))]
    assert machine.status().state == ""
    refusal = machine.admit(tag(1, 1), D1)
    assert refusal is not None
    assert refusal.code == "STALE"
    machine.receive(tasks.HoldsStage(round=0, stage=1, state=state(1)), 0.0)
    machine.receive(freeze(FIRST, 0), 0.0)
    assert machine.status().lacking == bitmap([0], COUNT)


def test_an_undo_that_breaks_empties_the_accumulator() -> None:
    machine = begun()
    serve(machine, 0, 1)
    [undo] = work(machine.receive(freeze(FIRST, 0), 0.0))
    effects = machine.receive(tasks.StageBroke(effect=undo, reason="it broke"), 0.0)
    assert work(effects) == [OpenStage(round=1, state=S0, stage=1)]
    assert machine.status().lacking == bitmap([0], COUNT)


def test_a_round_that_was_missed_is_applied_if_the_norms_were_told_else_a_snapshot_is_loaded() -> None:
    receipts = (receipt(M1, [0, 1]), receipt(L1, [0, 1]))
    cut = Cut(round=1, attempt=FIRST, receipts=receipts, norms=NORMS)
    load = LoadStage(round=1, stage=1, state=state(1, 1))
    for told in (True, False):
        machine = replica(M2, log_of(OPEN), held=None, stage=1)
        assert work(machine.receive(LogGrew(), 0.0)) == [LoadStage(round=0, stage=1, state=state(1))]
        if told:
            machine.receive(cut, 0.0)
        machine.log.extend([*receipts, settle(machine.log.size, 2)])
        [step] = work(machine.receive(tasks.HoldsStage(round=0, stage=1, state=state(1)), 1.0))
        assert step == ApplyStage(round=1, stage=1, receipts=receipts, norms=NORMS if told else ())
        if told:
            assert work(machine.receive(tasks.StageBroke(effect=step, reason="it broke"), 1.0)) == []
            assert work(machine.tick(2.0)) == [load]


def test_where_no_snapshot_is_to_be_had_it_applies_without_being_told_the_norms() -> None:
    machine = begun(M2)
    receipts = (receipt(M1, [0, 1]),)
    machine.log.extend([*receipts, settle(machine.log.size, 1)])
    [load] = work(machine.receive(LogGrew(), 0.0))
    machine.receive(tasks.StageBroke(effect=load, reason="nobody has it"), 0.0)
    assert work(machine.tick(1.0)) == [ApplyStage(round=1, stage=1, receipts=receipts, norms=())]


def test_from_an_older_snapshot_the_way_goes_on_by_applying() -> None:
    machine = replica(M2, log_of(OPEN, receipt(M1, [0, 1]), settle(2, 1)), held=None, stage=1)
    assert work(machine.receive(LogGrew(), 0.0)) == [LoadStage(round=1, stage=1, state=state(1, 1))]
    [apply] = work(machine.receive(tasks.HoldsStage(round=0, stage=1, state=state(1)), 0.0))
    assert isinstance(apply, ApplyStage)


def test_whoever_is_assigned_another_stage_fetches_it_but_never_leaves_its_seat() -> None:
    seated = begun()
    assert work(seated.receive(Assign(stage=2), 0.0)) == []
    assert seated.status().stage == 1
    free = replica(M1, log_of())
    assert work(free.receive(Assign(stage=2), 0.0)) == [LoadStage(round=0, stage=2, state=state(2))]
    assert (free.status().stage, free.status().state) == (2, "")
    assert work(free.receive(Assign(stage=7), 0.0)) == []


def test_a_receipt_signed_before_a_restart_is_told_again() -> None:
    ours = receipt(M1, [0, 1])
    machine = replica(M1, log_of(OPEN), life=2, promised=[ours])
    machine.receive(LogGrew(), 0.0)
    assert machine.status().receipt == ours
    assert work(machine.receive(freeze(FIRST, 0, 1), 0.0)) == []
    assert machine.status().lacking == ""


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
