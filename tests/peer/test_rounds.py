"""The leader's round machine: who is rostered, what is refused, when a round is cut, how a run ends.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import Close, Open, Receipt, Settle, Slots
from peer.errors import RoundError
from peer.rounds import messages as rounds
from peer.rounds.lead import Phase
from peer.rounds.messages import ApplyRound, Evaluate, Log
from tests.peer.rounds_kit import (
    PLAN,
    QUOTA,
    S0,
    S1,
    S2,
    SEAT,
    TOKENS,
    A,
    B,
    Bench,
    C,
    D,
    applies,
    begun,
    blob,
    checks,
    digest,
    opened,
    receipt,
    reports,
)

NAN = ("FP-131", "values are not finite")


def collecting(*accounts: str) -> Bench:
    """A leader that collects round 1 from these accounts."""
    bench = Bench(replace(PLAN, min_members=len(accounts)))
    bench.beat(*accounts)
    bench.machine.plan = bench.plan = PLAN
    assert bench.machine.phase is Phase.COLLECTING
    return bench


# ---------------------------------------------------------------- opening


def test_a_round_is_opened_once_enough_members_hold_the_state() -> None:
    bench = Bench()
    assert bench.beat(A) == []
    bench.beat(B, state="")
    assert bench.machine.phase is Phase.WAITING
    effects = bench.beat(B)
    assert bench.logged == [opened(1, S0, [A, B])]
    assert [fields["account"] for fields in reports(effects, "joined")] == [A, B]


def test_slots_are_never_given_out_twice() -> None:
    bench = collecting(A, B)
    bench.settle(S1, A, B)
    bench.settle(S2, A, B)
    starts = [seat.slot_start for entry in bench.logged if isinstance(entry, Open) for seat in entry.roster]
    assert starts == [place * QUOTA for place in range(6)]


def test_no_more_seats_are_given_out_than_the_spec_allows_or_the_balance_pays() -> None:
    for most, balance in ((3, 100 * SEAT), (8, 3 * SEAT)):
        bench = Bench(replace(PLAN, max_members=most))
        bench.beat(A, B, C, D)
        bench.deliver(A, B)
        bench.tell(rounds.Applied(round=1, state=S1), certify=False)
        bench.log.extend([Settle(round=1, receipts=(), state=S1)])
        bench.tell(rounds.Logged(balance=balance))
        second = bench.logged[-1]
        assert isinstance(second, Open)
        assert [seat.account for seat in second.roster] == [A, B, C]


def test_a_joiner_is_rostered_at_the_next_open_and_stalls_nobody() -> None:
    bench = collecting(A, B)
    bench.beat(C, state="")
    bench.beat(C, state=S0)
    with pytest.raises(RoundError, match="not on the roster"):
        bench.deliver(C)
    effects = bench.settle(S1, A, B)
    assert applies(effects) == [(A, B)]
    assert bench.logged[-1] == opened(2, S1, [A, B, C], slot=2 * QUOTA)
    assert reports(effects, "joined") == [{"account": C, "round": 2}]


# ---------------------------------------------------------------- refusals

LIES = {
    "another run": (replace(receipt(A), run=digest("other")), "FP-410"),
    "another network": (replace(receipt(A), network=digest("other")), "FP-410"),
    "a round that is not open yet": (replace(receipt(A), round=2), "FP-411"),
    "an account without a seat": (receipt(C), "FP-412"),
    "another state": (replace(receipt(A), state_in=S1), "FP-413"),
    "slots of another member": (replace(receipt(A), slots=Slots(QUOTA, QUOTA)), "FP-413"),
    "slots that do not start at its seat": (replace(receipt(A), slots=Slots(1, 1), tokens=TOKENS), "FP-413"),
    "more slots than its quota": (
        replace(receipt(A), slots=Slots(0, QUOTA + 1), tokens=(QUOTA + 1) * TOKENS),
        "FP-413",
    ),
    "more tokens than its slots hold": (replace(receipt(A), tokens=QUOTA * TOKENS + 1), "FP-413"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_receipt_is_refused_by_name_for(lie: str) -> None:
    bench, (given, code) = collecting(A, B), LIES[lie]
    with pytest.raises(RoundError, match=given.account[:16]) as caught:
        bench.tell(rounds.Delivered(receipt=given))
    assert caught.value.code == code
    assert bench.machine.delivered == frozenset()
    assert applies(bench.settle(S1, A, B)) == [(A, B)]


def test_a_receipt_of_a_settled_round_is_refused_although_its_slots_were_its_own() -> None:
    bench = collecting(A, B)
    late = bench.open_receipt(B)
    bench.settle(S1, A, B)
    bench.deliver(B)
    with pytest.raises(RoundError, match="round 2 is open") as caught:
        bench.tell(rounds.Delivered(receipt=late))
    assert caught.value.code == "FP-411"


def test_the_same_receipt_again_is_welcome_and_a_different_one_is_not() -> None:
    bench = collecting(A, B)
    given = bench.open_receipt(A)
    assert checks(bench.tell(rounds.Delivered(receipt=given))) == [A]
    assert bench.tell(rounds.Delivered(receipt=given)) == []
    other = replace(given, update=blob("another update"))
    with pytest.raises(RoundError, match="FP-414"):
        bench.tell(rounds.Delivered(receipt=other))
    assert list(bench.machine._desk.receipts) == [given]


def test_a_non_finite_update_is_refused_and_the_others_are_unaffected() -> None:
    bench = collecting(A, B, C)
    effects = bench.deliver(A, refusal=NAN)
    assert reports(effects, "refused") == [{"account": A, "round": 1, "code": NAN[0], "reason": NAN[1]}]
    with pytest.raises(RoundError, match="not finite"):
        bench.deliver(A)
    with pytest.raises(RoundError, match="FP-414"):
        bench.tell(rounds.Delivered(receipt=replace(bench.open_receipt(A), update=blob("another"))))
    assert applies(bench.deliver(B, C)) == [(B, C)]  # at once: nothing of A is awaited


def test_three_unsound_updates_exclude_an_account() -> None:
    bench = collecting(A, B, C)
    for state in (S1, S2):
        bench.deliver(A, refusal=NAN)
        bench.settle(state, B, C)
        bench.beat(A, B, C, state=state)
    bench.deliver(A, refusal=NAN)
    with pytest.raises(RoundError):
        bench.deliver(A)
    assert bench.machine.roll.excluded(A)
    assert A not in bench.machine.roll.ready({S2})


def test_an_update_that_could_not_be_fetched_is_no_strike_and_may_be_sent_again() -> None:
    bench = collecting(A, B)
    for _ in range(5):
        bench.deliver(A, refusal=("FP-417", "not here after 60 s"))
    assert not bench.machine.roll.excluded(A)
    assert applies(bench.deliver(A, B)) == [(A, B)]


# ---------------------------------------------------------------- cutting


def test_survivors_never_wait_for_the_dead() -> None:
    bench = collecting(A, B, C)
    bench.deliver(A, B)
    assert bench.machine.phase is Phase.COLLECTING
    assert bench.machine.deadline == PLAN.lost_after_s
    effects = bench.stay(PLAN.lost_after_s, A, B)
    assert applies(effects) == [(A, B)]
    assert [fields["account"] for fields in reports(effects, "dropped")] == [C]


def test_a_goodbye_is_as_good_as_a_death() -> None:
    bench = collecting(A, B, C)
    bench.deliver(A, B)
    assert applies(bench.tell(rounds.Left(account=C, reason="paused"))) == [(A, B)]


def test_an_update_still_in_flight_is_not_awaited_once_its_sender_is_dead() -> None:
    bench = collecting(A, B, C)
    bench.deliver(A, B)
    bench.tell(rounds.Delivered(receipt=bench.open_receipt(C)))
    assert applies(bench.stay(3.0, A, B)) == [(A, B)]
    late = rounds.Checked(account=C, update=receipt(C, start=2 * QUOTA).update, refusal=None)
    assert bench.tell(late) == []
    bench.tell(rounds.Applied(round=1, state=S1))
    assert [entry.account for entry in bench.logged if isinstance(entry, Receipt)] == [A, B]


def test_whoever_was_dropped_and_is_back_is_rostered_again() -> None:
    bench = collecting(A, B, C)
    bench.deliver(A, B)
    bench.stay(3.0, A, B)
    bench.beat(C)
    effects = bench.tell(rounds.Applied(round=1, state=S1))
    assert reports(effects, "rejoined") == [{"account": C, "round": 2}]
    assert reports(effects, "joined") == []


def test_a_slow_member_is_awaited_until_the_deadline_that_earlier_rounds_taught() -> None:
    bench = collecting(A, B, C)
    bench.stay(4.0, A, B, C)
    bench.settle(S1, A, B, C)
    assert bench.machine.pace.deadline_s(4.0) == pytest.approx(6.0)
    bench.stay(8.0, A, B, C, state=S1)
    bench.deliver(A, B)
    assert applies(bench.stay(9.5, A, B, C, state=S1)) == []
    assert applies(bench.stay(10.0, A, B, C, state=S1)) == [(A, B)]


def test_when_all_are_slower_than_ever_the_first_delivery_moves_the_deadline() -> None:
    bench = collecting(A, B, C)
    bench.stay(1.0, A, B, C)
    bench.settle(S1, A, B, C)
    bench.stay(11.0, A, B, C, state=S1)
    bench.deliver(A, B)
    assert applies(bench.stay(15.9, A, B, C, state=S1)) == []
    assert applies(bench.deliver(C)) == [(A, B, C)]


def test_with_too_few_receipts_the_living_are_awaited_longer_but_not_for_ever() -> None:
    bench = collecting(A, B)
    bench.deliver(A)
    first_s = PLAN.first_deadline_s
    assert applies(bench.stay(3 * first_s - 1, A, B)) == []
    assert applies(bench.stay(3 * first_s, A, B)) == [(A,)]


def test_a_round_in_which_nothing_comes_makes_room_for_newcomers() -> None:
    bench = collecting(A, B)
    bench.stay(4 * 3 * PLAN.first_deadline_s, A, B)
    assert bench.machine.phase is Phase.COLLECTING  # nobody could do better
    bench.beat(C)
    assert bench.log.round == 1
    assert bench.log.settled[0].receipts == ()
    assert bench.log.state == S0
    assert bench.logged[-1] == opened(2, S0, [A, B, C], slot=2 * QUOTA)


def test_when_everybody_died_the_round_waits_until_enough_are_back() -> None:
    bench = collecting(A, B)
    bench.at(100.0)
    assert bench.machine.phase is Phase.COLLECTING
    assert bench.machine.deadline is None or bench.machine.deadline > 100.0
    bench.beat(A, B)
    assert applies(bench.deliver(A, B)) == [(A, B)]


def test_with_too_few_left_the_run_waits_and_goes_on_when_they_are_back() -> None:
    bench = collecting(A, B)
    bench.deliver(A, B)
    bench.tell(rounds.Left(account=B, reason="paused"))
    effects = bench.tell(rounds.Applied(round=1, state=S1))
    assert isinstance(bench.logged[-1], Settle)
    assert reports(effects, "waiting") == [{"round": 2, "needs": 2, "ready": 1}]
    bench.beat(B, state=S1)
    assert isinstance(bench.logged[-1], Open)
    assert [effect for effect in effects if isinstance(effect, ApplyRound)] == []


def test_the_log_is_asked_for_settle_and_next_open_as_one() -> None:
    bench = collecting(A, B)
    bench.deliver(A, B)
    effects = bench.tell(rounds.Applied(round=1, state=S1))
    (log,) = (effect for effect in effects if isinstance(effect, Log))
    assert [entry.type for entry in log.entries] == ["receipt", "receipt", "settle", "open"]
    settle = log.entries[2]
    assert isinstance(settle, Settle)
    assert settle.receipts == (2, 3)
    assert not [entry for entry in log.entries if isinstance(entry, Close)]
    assert [effect for effect in effects if isinstance(effect, Evaluate)] == []
    assert begun().size == 1
