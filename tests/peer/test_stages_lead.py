"""The leader of a run with stages: from waiting to the settle, whoever dies on the way.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import StageOpen
from ledger.stages import bitmap
from peer.rounds.messages import Left, Logged
from peer.stages.course import Step
from peer.stages.lead import Phase
from peer.stages.messages import Attempt, Cut, Freeze, Halt, Losses
from tests.peer.stages_bench import ALL, NORM, SERVED, Bench
from tests.peer.stages_kit import COUNT, D1, D2, L1, L2, M1, M2, OPEN, PLAN, S0, S1, STAGE, states


def test_it_waits_for_replicas_of_every_stage_and_says_what_is_missing() -> None:
    bench = Bench()
    bench.all_say(1.0, D1, D2, M1)
    assert bench.reports[-1].fields["missing"] == "stage 2 has no replica: needs a peer with >= 3.1 GB"
    bench.all_say(2.0, L1)
    assert bench.logged == [], "the others get a little time to come"
    bench.all_say(3.0)
    bench.take(bench.leader.tick(2.0 + PLAN.plan.lost_after_s))
    [opened] = bench.logged
    assert isinstance(opened, StageOpen)
    assert [(seat.account, seat.slot_start, seat.quota, seat.stage) for seat in opened.roster] == [
        (D1, 0, 8, 0), (D2, 8, 8, 0), (M1, 0, 16, 1), (M2, 0, 16, 1), (L1, 0, 16, 2), (L2, 0, 16, 2),
    ]  # fmt: skip


def test_a_round_is_driven_reconciled_collected_applied_and_logged() -> None:
    bench = Bench(OPEN).all_say(1.0)
    assert (bench.step, bench.orders) == (Step.DRIVING, {})
    bench.say(D1, finished=True)
    assert bench.step is Step.DRIVING
    bench.say(D2, finished=True)
    assert bench.step is Step.RECONCILING
    assert isinstance(bench.orders[D1], Halt)
    bench.halted(D1, D2)
    assert bench.step is Step.COLLECTING
    manifests = {name: order.manifest for name, order in bench.orders.items() if isinstance(order, Freeze)}
    assert manifests == {name: bitmap(served, COUNT) for name, served in SERVED.items()}
    bench.wrote(*ALL)
    assert bench.step is Step.APPLYING
    cut = bench.orders[M2]
    assert isinstance(cut, Cut)
    assert [given.account for given in cut.receipts] == list(ALL)
    assert cut.norms == ()
    bench.applied(*ALL)
    assert bench.leader.phase is Phase.LOGGING
    settle = bench.settled()
    assert (settle.states, settle.state, len(settle.receipts)) == (states(1), S1, 6)
    assert isinstance(bench.logged[-1], StageOpen)
    bench.log.extend(bench.logged)
    bench.tell(Logged(balance=10**9), 5.0)
    assert (bench.leader.phase, bench.log.round, bench.step) == (Phase.ROUND, 1, Step.DRIVING)
    assert bench.log.open is not None
    assert bench.log.open.roster[0].start == 16


def test_norms_are_told_when_one_replica_of_each_stage_said_its_own() -> None:
    bench = Bench(OPEN).driven().wrote(*ALL)
    for account in (D1, M2, L1):
        order = bench.orders[account]
        assert isinstance(order, Cut)
        bench.say(account, 4.0, frozen=order.attempt, cut=order.receipts, norm=NORM)
    told = bench.orders[D2]
    assert isinstance(told, Cut)
    assert told.norms == (NORM,) * 3


def test_a_state_is_sure_when_more_than_half_of_the_living_replicas_say_it() -> None:
    bench = Bench(OPEN).driven().wrote(*ALL).applied(D1, M1, L1)
    assert bench.logged == []
    bench.applied(D2, M2)
    assert bench.logged == []
    bench.tell(Left(account=L2, reason="left"), 5.0)
    assert bench.settled().state == S1


def test_what_a_dead_replica_held_is_replayed_and_frozen_anew() -> None:
    bench = Bench(OPEN).driven()
    bench.tell(Left(account=M1, reason="left"), 3.0)
    halt = bench.orders[D1]
    assert isinstance(halt, Halt)
    assert (halt.gaps, halt.gone) == (((1, 0),), (M1,))
    assert bench.orders[D2] == replace(halt, gaps=((1, 4),))
    bench.halted(D1, table=((0, (M2, L1)), (1, (M2, L1))))
    bench.halted(D2, table=((4, (M2, L2)),))
    order = bench.orders[M2]
    assert isinstance(order, Freeze)
    assert order.manifest == bitmap([0, 1, 4], COUNT)
    bench.wrote(D1, D2, M2, L1, L2).applied(D1, D2, M2, L1, L2)
    assert len(bench.settled().receipts) == 5


def test_what_a_replica_says_to_lack_is_replayed() -> None:
    bench = Bench(OPEN).driven()
    bench.say(L1, 3.0, frozen=bench.attempt(L1), lacking=bitmap([1], COUNT))
    halt = bench.orders[D1]
    assert isinstance(halt, Halt)
    assert (halt.gaps, bench.step) == (((2, 1),), Step.RECONCILING)


def test_what_a_dead_driver_drove_is_dropped_everywhere() -> None:
    bench = Bench(OPEN).driven()
    bench.tell(Left(account=D2, reason="left"), 3.0)
    bench.halted(D1)
    manifests = {name: order.manifest for name, order in bench.orders.items() if isinstance(order, Freeze)}
    assert (manifests[M1], manifests[L1]) == (bitmap([0], COUNT), bitmap([0, 1], COUNT))
    bench.wrote(D1, M1, M2, L1).applied(D1, M1, M2, L1, L2)
    assert len(bench.settled().receipts) == 4


def test_what_is_lost_of_a_driver_that_died_after_its_update_was_here_is_dropped_and_not_asked_for_again() -> None:
    bench = Bench(OPEN).driven().wrote(D2)
    bench.tell(Left(account=D2, reason="left"), 3.5)
    bench.say(M1, 3.5, frozen=bench.attempt(M1), lacking=bitmap([4], COUNT))
    assert bench.step is Step.RECONCILING
    bench.halted(D1)
    order = bench.orders[M1]
    assert isinstance(order, Freeze)
    assert order.manifest == bitmap([0], COUNT)
    bench.wrote(D1, M1, M2, L1).applied(D1, M1, M2, L1, L2)
    assert [receipt.account for receipt in bench.logged[:-2]] == [D1, M1, M2, L1]  # type: ignore[union-attr]


def test_a_replica_that_dies_after_its_update_is_here_counts() -> None:
    bench = Bench(OPEN).driven().wrote(M1, M2)
    bench.tell(Left(account=M1, reason="left"), 3.5)
    bench.tell(Left(account=M2, reason="left"), 3.5)
    assert bench.step is Step.COLLECTING
    bench.wrote(D1, D2, L1, L2)
    assert bench.step is Step.APPLYING


def test_a_silent_replica_is_told_to_the_drivers_while_they_drive() -> None:
    bench = Bench(OPEN).all_say(1.0)
    for now in (2.0, 3.0, 4.0):
        bench.all_say(now, *(set(ALL) - {M1}))
    bench.take(bench.leader.tick(4.5))
    assert bench.orders[D1] == Losses(round=1, leader="leader/1", accounts=(M1,))
    bench.say(D1, 4.6, losses=Attempt(1, "leader/1"))
    bench.orders.clear()
    bench.say(D1, 4.7)
    bench.say(D2, 4.7)
    assert list(bench.orders) == [D2], "who took it is not told again"
    bench.say(M2, 4.8, life=2)
    order = bench.orders[D1]
    assert isinstance(order, Losses)
    assert order.accounts == (M1, M2)


def test_a_silent_driver_is_told_to_everybody_and_one_that_was_started_again_to_nobody() -> None:
    bench = Bench(OPEN).all_say(1.0)
    bench.say(D2, 1.5, life=2)
    assert not any(isinstance(order, Losses) for order in bench.orders.values())
    for now in (2.0, 3.0, 4.0):
        bench.all_say(now, *(set(ALL) - {D1, D2}))
        bench.say(D2, now, life=2)
    bench.take(bench.leader.tick(4.5))
    told = {name for name, order in bench.orders.items() if isinstance(order, Losses) and order.accounts == (D1,)}
    assert told >= {D2, M1, M2, L1, L2}
    bench.say(M1, 4.6, losses=Attempt(1, "leader/1"))
    bench.orders.clear()
    bench.all_say(4.7, M2)
    bench.say(M1, 4.7, losses=Attempt(1, "leader/1"))
    assert list(bench.orders) == [M2], "who took it is not told again"


def test_drivers_that_do_not_finish_are_halted_once_others_had_half_as_long_again() -> None:
    bench = Bench(OPEN).all_say(1.0)
    bench.say(D1, 8.0, finished=True)
    for now in (9.0, 10.0, 11.0, 11.9):
        bench.all_say(now)
    assert bench.step is Step.DRIVING
    bench.all_say(12.1)
    assert bench.step is Step.RECONCILING


def test_a_stage_without_replicas_voids_the_round_and_the_run_pauses_where_it_is() -> None:
    bench = Bench(OPEN).all_say(1.0)
    bench.tell(Left(account=L1, reason="left"), 2.0)
    bench.tell(Left(account=L2, reason="left"), 2.0)
    others = [account for account in ALL if STAGE[account] != 2]
    for tenth in range(21, 150, 9):
        bench.all_say(tenth / 10, *others)
    assert (bench.settled().receipts, bench.settled().state) == ((), S0)
    assert bench.reports[-1].fields["missing"] == "stage 2 has no replica: needs a peer with >= 3.1 GB"
    bench.log.extend(bench.logged)
    bench.tell(Logged(balance=10**9), 15.0)
    assert bench.leader.phase is Phase.WAITING
