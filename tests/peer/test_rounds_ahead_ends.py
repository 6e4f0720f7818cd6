"""Work ahead that ends early: the log's tail gave way, or the volunteer pauses.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Entry
from peer.rounds.ahead import Ahead
from peer.rounds.delivery import Promise
from peer.rounds.follow import MemberMachine
from peer.rounds.messages import (
    Answered,
    Broke,
    Deliver,
    Finish,
    Holds,
    Load,
    LogGrew,
    Paused,
    Redeliver,
    Replay,
    Stop,
    ThrowAway,
    Train,
    TrainAhead,
    TrainedAhead,
)
from tests.peer.rounds_kit import QUOTA, S0, S1, S2, STATE_BYTES, A, begun
from tests.peer.test_rounds_ahead import AHEAD, OVERLAP, grow, opened, settle, trained, working


def in_the_tail() -> MemberMachine:
    """A member that works ahead of round 3, round 2 being open in the log's tail; round 1 is settled there, too."""
    member = working()
    member.receive(Answered(round=1, refusal=None), 1.0)
    member.receive(TrainedAhead(round=2, slots=QUOTA), 1.0)
    member.log.follow([*settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12)])
    assert [type(effect) for effect in member.receive(LogGrew(), 2.0)] == [Replay]
    assert [type(effect) for effect in member.receive(Holds(round=1, state=S1), 3.0)] == [Finish]
    deliver, ahead = member.receive(trained(2), 4.0)
    assert isinstance(deliver, Deliver)
    assert isinstance(ahead, TrainAhead)
    assert (ahead.basis.round, ahead.basis.state) == (3, S1)
    return member


def test_work_ahead_of_a_dropped_round_is_stopped_and_thrown_away() -> None:
    member = in_the_tail()
    member.log.follow(())
    assert member.receive(LogGrew(), 5.0) == [Redeliver(round=1), Stop()]
    thrown, load = member.receive(TrainedAhead(round=3, slots=1), 6.0)
    assert isinstance(thrown, ThrowAway)
    assert "not open as it was" in thrown.reason
    assert load == Load(round=0, state=S0)
    assert member.receive(Holds(round=0, state=S0), 7.0) == [], "nothing is trained ahead of what is not delivered anew"


def test_what_was_trained_ahead_and_waited_is_thrown_away_with_the_tail() -> None:
    member = in_the_tail()
    assert member.receive(TrainedAhead(round=3, slots=QUOTA), 5.0) == []
    member.log.follow(())
    redeliver, thrown, load = member.receive(LogGrew(), 6.0)
    assert (redeliver, load) == (Redeliver(round=1), Load(round=0, state=S0))
    assert isinstance(thrown, ThrowAway)


def test_a_tail_that_says_the_same_again_keeps_the_work_and_the_promise() -> None:
    member = in_the_tail()
    tail = member.log.tail
    member.log.follow(())
    member.log.follow(tail)
    assert member.log.drops == 1
    assert member.receive(LogGrew(), 5.0) == [Redeliver(round=2)]
    assert isinstance(member.busy, TrainAhead)


def test_after_another_settlement_of_the_round_its_work_begins_where_that_says() -> None:
    member = in_the_tail()
    member.receive(TrainedAhead(round=3, slots=QUOTA), 5.0)
    other: list[Entry] = [*settle(begun(opened(1, S0, a=0, b=4)), 1, S0, S2, a=0), opened(2, S2, a=8, b=12)]
    member.log.extend(other)
    assert [type(effect) for effect in member.receive(LogGrew(), 6.0)] == [ThrowAway, Load]
    assert member.receive(Holds(round=1, state=S2), 7.0) == [AHEAD], "our update counts again: from S0, moved by it"
    assert [type(effect) for effect in member.receive(TrainedAhead(round=2, slots=QUOTA), 8.0)] == [Finish]
    assert [type(effect) for effect in member.receive(trained(2), 9.0)] == [Deliver, TrainAhead]


def test_where_our_receipt_is_not_settled_this_time_the_round_is_trained_from_its_state() -> None:
    member = in_the_tail()
    other: list[Entry] = [*settle(begun(opened(1, S0, a=0, b=4)), 1, S0, S2, b=4), opened(2, S2, a=8, b=12)]
    member.log.extend(other)
    assert member.receive(LogGrew(), 5.0) == [Stop()]
    assert [type(effect) for effect in member.receive(TrainedAhead(round=3, slots=1), 6.0)] == [ThrowAway, Load]
    assert [type(effect) for effect in member.receive(Holds(round=1, state=S2), 7.0)] == [Train]


def test_a_receipt_promised_before_a_restart_is_delivered_and_nothing_worked_ahead_of_it() -> None:
    log = begun(opened(1, S0, a=0, b=4))
    ahead = Ahead(account=A, plan=OVERLAP)
    promised = [Promise(1, S0, 0, QUOTA)]
    member = MemberMachine(
        account=A, log=log, state_bytes=STATE_BYTES, held=(0, S0), promised=promised, ahead=ahead
    )  # fmt: skip
    assert member.receive(LogGrew(), 0.0) == [Redeliver(round=1)]


# ---------------------------------------------------------------- pauses


def test_who_pauses_in_its_work_ahead_of_a_round_that_is_open_delivers_it() -> None:
    member = working()
    member.receive(Answered(round=1, refusal=None), 1.0)
    grow(member, *settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12))
    assert member.receive(Paused(), 2.0) == [Stop()]
    assert not member.quiet
    assert [type(effect) for effect in member.receive(TrainedAhead(round=2, slots=2), 3.0)] == [Replay]
    assert not member.quiet
    assert [type(effect) for effect in member.receive(Holds(round=1, state=S1), 4.0)] == [Finish]
    assert not member.quiet
    used = replace(trained(2), slots=2)
    assert [type(effect) for effect in member.receive(used, 5.0)] == [Deliver], "and begins nothing more"
    assert not member.quiet
    assert member.receive(Answered(round=2, refusal=None), 6.0) == []
    assert member.quiet


def test_who_pauses_before_its_next_round_is_open_throws_its_work_away() -> None:
    member = working()
    member.receive(Answered(round=1, refusal=None), 1.0)
    assert member.receive(Paused(), 2.0) == [Stop()]
    (thrown,) = member.receive(TrainedAhead(round=2, slots=2), 3.0)
    assert isinstance(thrown, ThrowAway)
    assert "we pause" in thrown.reason
    assert member.quiet
    assert grow(member, *settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12)) == []


def test_who_pauses_while_its_finished_work_waits_is_quiet_once_its_receipt_is_taken() -> None:
    member = working()
    member.receive(TrainedAhead(round=2, slots=QUOTA), 1.0)
    assert [type(effect) for effect in member.receive(Paused(), 2.0)] == [ThrowAway]
    assert not member.quiet, "the receipt of round 1 is on its way"
    member.receive(Answered(round=1, refusal=None), 3.0)
    assert member.quiet


def test_a_worker_that_dies_while_a_pausing_member_finishes_holds_up_nobody() -> None:
    member = working()
    grow(member, *settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12))
    member.receive(Paused(), 2.0)
    member.receive(TrainedAhead(round=2, slots=2), 3.0)
    (finish,) = member.receive(Holds(round=1, state=S1), 4.0)
    assert member.receive(Broke(effect=finish, reason="the worker died"), 5.0) == []
    assert member.quiet
