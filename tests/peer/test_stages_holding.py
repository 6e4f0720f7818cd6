"""How a replica comes from one state to the next, and back.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.stages import bitmap
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Assign, Attempt, Cut
from peer.stages.tasks import ApplyStage, LoadStage, OpenStage, SumUpdates
from tests.peer.stages_kit import COUNT, D1, L1, M1, M2, OPEN, S0, S1, log_of, receipt, replica, settle, state, tag
from tests.peer.stages_replica import FIRST, NORMS, SECOND, THIRD, begun, delivered, freeze, serve, work


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
