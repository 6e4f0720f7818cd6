"""Work ahead: where a member expects its next seat, where its work starts, when it counts, when it is thrown away.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.entries import Close, Entry, Open, Settle
from ledger.entries import Seat as LogSeat
from peer.rounds.ahead import STEADY, Ahead, basis, expected_start, places, steady
from peer.rounds.follow import MemberMachine
from peer.rounds.log import RunLog, Seat
from peer.rounds.messages import (
    Basis,
    Broke,
    Deliver,
    Finish,
    Holds,
    LogGrew,
    MemberEffect,
    Replay,
    Stop,
    ThrowAway,
    Train,
    TrainAhead,
    Trained,
    TrainedAhead,
)
from tests.peer.rounds_kit import PLAN, QUOTA, S0, S1, S2, STATE_BYTES, TOKENS, A, B, C, begun, digest, receipt

OVERLAP = replace(PLAN, overlap=True, rounds=9)
UPDATE = receipt(A).update


def seats(*starts: int, quota: int = QUOTA) -> tuple[Seat, ...]:
    """A roster of A, B, … that start there."""
    return tuple(Seat(account=account, start=start, quota=quota) for account, start in zip((A, B, C), starts))  # noqa: B905


def opened(number: int, state: str, **starts: int) -> Open:
    """A round's open with seats by name, as `a=0`."""
    by_name = {"a": A, "b": B, "c": C}
    roster = tuple(LogSeat(by_name[name], start, QUOTA) for name, start in starts.items())
    return Open(round=number, state=state, roster=roster)


def settle(log: RunLog, number: int, state_in: str, state: str, **starts: int) -> list[Entry]:
    """Receipts from these starts and their settle."""
    by_name = {"a": A, "b": B, "c": C}
    given = [receipt(by_name[name], number=number, state=state_in, start=start) for name, start in starts.items()]
    first = log.size
    return [*given, Settle(round=number, receipts=tuple(range(first, first + len(given))), state=state)]


# ---------------------------------------------------------------- seats


def test_a_member_expects_the_slots_after_its_own_by_the_width_of_the_round() -> None:
    roster = seats(8, 12, 20)
    assert [expected_start(roster, account, QUOTA) for account in (A, B, C)] == [24, 28, 36]
    assert expected_start(roster, digest("nobody"), QUOTA) is None


def test_those_who_stay_get_what_they_expect_and_the_others_what_is_free() -> None:
    before = seats(0, 4, 8)
    assert places(before, [A, C], width=QUOTA, slot=12) == {A: 12, C: 20}
    joiners = [digest("j"), digest("k")]
    assert places(before, [joiners[0], C, joiners[1], A], width=QUOTA, slot=12) == {
        C: 20, A: 12, joiners[0]: 16, joiners[1]: 24,
    }  # fmt: skip
    assert places((), [A, B], width=QUOTA, slot=40) == {A: 40, B: 44}


def test_a_roster_whose_members_expect_what_was_given_out_or_overlaps_is_placed_anew() -> None:
    assert places(seats(0, 2), [A, B], width=QUOTA, slot=6) == {A: 6, B: 10}
    assert places(seats(0, 4), [A, B], width=QUOTA, slot=100) == {A: 100, B: 104}


@given(st.data())
def test_no_slot_is_given_out_twice_whoever_comes_and_goes(data: st.DataObject) -> None:
    width, slot, before = data.draw(st.integers(1, 5)), 0, tuple[Seat, ...]()
    names = [digest(f"member {number}") for number in range(6)]
    for _ in range(6):
        accounts = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
        found = places(before, accounts, width=width, slot=slot)
        assert set(found) == set(accounts)
        roster = [Seat(account=a, start=found[a], quota=data.draw(st.integers(1, width))) for a in accounts]
        expected = [expected_start(before, account, width) for account in accounts]
        assert all(seat.start == start for seat, start in zip(roster, expected, strict=True) if start is not None)
        for seat in sorted(roster, key=lambda seat: seat.start):
            assert seat.start >= slot
            slot = seat.start + seat.quota
        before = tuple(roster)


