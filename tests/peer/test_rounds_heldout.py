"""Whose turn it is to measure a held-out loss, and which figures are believed.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Settle
from peer.rounds.heldout import WILD, HeldOut
from peer.rounds.messages import Applied, Beat, Evaluate, Evaluated, LeaderEffect, Report, Unevaluated
from peer.rounds.speed import Speeds
from tests.peer.rounds_kit import PLAN, S1, A, B, Bench, C, blob

EVERY = replace(PLAN, evaluate_every=1, rounds=1000)
LOSS = 1_000_000


def measured(**changes: object) -> HeldOut:
    """What is known after our own worker measured round 1."""
    held_out = HeldOut(replace(EVERY, **changes))  # type: ignore[arg-type]
    assert held_out.ask(1, [A, B]) == [Evaluate(round=1)]
    held_out.take(Evaluated(round=1, loss=LOSS), settled=1)
    return held_out


def asked(effects: list[LeaderEffect]) -> list[LeaderEffect]:
    """The effects that are no reports."""
    return [effect for effect in effects if not isinstance(effect, Report)]


def test_our_own_worker_measures_first_so_that_there_is_a_figure_to_compare_with() -> None:
    assert HeldOut(EVERY).ask(1, [A, B]) == [Evaluate(round=1)]


def test_members_take_turns_in_order_and_newcomers_come_first() -> None:
    held_out = measured()
    turns = [held_out.ask(number, [A, B]) for number in (2, 3, 4)]
    assert turns == [[Evaluate(round=2, account=A)], [Evaluate(round=3, account=B)], [Evaluate(round=4, account=A)]]
    assert held_out.ask(5, [A, B, C]) == [Evaluate(round=5, account=C)]
    assert held_out.ask(6, []) == [Evaluate(round=6)]


def test_nothing_is_asked_where_no_evaluation_is_due() -> None:
    assert HeldOut(replace(PLAN, evaluate_every=0)).ask(1, [A]) == []
    third = HeldOut(replace(PLAN, evaluate_every=3))
    assert [len(third.ask(number, [A])) for number in (1, 2, 3, 4, 5, 6)] == [0, 0, 1, 0, 0, 1]


def test_a_member_s_figure_is_told_with_its_name_and_goes_into_the_next_settle() -> None:
    held_out = measured()
    fields = {"round": 2, "validation": 0.9, "account": A}
    assert held_out.take(Evaluated(round=2, loss=900_000, account=A), settled=2) == [
        Report(event="evaluated", fields=fields)
    ]
    assert held_out.figure == (2, 900_000)


def test_a_figure_that_strays_from_our_last_is_measured_again_by_ourselves() -> None:
    for loss, believed in (
        (LOSS + int(WILD * LOSS), True), (LOSS + int(WILD * LOSS) + 1, False),
        (LOSS - int(WILD * LOSS), True), (LOSS - int(WILD * LOSS) - 1, False), (0, False), (2**53 - 1, False),
    ):  # fmt: skip
        held_out = measured()
        effects = asked(held_out.take(Evaluated(round=2, loss=loss, account=A), settled=2))
        assert effects == ([] if believed else [Evaluate(round=2)])
        assert held_out.figure == ((2, loss) if believed else (1, LOSS))


def test_our_own_figure_is_believed_however_far_it_strays_and_is_the_measure_from_then_on() -> None:
    held_out = measured()
    assert asked(held_out.take(Evaluated(round=2, loss=10), settled=2)) == []
    assert held_out.figure == (2, 10)
    assert asked(held_out.take(Evaluated(round=3, loss=LOSS, account=A), settled=3)) == [Evaluate(round=3)]


def test_no_member_s_figure_alone_ends_a_run() -> None:
    held_out = measured(target_loss=900_000)
    assert asked(held_out.take(Evaluated(round=2, loss=900_001, account=A), settled=2)) == []
    assert asked(held_out.take(Evaluated(round=3, loss=900_000, account=A), settled=3)) == [Evaluate(round=3)]


def test_where_a_member_gives_no_figure_we_measure_unless_the_state_is_gone() -> None:
    held_out = measured()
    assert held_out.take(Unevaluated(round=2, account=A), settled=2) == [Evaluate(round=2)]
    assert held_out.take(Unevaluated(round=2, account=A), settled=3) == []
    assert held_out.take(Evaluated(round=2, loss=0, account=A), settled=3) == []


def test_a_late_figure_of_an_earlier_round_replaces_nothing() -> None:
    held_out = measured()
    held_out.take(Evaluated(round=3, loss=900_000, account=A), settled=3)
    for late in (
        Evaluated(round=2, loss=950_000, account=B),
        Evaluated(round=3, loss=5),
        Unevaluated(round=3, account=A),
    ):
        assert held_out.take(late, settled=3) == []
    assert held_out.figure == (3, 900_000)


def test_the_slowest_is_spared_and_so_is_who_was_never_seen() -> None:
    speeds = Speeds(PLAN, [])
    speeds.delivered(A, 4, 1.0)
    speeds.delivered(B, 4, 2.0)
    assert speeds.but_slowest([A, B]) == [A]
    assert speeds.but_slowest([A, B, C]) == [A, B]
    assert speeds.but_slowest([B]) == [B]
    assert speeds.but_slowest([]) == []


# ---------------------------------------------------------------- in the leader's machine


def test_a_member_that_holds_the_state_is_asked_and_its_figure_is_settled() -> None:
    bench = Bench(EVERY)
    bench.beat(A, B)
    bench.stay(1.0, A, B)
    bench.deliver(A)
    bench.stay(2.0, A, B)
    bench.deliver(B)
    assert Evaluate(round=1) in bench.tell(Applied(round=1, state=S1))
    bench.tell(Evaluated(round=1, loss=LOSS))
    bench.beat(A, B, state=S1)
    state = blob("state 2")
    effects = bench.settle(state, A, B)
    (turn,) = (effect for effect in effects if isinstance(effect, Evaluate))
    assert turn.account == A  # B is the slowest
    assert bench.tell(Unevaluated(round=2, account=A)) == [Evaluate(round=2)]
    bench.tell(Evaluated(round=2, loss=LOSS - 1))
    bench.tell(Beat(account=A, state=state), Beat(account=B, state=state))
    bench.settle(blob("state 3"), A, B)
    assert [done.validation for done in bench.log.settled] == [None, (1, LOSS), (2, LOSS - 1)]


def test_the_last_state_is_always_measured_by_our_own_worker() -> None:
    bench = Bench(replace(EVERY, rounds=2))
    bench.beat(A, B)
    bench.settle(S1, A, B)
    bench.tell(Evaluated(round=1, loss=LOSS))
    bench.beat(A, B, state=S1)
    effects = bench.settle(blob("state 2"), A, B)
    assert [effect for effect in effects if isinstance(effect, Evaluate)] == [Evaluate(round=2)]
    bench.tell(Unevaluated(round=1, account=A))
    assert bench.log.close is None
    bench.tell(Evaluated(round=2, loss=5))
    settle = bench.logged[-2]
    assert isinstance(settle, Settle)
    assert settle.validation == (2, 5)
    assert bench.log.close is not None
