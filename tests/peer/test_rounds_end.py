"""The leader's round machine: how a run ends, held-out losses, and a leader that was restarted.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Close, Entry, Receipt, Settle, Slots
from peer.rounds import messages as rounds
from peer.rounds.lead import Phase
from peer.rounds.messages import Evaluate
from tests.peer.rounds_kit import (
    PLAN,
    QUOTA,
    S0,
    S1,
    S2,
    S3,
    SEAT,
    A,
    B,
    Bench,
    C,
    applies,
    begun,
    opened,
    receipt,
    reports,
)


def last(bench: Bench) -> Entry:
    """The newest entry of the log."""
    return bench.logged[-1]


def started(bench: Bench) -> Bench:
    """The same leader once A and B were rostered."""
    bench.beat(A, B)
    return bench


# ---------------------------------------------------------------- ends


def test_after_the_last_round_the_run_is_closed() -> None:
    bench = started(Bench())
    for state in (S1, S2, S3):
        bench.settle(state, A, B)
        bench.beat(A, B, state=state)
    assert last(bench) == Close(state=S3, reason="all rounds settled")
    assert bench.machine.phase is Phase.CLOSED
    assert bench.beat(A, B, state=S3) == []
    assert bench.at(1000.0) == []


def test_the_last_round_is_evaluated_before_the_run_is_closed() -> None:
    bench = started(Bench(replace(PLAN, rounds=1, evaluate_every=5)))
    effects = bench.settle(S1, A, B)
    assert [effect for effect in effects if isinstance(effect, Evaluate)] == [Evaluate(round=1)]
    assert bench.machine.phase is Phase.EVALUATING
    bench.tell(rounds.Evaluated(round=1, loss=1_234_567))
    settle, close = bench.logged[-2:]
    assert isinstance(settle, Settle)
    assert settle.validation == (1, 1_234_567)
    assert close == Close(state=S1, reason="all rounds settled")


def test_a_held_out_loss_in_mid_run_holds_nobody_up_and_goes_into_the_next_settle() -> None:
    bench = started(Bench(replace(PLAN, evaluate_every=1)))
    effects = bench.settle(S1, A, B)
    assert bench.machine.phase is Phase.COLLECTING
    assert Evaluate(round=1) in effects
    bench.tell(rounds.Evaluated(round=1, loss=5))
    bench.beat(A, B, state=S1)
    bench.settle(S2, A, B)
    assert [done.validation for done in bench.log.settled] == [None, (1, 5)]


def test_a_late_held_out_loss_of_an_earlier_round_does_not_close_the_run() -> None:
    bench = started(Bench(replace(PLAN, rounds=2, evaluate_every=1)))
    bench.settle(S1, A, B)
    bench.beat(A, B, state=S1)
    bench.settle(S2, A, B)
    bench.tell(rounds.Evaluated(round=1, loss=5))
    assert bench.machine.phase is Phase.EVALUATING
    bench.tell(rounds.Evaluated(round=2, loss=4))
    assert bench.log.settled[-1].validation == (2, 4)
    assert bench.log.close is not None


def test_a_spent_budget_closes_the_run_and_its_last_state_is_evaluated() -> None:
    bench = started(Bench(replace(PLAN, evaluate_every=5), balance=3 * SEAT))
    assert Evaluate(round=1) in bench.settle(S1, A, B)
    bench.tell(rounds.Evaluated(round=1, loss=7))
    assert last(bench) == Close(state=S1, reason="budget spent")


def test_a_round_that_used_less_than_its_quotas_leaves_money_for_the_next() -> None:
    bench = started(Bench(balance=2 * SEAT))
    half = replace(bench.open_receipt(A), slots=Slots(0, QUOTA // 2), tokens=receipt(A).tokens // 2)
    bench.tell(rounds.Delivered(receipt=half), rounds.Checked(account=A, update=half.update, refusal=None))
    bench.tell(rounds.Left(account=B, reason="gone"), rounds.Beat(account=C, state=S0))
    bench.tell(rounds.Applied(round=1, state=S1))
    assert bench.balance == 2 * SEAT - SEAT // 2
    assert last(bench) == Close(state=S1, reason="budget spent")


def test_what_an_open_round_reserved_counts_for_the_next() -> None:
    bench = started(Bench(balance=4 * SEAT))
    bench.settle(S1, A, B)
    assert last(bench) == opened(2, S1, [A, B], slot=2 * QUOTA)
    assert bench.balance == 0


def test_cancel_settles_what_was_delivered_and_closes() -> None:
    bench = started(Bench())
    bench.deliver(A)
    assert applies(bench.tell(rounds.Cancel(reason="enough"))) == [(A,)]
    bench.tell(rounds.Applied(round=1, state=S1))
    assert [type(entry) for entry in bench.logged[-3:]] == [Receipt, Settle, Close]
    assert last(bench) == Close(state=S1, reason="enough")


def test_cancel_waits_for_an_update_that_is_being_decoded_unless_its_sender_dies() -> None:
    for dies in (False, True):
        bench = started(Bench())
        given = bench.open_receipt(A)
        bench.tell(rounds.Delivered(receipt=given), rounds.Cancel(reason="enough"))
        assert bench.machine.phase is Phase.COLLECTING
        if dies:
            bench.stay(3.0, B)
        else:
            bench.tell(rounds.Checked(account=A, update=given.update, refusal=None))
            bench.tell(rounds.Applied(round=1, state=S1))
        assert last(bench) == Close(state=S0 if dies else S1, reason="enough")


def test_cancel_while_waiting_or_while_the_log_is_certified_closes_as_well() -> None:
    waiting = Bench()
    waiting.tell(rounds.Cancel(reason="never mind"))
    assert waiting.logged == [Close(state=S0, reason="never mind")]
    logging = Bench()
    logging.beat(A)
    logging.tell(rounds.Beat(account=B, state=S0), certify=False)
    logging.tell(rounds.Cancel(reason="never mind"))
    logging.log.extend([opened(1, S0, [A, B])])
    logging.reserved = 2 * SEAT
    logging.tell(rounds.Logged(balance=0))
    assert logging.log.close == Close(state=S0, reason="never mind")


# ---------------------------------------------------------------- restarts


def test_a_leader_restarted_in_mid_round_takes_the_same_receipts_again() -> None:
    bench = Bench(log=begun(opened(1, S0, [A, B])), now=50.0)
    assert bench.machine.phase is Phase.COLLECTING
    bench.beat(A)
    bench.deliver(A)
    assert bench.machine.phase is Phase.COLLECTING
    bench.beat(B)
    assert applies(bench.deliver(B)) == [(A, B)]


def test_a_restarted_leader_gives_members_time_to_be_heard_again() -> None:
    bench = Bench(replace(PLAN, min_members=1), log=begun(opened(1, S0, [A, B])), now=50.0)
    bench.beat(A)
    bench.deliver(A)
    assert bench.machine.phase is Phase.COLLECTING
    assert bench.machine.deadline == 50.0 + PLAN.lost_after_s
    assert applies(bench.stay(53.0, A)) == [(A,)]


def test_a_restarted_leader_learns_no_pace_from_receipts_that_were_ready_before() -> None:
    bench = Bench(log=begun(opened(1, S0, [A, B])), now=50.0)
    bench.beat(A, B)
    bench.settle(S1, A, B)
    assert bench.log.open is not None
    assert bench.machine.speeds.round_s(bench.log.open.roster) is None


def test_a_leader_restarted_after_its_append_goes_on_from_the_log() -> None:
    before = started(Bench())
    before.settle(S1, A, B)
    after = Bench(log=before.log, now=50.0)
    after.beat(A, B, state=S1)
    after.settle(S2, A, B)
    assert [done.round for done in after.log.settled] == [1, 2]
    assert reports(after.asked, "joined") == []


def test_a_leader_restarted_between_rounds_opens_the_next() -> None:
    settle = Settle(round=1, receipts=(), state=S0)
    bench = Bench(log=begun(opened(1, S0, [A, B]), settle), now=50.0)
    assert bench.machine.phase is Phase.WAITING
    bench.beat(A, B)
    assert last(bench) == opened(2, S0, [A, B], slot=2 * QUOTA)


def test_a_leader_of_a_closed_run_does_nothing() -> None:
    bench = Bench(log=begun(Close(state=S0, reason="enough")))
    assert bench.machine.phase is Phase.CLOSED
    assert bench.beat(A, B) == []
    assert bench.tell(rounds.Cancel(reason="again")) == []