def test_small_changes_keep_a_quota() -> None:
    had = (Seat(account=A, start=0, quota=100), Seat(account=B, start=0, quota=100))
    assert steady({A: 90, B: 110, C: 7}, had) == {A: 100, B: 100, C: 7}
    assert steady({A: round(100 / STEADY) - 1, B: round(100 * STEADY) + 1}, had) == {A: 86, B: 116}


def test_where_work_started_follows_from_the_log() -> None:
    log = begun(opened(1, S0, a=0, b=4, c=8))
    log.extend(settle(log, 1, S0, S1, a=0, b=4))
    before = log.settled[0]
    assert basis(before, seats(12, 16, 20), A, QUOTA) == Basis(round=2, state=S0, update=UPDATE, start=12)
    assert basis(before, seats(16, 12), A, QUOTA) is None, "another seat"
    assert basis(before, seats(12, 16, 20), C, QUOTA) is None, "its receipt did not count"
    assert basis(before, seats(12)[:0], A, QUOTA) is None, "no seat"


# ---------------------------------------------------------------- a member


def machine(log: RunLog, held: tuple[int, str] = (0, S0)) -> MemberMachine:
    """A member of a run with overlap."""
    ahead = Ahead(account=A, plan=OVERLAP)
    return MemberMachine(account=A, log=log, state_bytes=STATE_BYTES, held=held, promised=(), ahead=ahead)


def grow(member: MemberMachine, *entries: Entry, now: float = 0.0) -> list[MemberEffect]:
    """The log grew by these entries."""
    member.log.extend(entries)
    return member.receive(LogGrew(), now)


def trained(number: int) -> Trained:
    """What the worker answers for a whole quota."""
    update = receipt(A, number=number).update
    return Trained(round=number, update=update, tokens=TOKENS, slots=QUOTA, loss=1, steps=1, leaves=digest("x"))


AHEAD = TrainAhead(basis=Basis(round=2, state=S0, update=UPDATE, start=8), quota=QUOTA)


def working() -> MemberMachine:
    """A member that delivered in round 1 and works ahead of round 2."""
    member = machine(begun())
    assert [type(effect) for effect in grow(member, opened(1, S0, a=0, b=4))] == [Train]
    effects = member.receive(trained(1), 1.0)
    assert [type(effect) for effect in effects] == [Deliver, TrainAhead]
    assert effects[1] == AHEAD
    return member


def test_what_is_settled_meanwhile_waits_and_the_work_is_that_of_the_next_round() -> None:
    member = working()
    assert grow(member, *settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12)) == []
    assert member.state == S0
    assert member.receive(TrainedAhead(round=2, slots=QUOTA), 3.0) == [Replay(settled=member.log.settled[0])]
    opened_2 = member.log.open
    assert opened_2 is not None
    assert member.receive(Holds(round=1, state=S1), 4.0) == [Finish(open=opened_2)]
    deliver, ahead = member.receive(trained(2), 5.0)
    assert deliver == Deliver(open=opened_2, trained=trained(2))
    assert ahead == TrainAhead(
        basis=Basis(round=3, state=S1, update=receipt(A, number=2).update, start=16), quota=QUOTA
    )


def test_work_that_is_done_first_waits_for_its_round() -> None:
    member = working()
    assert member.receive(TrainedAhead(round=2, slots=QUOTA), 2.0) == []
    assert member.tick(50.0) == []
    entries = settle(member.log, 1, S0, S1, a=0, b=4)
    assert [type(effect) for effect in grow(member, *entries)] == [Replay]
    assert member.receive(Holds(round=1, state=S1), 4.0) == []
    assert [type(effect) for effect in grow(member, opened(2, S1, a=8, b=12))] == [Finish]


def settled_without_us(log: RunLog) -> list[Entry]:
    return [*settle(log, 1, S0, S1, b=4), opened(2, S1, a=8, b=12)]


def another_seat(log: RunLog) -> list[Entry]:
    return [*settle(log, 1, S0, S1, a=0, b=4), opened(2, S1, a=12, b=8)]


def no_seat(log: RunLog) -> list[Entry]:
    return [*settle(log, 1, S0, S1, a=0, b=4), opened(2, S1, b=12)]


