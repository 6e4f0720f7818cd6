"""The leader's round machine: ends before the last round, by tokens or by held-out losses.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Close, Open, Settle, Validation
from peer.rounds import messages as rounds
from peer.rounds.lead import Phase
from peer.rounds.messages import Evaluate
from tests.peer.rounds_kit import PLAN, QUOTA, S0, S1, SEAT, TOKENS, A, B, Bench, C, begun, blob, opened, receipt

LONG = replace(PLAN, rounds=1000)
ROUND_TOKENS = 2 * QUOTA * TOKENS


def state(number: int) -> str:
    """The state after a round."""
    return blob(f"state {number}") if number else S0


def play(bench: Bench, *losses: int) -> None:
    """Settle a round with A and B for each held-out loss; the figure of a round comes while the next is open."""
    for loss in losses:
        number = bench.log.round + 1
        bench.beat(A, B, state=state(number - 1))
        bench.settle(state(number), A, B)
        if any(isinstance(effect, Evaluate) and effect.round == number for effect in bench.asked):
            bench.tell(rounds.Evaluated(round=number, loss=loss))


def reason(bench: Bench) -> str:
    """Why the run was closed; empty while it goes on."""
    return bench.log.close.reason if bench.log.close is not None else ""


def test_the_round_in_which_the_tokens_are_reached_is_the_last() -> None:
    for most, ends_after in ((3 * ROUND_TOKENS, 3), (3 * ROUND_TOKENS + 1, 4), (1, 1)):
        bench = Bench(replace(LONG, max_tokens=most))
        play(bench, *[9] * (ends_after - 1))
        assert reason(bench) == ""
        play(bench, 9)
        assert reason(bench) == "max_tokens reached"
        assert bench.log.tokens == ends_after * ROUND_TOKENS
        assert bench.machine.phase is Phase.CLOSED


def test_tokens_of_receipts_that_did_not_count_do_not_count() -> None:
    bench = Bench(replace(LONG, max_tokens=ROUND_TOKENS))
    bench.beat(A, B)
    bench.deliver(A)
    bench.tell(rounds.Left(account=B, reason="gone"), rounds.Beat(account=C, state=S0))
    bench.tell(rounds.Applied(round=1, state=S1))
    assert reason(bench) == ""
    assert bench.log.tokens == ROUND_TOKENS // 2


def test_a_held_out_loss_at_the_target_ends_the_run_with_the_round_that_is_open() -> None:
    for loss, ends in ((2_000_001, False), (2_000_000, True), (1, True)):
        bench = Bench(replace(LONG, evaluate_every=1, target_loss=2_000_000))
        play(bench, 3_000_000, loss, 4_000_000)
        assert reason(bench) == ("target_loss reached" if ends else "")
        assert bench.log.round == 3


def test_the_last_state_is_evaluated_and_a_worse_figure_does_not_reopen_the_run() -> None:
    bench = Bench(replace(LONG, evaluate_every=1, target_loss=2_000_000))
    play(bench, 1_999_999)
    bench.settle(state(2), A, B)
    assert bench.machine.phase is Phase.EVALUATING
    bench.tell(rounds.Evaluated(round=2, loss=2_500_000))
    settle, close = bench.logged[-2:]
    assert isinstance(settle, Settle)
    assert settle.validation == (2, 2_500_000)
    assert close == Close(state=state(2), reason="target_loss reached")


def test_without_a_target_no_loss_ends_a_run() -> None:
    bench = Bench(replace(LONG, evaluate_every=1))
    play(bench, 0, 0, 0)
    assert reason(bench) == ""


def test_evaluations_without_a_better_loss_exhaust_the_patience() -> None:
    for losses, ends in (((5, 4, 4, 9), True), ((5, 4, 4, 3, 3), False), ((5, 4, 4, 3, 3, 3), True), ((5, 6), False)):
        bench = Bench(replace(LONG, evaluate_every=1, patience=2))
        play(bench, *losses, 9)
        told = reason(bench)
        assert told == ("no better held-out loss in 2 evaluations" if ends else ""), losses


def test_a_leader_that_takes_over_knows_the_tokens_and_losses_from_the_log() -> None:
    first = [opened(1, S0, [A, B]), receipt(A), receipt(B, start=QUOTA)]
    settle = Settle(round=1, receipts=(2, 3), state=S1, validation=Validation(1, 7))
    for changes, expected in (
        ({"max_tokens": ROUND_TOKENS}, "max_tokens reached"),
        ({"target_loss": 7, "evaluate_every": 1}, "target_loss reached"),
        ({"target_loss": 6, "evaluate_every": 1, "max_tokens": ROUND_TOKENS + 1}, ""),
    ):
        bench = Bench(replace(LONG, **changes), log=begun(*first, settle))  # type: ignore[arg-type]
        bench.beat(A, B, state=S1)
        assert reason(bench) == expected
        assert isinstance(bench.logged[-1], Close if expected else Open)


def test_what_is_asked_for_first_is_the_reason() -> None:
    bench = Bench(replace(LONG, max_tokens=1), balance=2 * SEAT)
    bench.beat(A, B)
    bench.deliver(A)
    bench.tell(rounds.Cancel(reason="enough"), rounds.Applied(round=1, state=S1))
    assert reason(bench) == "enough"
    both = Bench(replace(LONG, max_tokens=1), balance=2 * SEAT)
    play(both, 9)
    assert reason(both) == "max_tokens reached"
