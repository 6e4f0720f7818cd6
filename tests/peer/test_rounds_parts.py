"""The small parts of the round machines: the log's projection, the pace, the roll, the plan.

IO: none.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.entries import Settle, Validation
from peer.errors import RoundError
from peer.rounds.pace import Pace
from peer.rounds.pause import MAX_RETRY_S, Pause
from peer.rounds.refusals import check_receipt
from peer.rounds.roster import Roll
from tests.peer.rounds_kit import (
    PLAN,
    QUOTA,
    S0,
    S1,
    S2,
    SEAT,
    A,
    B,
    begun,
    blob,
    closed,
    opened,
    receipt,
    settled_round,
)


def test_a_log_that_has_begun_stands_at_the_initial_state() -> None:
    log = begun()
    assert (log.round, log.state, log.open, log.close, log.size) == (0, S0, None, None, 1)
    assert log.state_after(0) == S0


def test_a_log_tells_the_open_round_its_seats_and_the_next_free_slot() -> None:
    log = begun(opened(1, S0, [A, B]))
    assert log.open is not None
    seat = log.open.seat(B)
    assert seat is not None
    assert (seat.start, seat.quota, log.next_slot, log.open.index) == (QUOTA, QUOTA, 2 * QUOTA, 1)
    assert log.open.seat(S0) is None


def test_a_settled_round_holds_the_receipts_that_count_in_their_order() -> None:
    log = begun(opened(1, S0, [A, B]))
    log.extend(
        [receipt(A), receipt(B, start=QUOTA), Settle(round=1, receipts=(3,), state=S1, validation=Validation(1, 9))]
    )
    (done,) = log.settled
    assert [r.account for r in done.receipts] == [B]
    assert (done.state_in, done.state, done.validation) == (S0, S1, (1, 9))
    assert log.open is None


def test_a_settle_of_a_round_that_is_not_open_is_refused() -> None:
    for log, number in ((begun(), 1), (begun(opened(1, S0, [A])), 2)):
        with pytest.raises(RoundError, match="FP-402"):
            log.extend([Settle(round=number, receipts=(), state=S1)])


def test_a_state_is_found_by_its_round_and_a_round_by_its_state() -> None:
    log = begun()
    for number, (before, after) in enumerate(((S0, S1), (S1, S1), (S1, S2)), start=1):
        log.extend(settled_round(number, before, after, log.size))
    assert [log.round_of(state) for state in (S0, S1, S2, blob("unknown"), "")] == [0, 2, 3, None, None]
    with pytest.raises(RoundError, match="FP-401"):
        log.state_after(4)


def test_a_close_ends_an_open_round() -> None:
    log = begun(opened(1, S0, [A]), closed(S0))
    assert log.open is None
    assert log.close is not None


def test_the_deadline_follows_how_far_members_strayed_lately_from_what_was_expected() -> None:
    pace = Pace(first_s=70.0)
    assert pace.deadline_s(None) == 70.0
    assert pace.deadline_s(10.0) == pytest.approx(15.0)  # expected, and never yet compared
    for needed_s in (10.0, 20.0, 5.0):
        pace.saw(needed_s, expected_s=needed_s)
    assert pace.deadline_s(10.0) == pytest.approx(15.0)  # large quotas and small teach the same
    pace.saw(1000.0, expected_s=1.0)
    assert pace.deadline_s(10.0) == pytest.approx(15.0)  # one straggler does not move the median
    assert pace.deadline_s(0.1) == 3.0
    for number in range(40):
        pace.saw((1.0, 2.0)[number % 2], expected_s=1.0)
    assert pace.deadline_s(10.0) == pytest.approx(10 * (1.5 * 1.5 + 1.0))  # 6 * 0.5 would be more than it may be
    for number in range(40):
        pace.saw((1.0, 1.2)[number % 2], expected_s=1.0)
    assert pace.deadline_s(10.0) == pytest.approx(10 * (1.5 * 1.1 + 6 * 0.1))


def test_with_many_members_the_deadline_looks_at_more_than_the_last_of_one_round() -> None:
    pace = Pace(first_s=70.0)
    pace.deadline_s(None, members=100)
    for needed_s in [10.0] * 80 + [40.0] * 20:
        pace.saw(needed_s, expected_s=10.0)
    assert pace.deadline_s(10.0, members=100) == pytest.approx(15.0)
    assert pace.deadline_s(10.0, members=2) > 50.0

@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=40))
def test_the_deadline_always_leaves_the_median_member_half_as_long_again(needed: list[float]) -> None:
    pace = Pace(first_s=1.0)
    for needed_s in needed:
        pace.saw(needed_s, expected_s=2.0)
    recent = sorted(needed[-32:])
    assert pace.deadline_s(2.0) >= 1.5 * recent[(len(recent) - 1) // 2] - 1e-9


def test_a_member_is_silent_exactly_when_the_roll_said_it_would_be() -> None:
    for beat_at in (0.1, 1 / 3, 12345.678):
        roll = Roll(lost_after_s=3.0)
        roll.beat(A, S0, beat_at)
        assert roll.deadline is not None
        assert roll.silent(roll.deadline - 0.001) == []
        assert [member.account for member in roll.silent(roll.deadline)] == [A]
        assert roll.deadline is None
        assert not roll.lives(A)
        assert roll.silent(99999.0) == []


def test_a_roll_keeps_the_order_of_arrival_and_knows_who_can_work() -> None:
    roll = Roll(lost_after_s=3.0)
    for account, state in ((B, S0), (A, S0)):
        roll.beat(account, state, 0.0)
    assert roll.ready({S0}) == [B, A]
    assert roll.ready({S1}) == []
    roll.leave(B)
    assert roll.leave(B) is None
    assert roll.ready({S0, S1}) == [A]
    for _ in range(Roll.STRIKES):
        roll.strike(A)
    assert roll.ready({S0}) == []
    assert not roll.excluded(B)


def test_a_receipt_is_checked_against_an_open_round_only() -> None:
    with pytest.raises(RoundError, match="round 4 is settled and none is open") as caught:
        check_receipt(receipt(A), plan=PLAN, open_round=None, settled=4)
    assert caught.value.code == "FP-411"
    log = begun(opened(1, S0, [A]))
    check_receipt(receipt(A), plan=PLAN, open_round=log.open, settled=0)


def test_a_free_run_has_as_many_seats_as_its_spec_allows() -> None:
    assert PLAN.seats_for(5 * SEAT + 1) == 5
    free = type(PLAN)(**{**PLAN.__dict__, "price": 0})
    assert free.seats_for(0) == PLAN.max_members


def test_pauses_grow_to_a_limit_and_start_again_after_a_success() -> None:
    pause, waits = Pause(), []
    for _ in range(8):
        pause.failed(100.0)
        waits.append(pause.until - 100.0)
    assert waits == [1, 2, 4, 8, MAX_RETRY_S, MAX_RETRY_S, MAX_RETRY_S, MAX_RETRY_S]
    assert not pause.over(100.0)
    pause.rest(0.0)
    assert pause.over(0.0)
    pause.failed(0.0)
    assert pause.until == 1.0