def closed(log: RunLog) -> list[Entry]:
    return [*settle(log, 1, S0, S1, a=0, b=4), Close(state=S1, reason="enough")]


REASONS = {settled_without_us: "does not count", another_seat: "another one", no_seat: "or none", closed: "closed"}


@pytest.mark.parametrize("story", REASONS)
def test_work_that_cannot_count_is_stopped_and_thrown_away(story: object) -> None:
    member = working()
    assert callable(story)
    assert grow(member, *story(member.log)) == [Stop()]
    assert member.tick(2.0) == [], "once"
    thrown, replay = member.receive(TrainedAhead(round=2, slots=1), 3.0)
    assert isinstance(thrown, ThrowAway)
    assert (thrown.round, thrown.slots) == (2, 1)
    assert REASONS[story] in thrown.reason  # type: ignore[index]
    assert isinstance(replay, Replay)
    then = member.receive(Holds(round=1, state=S1), 4.0)
    seat = member.log.open.seat(A) if member.log.open is not None else None
    assert [type(effect) for effect in then] == ([Train] if seat is not None else [])


def test_work_whose_round_was_settled_without_it_is_thrown_away() -> None:
    member = working()
    grow(member, *settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12))
    assert grow(member, *settle(member.log, 2, S1, S2, b=12)) == [Stop()]
    thrown, replay = member.receive(TrainedAhead(round=2, slots=QUOTA), 3.0)
    assert isinstance(thrown, ThrowAway)
    assert isinstance(replay, Replay)


def test_a_seat_with_fewer_slots_takes_work_that_used_no_more_of_them() -> None:
    for used, kinds in ((2, [Replay]), (3, [ThrowAway, Replay])):
        member = working()
        small = Open(round=2, state=S1, roster=(LogSeat(A, 8, 2), LogSeat(B, 12, 2)))
        assert grow(member, *settle(member.log, 1, S0, S1, a=0, b=4), small) == [Stop()]
        effects = member.receive(TrainedAhead(round=2, slots=used), 3.0)
        assert [type(effect) for effect in effects] == kinds
        (then,) = member.receive(Holds(round=1, state=S1), 4.0)
        late = TrainAhead(basis=AHEAD.basis, quota=2)
        assert then == (Finish(open=member.log.open) if used == 2 else late)  # type: ignore[arg-type]


def test_a_member_that_was_killed_in_its_work_begins_it_where_the_log_says() -> None:
    log = begun(opened(1, S0, a=0, b=4))
    log.extend([*settle(log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12)])
    member = machine(log, held=(1, S1))
    assert member.receive(LogGrew(), 0.0) == [AHEAD]
    finish = Finish(open=log.open)  # type: ignore[arg-type]
    assert member.receive(TrainedAhead(round=2, slots=QUOTA), 1.0) == [finish]
    member.receive(Broke(effect=finish, reason="the worker died"), 2.0)
    assert member.tick(3.0) == [AHEAD], "the next worker has nothing: from the start"


def test_training_ahead_that_breaks_is_tried_again_and_without_a_slot_it_never_was() -> None:
    member = working()
    assert member.receive(Broke(effect=AHEAD, reason="out of memory"), 10.0) == []
    assert member.tick(11.0) == [AHEAD]
    assert member.receive(TrainedAhead(round=2, slots=0), 12.0) == []
    entries = [*settle(member.log, 1, S0, S1, a=0, b=4), opened(2, S1, a=8, b=12)]
    assert [type(effect) for effect in grow(member, *entries)] == [Replay]
    assert member.receive(Holds(round=1, state=S1), 13.0) == [AHEAD]


def test_nobody_works_ahead_of_a_round_that_will_not_be() -> None:
    ahead = Ahead(account=A, plan=replace(OVERLAP, rounds=1))
    member = MemberMachine(
        account=A, log=begun(), state_bytes=STATE_BYTES, held=(0, S0), promised=(), ahead=ahead
    )
    grow(member, opened(1, S0, a=0, b=4))
    assert [type(effect) for effect in member.receive(trained(1), 1.0)] == [Deliver]
