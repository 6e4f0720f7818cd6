"""A member applies what its leader cuts a round with before that is settled, and goes back where it was misled.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import Settle
from peer.rounds.cut import MOST_WRONG, ApplyCut, Counted, Cut, Foresight
from peer.rounds.follow import MemberMachine
from peer.rounds.messages import Answered, Broke, Deliver, Holds, Load, LogGrew, Replay, Train
from tests.peer.rounds_kit import S0, S1, S2, A, B, C, begun, closed, opened, receipt
from tests.peer.test_rounds_member import delivering, grow, kinds, machine, settled, trained

BOTH = (receipt(A), receipt(B, start=4))
COUNTED = tuple(Counted(account=one.account, update=one.update, tokens=one.tokens) for one in BOTH)
CUT = Cut(round=1, counted=COUNTED)


def guessing(state: str = S1) -> MemberMachine:
    """A member that delivered, was told, and holds this state by its guess."""
    member = delivering()
    member.receive(Answered(round=1, refusal=None), 0.0)
    (effect,) = member.receive(CUT, 0.0)
    assert isinstance(effect, ApplyCut)
    assert effect.counted == COUNTED
    assert member.receive(Holds(round=1, state=state), 0.0) == []
    return member


def settle(member: MemberMachine, state: str = S1, then: object = None) -> list[object]:
    """Round 1 is settled with both receipts, and round 2 opened."""
    size = member.log.size
    following = opened(2, state, [A, B], 8) if then is None else then
    return list(grow(member, *BOTH, Settle(round=1, receipts=(size, size + 1), state=state), following))  # type: ignore[arg-type]


def test_a_right_guess_leaves_nothing_to_do_but_train() -> None:
    member = guessing()
    assert kinds(settle(member)) == [Train]  # type: ignore[arg-type]
    assert member.state == S1


def test_until_it_is_settled_a_member_tells_of_the_state_before() -> None:
    assert guessing().state == S0


def test_a_right_guess_of_the_last_round_ends_the_run() -> None:
    member = guessing()
    assert settle(member, then=closed(S1)) == []
    assert member.finished


def test_a_wrong_guess_goes_back_to_the_state_before_and_applies_what_is_settled() -> None:
    member = guessing(state=S2)
    assert settle(member) == [Load(round=0, state=S0)]
    (replay,) = member.receive(Holds(round=0, state=S0), 0.0)
    assert isinstance(replay, Replay)
    assert kinds(member.receive(Holds(round=1, state=S1), 0.0)) == [Train]


def test_where_the_state_before_is_gone_it_fetches_the_one_that_was_settled() -> None:
    member = guessing(state=S2)
    (load,) = settle(member)
    assert member.receive(Broke(effect=load, reason="gone"), 0.0) == []  # type: ignore[arg-type]
    assert member.tick(60.0) == [Load(round=1, state=S1)]


def test_what_is_settled_while_it_is_applied_is_taken_up_after_it() -> None:
    member = delivering()
    member.receive(CUT, 0.0)
    assert settle(member) == []
    assert kinds(member.receive(Holds(round=1, state=S1), 0.0)) == [Train]


def test_a_guess_that_cannot_be_applied_costs_no_time() -> None:
    member = delivering()
    (effect,) = member.receive(CUT, 0.0)
    assert member.receive(Broke(effect=effect, reason="an update is not here"), 0.0) == []
    assert kinds(settle(member)) == [Replay]  # type: ignore[arg-type]


def test_a_training_under_way_is_not_given_up_for_a_guess() -> None:
    member = machine(begun())
    assert kinds(grow(member, opened(1, S0, [A, B]))) == [Train]
    assert member.receive(CUT, 0.0) == []
    assert ApplyCut in kinds(member.receive(trained(), 0.0))


def test_a_member_without_a_seat_guesses_as_well() -> None:
    member = machine(begun(), account=C)
    assert grow(member, opened(1, S0, [A, B])) == []
    assert kinds(member.receive(CUT, 0.0)) == [ApplyCut]


@pytest.mark.parametrize(
    "cut",
    [
        replace(CUT, round=2),
        replace(CUT, counted=()),
        replace(CUT, counted=(COUNTED[0], COUNTED[0])),
        replace(CUT, counted=(replace(COUNTED[0], account=C),)),
    ],
    ids=["another round", "nothing", "twice the same", "a stranger"],
)
def test_what_cannot_be_is_not_applied(cut: Cut) -> None:
    assert delivering().receive(cut, 0.0) == []


def test_a_member_that_lags_behind_catches_up_first() -> None:
    member = machine(settled(1), held=(0, S0))
    assert kinds(member.receive(LogGrew(), 0.0)) == [Replay]
    assert member.receive(CUT, 0.0) == []


def test_who_was_misled_too_often_guesses_no_more() -> None:
    log, foresight = begun(opened(1, S0, [A, B])), Foresight()
    for _ in range(MOST_WRONG):
        foresight.hear(CUT, log)
        assert foresight.apply(log, (0, S0)) is not None
        assert foresight.back((1, S2)) == (0, S0)
    foresight.hear(CUT, log)
    assert foresight.apply(log, (0, S0)) is None


def test_a_log_that_gives_way_takes_a_guess_with_it() -> None:
    member = guessing()
    member.log.follow([*BOTH, Settle(round=1, receipts=(member.log.size, member.log.size + 1), state=S1)])
    member.receive(LogGrew(), 0.0)
    member.log.follow([])
    assert Load(round=0, state=S0) in member.receive(LogGrew(), 0.0)


def test_work_that_ends_as_the_log_gives_way_is_still_delivered() -> None:
    member = machine(begun())
    grow(member, opened(1, S0, [A, B]))
    member.log.drops += 1  # beyond the open round, which stays
    (effect,) = member.receive(trained(), 0.0)
    assert isinstance(effect, Deliver)
    assert member.receive(LogGrew(), 0.0) == []
