"""The leader where the last stage is a group of experts: it is wanted to begin with, and done without afterwards.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import StageOpen
from ledger.stages import bitmap
from peer.errors import RoundError
from peer.rounds.messages import Evaluated, Left, Logged, Unevaluated
from peer.runs.staged.messages import Standing
from peer.stages.course import Step
from peer.stages.lead import Phase
from peer.stages.messages import Cut, Freeze, Halt, Kind, Status
from peer.stages.opening import opening
from peer.stages.refusals import check_status
from peer.stages.tally import NO_NORM
from peer.stages.work import Work
from tests.peer.stages_bench import ALL, NORM, SERVED, TABLES, Bench
from tests.peer.stages_kit import COUNT, D1, D2, L1, L2, M1, M2, OPEN, PLAN, RUN, S0, log_of, state, tag

EXPERTS = replace(PLAN, experts=1)
TRUNK = (D1, D2, M1, M2)
WITHOUT = {driver: tuple((number, (row[0], "")) for number, row in table) for driver, table in TABLES.items()}


def gone(bench: Bench, *accounts: str, now: float) -> None:
    for account in accounts:
        bench.tell(Left(account=account, reason="test"), now)


def settle_without_the_group(bench: Bench) -> None:
    """The members of the trunk bring the round to its end."""
    cut = bench.orders[D1]
    assert isinstance(cut, Cut)
    assert [given.account for given in cut.receipts] == list(TRUNK)
    for account in TRUNK:
        bench.say(account, 5.0, frozen=cut.attempt, cut=cut.receipts, norm=NORM, applied="", armed=False)
    cut = bench.orders[D1]
    assert isinstance(cut, Cut)
    assert cut.norms == (NORM, NORM, NO_NORM)
    for account in TRUNK:
        stage = bench.standing[account].stage
        bench.say(account, 5.0, frozen=cut.attempt, cut=cut.receipts, armed=True, applied=state(stage, 1))
    assert bench.leader.phase is Phase.LOGGING
    assert bench.settled().states == (state(0, 1), state(1, 1), state(2, 0)), "the group stays what it was"


def test_the_next_round_is_opened_once_the_state_before_it_is_evaluated_or_nobody_can() -> None:
    plan = replace(EXPERTS, plan=replace(PLAN.plan, evaluate_every=1))
    measured, nobody = Evaluated(round=1, loss=2_500_000), Unevaluated(round=1, account="")
    for answer, figure in ((measured, (1, 2_500_000)), (nobody, ())):
        bench = Bench(OPEN, plan=plan).driven().wrote(*ALL).applied(*ALL)
        assert (bench.leader.phase, bench.logged) == (Phase.EVALUATING, [])
        bench.tell(answer, 6.0)
        assert bench.settled().validation == figure
        assert isinstance(bench.logged[-1], StageOpen)


def test_a_round_whose_turn_it_is_not_is_followed_by_the_next_at_once() -> None:
    bench = Bench(OPEN, plan=replace(EXPERTS, plan=replace(PLAN.plan, evaluate_every=2)))
    bench.driven().wrote(*ALL).applied(*ALL)
    assert bench.leader.phase is Phase.LOGGING
    assert bench.settled().validation == ()


def test_a_group_whose_replicas_all_die_before_they_wrote_is_left_out_of_the_round() -> None:
    bench = Bench(OPEN, plan=EXPERTS).driven()
    assert bench.step is Step.COLLECTING
    assert isinstance(bench.orders[L1], Freeze)
    gone(bench, L1, L2, now=3.0)
    assert bench.step is Step.RECONCILING
    order = bench.orders[D1]
    assert isinstance(order, Halt)
    bench.say(D1, 3.0)
    order = bench.orders[D1]
    assert isinstance(order, Halt)
    assert set(order.gone) == {L1, L2}, "so the driver does not try"
    bench.halted(D1, D2, now=3.0)
    manifests = {name: bench.orders[name].manifest for name in TRUNK}
    assert manifests == {name: bitmap(SERVED[name], COUNT) for name in TRUNK}
    bench.wrote(*TRUNK)
    settle_without_the_group(bench)


def test_a_group_that_nobody_served_needs_no_receipt() -> None:
    bench = Bench(OPEN, plan=EXPERTS).all_say(1.0)
    gone(bench, L1, L2, now=1.0)
    for driver in (D1, D2):
        bench.say(driver, 2.0, finished=True)
    for driver in (D1, D2):
        bench.halted(driver, table=WITHOUT[driver])
    bench.wrote(*TRUNK)
    settle_without_the_group(bench)


def test_receipts_of_a_group_do_not_count_when_nobody_is_left_to_take_its_step() -> None:
    bench = Bench(OPEN, plan=EXPERTS).driven()
    bench.wrote(*ALL)
    assert bench.step is Step.APPLYING
    gone(bench, L1, L2, now=4.0)
    assert bench.step is Step.RECONCILING
    bench.halted(D1, D2, now=4.0)
    assert bench.step is Step.APPLYING, "what the trunk wrote is what it shall hold"
    settle_without_the_group(bench)


def test_one_replica_of_a_group_takes_over_what_another_had() -> None:
    bench = Bench(OPEN, plan=EXPERTS).driven()
    gone(bench, L1, now=3.0)
    order = bench.orders[D1]
    assert isinstance(order, Halt)
    assert order.gaps == ((2, 0), (2, 1))


def test_a_run_begins_with_all_groups_and_goes_on_without() -> None:
    log = log_of()
    quotas = {D1: 8, D2: 8}
    there = {0: [D1, D2], 1: [M1], 2: [L1]}
    first = opening(EXPERTS, log, round=1, state=S0, ready=there, quotas=quotas, balance=10**9)
    assert isinstance(first, StageOpen)
    lacking = {**there, 2: []}
    assert opening(EXPERTS, log, round=1, state=S0, ready=lacking, quotas=quotas, balance=10**9) is None
    later = opening(EXPERTS, log, round=2, state=S0, ready=lacking, quotas=quotas, balance=10**9)
    assert isinstance(later, StageOpen)
    assert {seat.stage for seat in later.roster} == {0, 1}
    assert opening(EXPERTS, log, round=2, state=S0, ready={**there, 1: []}, quotas=quotas, balance=10**9) is None


def test_only_one_driver_is_needed_of_a_trunk() -> None:
    plan = replace(EXPERTS, replicas=2)
    assert [plan.least(stage) for stage in range(3)] == [1, 2, 2]
    assert [plan.opens_with(stage, 2) for stage in range(3)] == [1, 2, 0]


def test_a_table_may_lack_a_group_and_nothing_else() -> None:
    opened = log_of(OPEN).open
    status = Status(account=D1, life=1, seq=1, stage=0, state=S0, round=1, table=((0, (M1, "")),))
    check_status(status, plan=EXPERTS, open_round=opened)
    for table in (((0, ("", L1)),), ((0, (M1,)),), ((0, (M1, M2)),)):
        with pytest.raises(RoundError, match="went to others than one of every stage"):
            check_status(replace(status, table=table), plan=EXPERTS, open_round=opened)
    with pytest.raises(RoundError, match="went to others than one of every stage"):
        check_status(status, plan=PLAN, open_round=opened)
    told = Standing.of(RUN, status, opened)
    assert told.table == [[0, 2, 6]]
    assert told.status(D1, opened).table == status.table


def test_a_microbatch_counts_once_its_driver_says_what_it_is_made_of() -> None:
    opened = log_of(OPEN).open
    assert opened is not None
    seat = opened.seat(L1)
    assert seat is not None
    work = Work(open_round=opened, seat=seat, plan=EXPERTS, room=8)
    calls = [tag(2, 0, kind, layer=layer) for layer in (0, 1) for kind in (Kind.FORWARD, Kind.BACKWARD)]
    for call in calls:
        assert work.admit(call, D1) is None
        work.served(call)
    assert list(work.held) == []
    count = tag(2, 0)
    assert work.admit(count, D1) is None
    work.served(count)
    assert list(work.held) == [0]
    assert work.admit(calls[1], D1) is None, "it is driven again"
    assert list(work.held) == []


def test_the_next_round_begins_at_once_without_the_group() -> None:
    bench = Bench(OPEN, plan=EXPERTS).driven()
    gone(bench, L1, L2, now=3.0)
    bench.halted(D1, D2, now=3.0).wrote(*TRUNK)
    settle_without_the_group(bench)
    opened = bench.logged[-1]
    assert isinstance(opened, StageOpen)
    assert {seat.stage for seat in opened.roster} == {0, 1}
    bench.log.extend(bench.logged)
    bench.tell(Logged(balance=10**9), 6.0)
    assert bench.leader.phase is Phase.ROUND
