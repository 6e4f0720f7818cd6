"""A run log's tail: it counts while nothing else is certified, gives way without a trace, and is bounded.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.entries import Entry, Settle
from peer.rounds.delivery import Promise
from peer.rounds.follow import MemberMachine
from peer.rounds.log import RunLog
from peer.rounds.messages import Answered, Deliver, Holds, Load, LogGrew, Redeliver, Replay, Stop, Train, Trained
from peer.rounds.tail import MOST_BYTES, balance_after_tail, why_wait
from tests.peer.rounds_kit import (
    BEGIN,
    PLAN,
    QUOTA,
    S0,
    S1,
    SEAT,
    STATE_BYTES,
    TOKENS,
    A,
    B,
    begun,
    blob,
    closed,
    digest,
    opened,
    receipt,
)

BRANCHES = "xyz"


def shown(log: RunLog) -> dict[str, Any]:
    """All that a log says or holds, but for how often a tail gave way."""
    return {name: value for name, value in vars(log).items() if name != "drops"}


def of_certified(entries: list[Entry]) -> RunLog:
    """The log of these certified entries alone."""
    log = RunLog()
    log.extend(entries)
    return log


def state(number: int, branch: str) -> str:
    return blob(f"state {number} {branch}") if number else S0


def branch_of(name: str, start: list[Entry], rounds: int) -> list[Entry]:
    """A log that goes on from `start`, which ends in a settled round or the beginning, as this branch has it."""
    log, entries = of_certified(start), list(start)
    for number in range(log.round + 1, log.round + rounds + 1):
        seats = [A, B] if name == "x" else [B, A]
        entry = opened(number, log.state, seats, log.next_slot)
        given_a = receipt(A, number=number, state=log.state, start=entry.roster[seats.index(A)].slot_start)
        after = state(number, name)
        new = [entry, given_a, Settle(round=number, receipts=(log.size + 1,), state=after)]
        log.extend(new)
        entries += new
    return entries


def test_a_tail_counts_like_the_rest_and_is_told_apart() -> None:
    log = begun(opened(1, S0, [A]))
    tail = [receipt(A), Settle(round=1, receipts=(2,), state=S1), opened(2, S1, [A, B], QUOTA)]
    log.follow(tail)
    assert (log.round, log.state, log.size, log.tokens, log.next_slot) == (1, S1, 5, QUOTA * TOKENS, 3 * QUOTA)
    assert log.open is not None
    assert log.certified_open is not None
    assert (log.certified, log.certified_round, log.uncertified, log.certified_open.round) == (2, 0, 1, 1)
    log.extend(tail[:2])
    assert (log.certified, log.certified_round, log.uncertified, log.tail) == (4, 1, 1, (tail[2],))
    log.extend(tail[2:])
    assert shown(log) == shown(begun(opened(1, S0, [A]), *tail))
    assert log.drops == 0


def test_a_tail_that_is_not_what_is_certified_leaves_no_trace() -> None:
    first = begun(opened(1, S0, [A])), begun(opened(1, S0, [A]))
    first[0].follow([receipt(A), Settle(round=1, receipts=(2,), state=S1), opened(2, S1, [A], QUOTA), closed(S1)])
    for log in first:
        log.extend([Settle(round=1, receipts=(), state=S0)])
    assert shown(first[0]) == shown(first[1])
    assert first[0].drops == 1


def test_a_tail_that_grows_is_no_other_tail_and_a_shorter_or_another_one_is() -> None:
    log, tail = begun(), branch_of("x", [BEGIN], 2)[1:]
    log.follow(tail[:3])
    log.follow(tail)
    assert log.drops == 0
    log.follow(branch_of("y", [BEGIN], 2)[1:])
    assert log.drops == 1
    log.follow(branch_of("y", [BEGIN], 1)[1:])
    log.follow(())
    assert log.drops == 3
    assert shown(log) == shown(begun())


def story(rng: Random) -> tuple[list[Entry], list[tuple[str, list[Entry]]]]:
    """A certified log, and in which order its parts and tails, of whatever branch, come in."""
    truth: list[Entry] = [BEGIN]
    for _ in range(rng.randint(1, 5)):
        truth = branch_of(rng.choice(BRANCHES), truth, 1)
    certified, steps = 1, [("certified", truth[:1])]
    while certified < len(truth):
        if rng.random() < 0.6:
            settled = 1 + (certified - 1) // 3 * 3  # a branch can leave the truth where a round is settled
            tail = rng.choice([truth, branch_of(rng.choice(BRANCHES), truth[:settled], 2)])
            if tail[:certified] == truth[:certified]:
                steps.append(("tail", tail[certified : rng.randint(certified, len(tail))]))
        else:
            more = rng.randint(1, 4)
            steps.append(("certified", truth[certified : certified + more]))
            certified = min(len(truth), certified + more)
    return truth, steps


@given(st.integers(0, 2**32))
def test_any_order_of_tails_and_certified_entries_ends_as_the_certified_entries_alone(seed: int) -> None:
    truth, steps = story(Random(seed))
    log, certified = RunLog(), 0
    for kind, entries in steps:
        if kind == "certified":
            drops, agrees = log.drops, all(one == other for one, other in zip(log.tail, entries, strict=False))
            log.extend(entries)
            certified += len(entries)
            assert log.drops == drops + (not agrees)
        else:
            log.follow(entries)
            assert shown(log) == shown(followed(truth[:certified], entries))
        assert log.certified == certified
        same = of_certified(truth[:certified])
        assert (log.certified_round, log.certified_open) == (same.round, same.open)
    log.follow(())
    assert shown(log) == shown(of_certified(truth))


def followed(entries: list[Entry], tail: list[Entry]) -> RunLog:
    log = of_certified(entries)
    log.follow(tail)
    return log


# ---------------------------------------------------------------- how far, and for how much


@pytest.mark.parametrize("most", [0, 1, 3])
def test_members_go_by_so_many_opened_rounds_and_by_no_close(most: int) -> None:
    plan = replace(PLAN, max_uncertified=most)
    rounds = [opened(number, S0, [A], number * QUOTA) for number in range(1, most + 2)]
    assert why_wait(plan, rounds[:most]) == ""
    assert "at most" in why_wait(plan, rounds)
    assert "closed" in why_wait(plan, [closed(S0)])


def test_members_go_by_no_tail_that_is_too_long() -> None:
    assert "bytes" in why_wait(PLAN, [receipt(A)] * (MOST_BYTES // 500))


def test_the_balance_after_a_tail_is_that_of_the_same_entries_certified() -> None:
    """What the bench pays out entry by entry, and `tests.sim` by the ledger's own fold."""
    log = begun(opened(1, S0, [A, B]))
    assert balance_after_tail(PLAN, log, 10 * SEAT) == 10 * SEAT
    settle = Settle(round=1, receipts=(3,), state=S1)
    tail: list[Entry] = [receipt(A), receipt(B, start=QUOTA), settle]
    log.follow(tail)
    assert balance_after_tail(PLAN, log, 10 * SEAT) == 11 * SEAT, "one of two seats was paid, the other is returned"
    log.follow([*tail, opened(2, S1, [A, B], 2 * QUOTA)])
    assert balance_after_tail(PLAN, log, 10 * SEAT) == 9 * SEAT
    log.extend(tail)
    assert balance_after_tail(PLAN, log, 11 * SEAT) == 9 * SEAT


# ---------------------------------------------------------------- the member


def member_of(log: RunLog, held: tuple[int, str] | None = (0, S0), *promised: Promise) -> MemberMachine:
    return MemberMachine(account=A, log=log, state_bytes=STATE_BYTES, held=held, promised=promised)


def trained(number: int) -> Trained:
    return Trained(
        round=number, update=blob(f"u{number}"), tokens=QUOTA * TOKENS, slots=QUOTA, loss=1, steps=2,
        leaves=digest("leaves"),
    )  # fmt: skip


def in_the_tail() -> MemberMachine:
    """A member that delivered round 1, whose settlement is in the tail, and round 2, which is open there."""
    log = begun(opened(1, S0, [A]))
    member = member_of(log)
    member.receive(LogGrew(), 0.0)
    member.receive(trained(1), 1.0)
    member.receive(Answered(round=1, refusal=None), 1.0)
    log.follow([receipt(A), Settle(round=1, receipts=(2,), state=S1), opened(2, S1, [A], QUOTA)])
    assert [type(effect) for effect in member.receive(LogGrew(), 2.0)] == [Replay]
    assert [type(effect) for effect in member.receive(Holds(round=1, state=S1), 3.0)] == [Train]
    assert [type(effect) for effect in member.receive(trained(2), 4.0)] == [Deliver]
    return member


def test_a_member_goes_back_to_the_certified_state_and_offers_the_receipt_it_promised_for_that_round() -> None:
    member = in_the_tail()
    member.log.follow(())
    assert member.receive(LogGrew(), 5.0) == [Redeliver(round=1), Load(round=0, state=S0)]
    assert member.receive(Holds(round=0, state=S0), 6.0) == [], "it does not train a round twice"


def test_what_was_promised_for_a_dropped_round_is_not_offered_and_the_new_one_is_trained() -> None:
    member = in_the_tail()
    settle = Settle(round=1, receipts=(), state=S0)
    member.log.extend([settle, opened(2, S0, [B, A], QUOTA)])
    assert member.receive(LogGrew(), 5.0) == [Load(round=1, state=S0)]
    (train,) = member.receive(Holds(round=1, state=S0), 6.0)
    assert isinstance(train, Train)
    assert (train.open.round, train.start) == (2, 2 * QUOTA)
    assert [type(effect) for effect in member.receive(trained(2), 7.0)] == [Deliver]


def test_a_training_for_a_dropped_round_is_stopped_though_the_new_one_stands_at_the_same_place() -> None:
    log = begun()
    member = member_of(log)
    log.follow([opened(1, S0, [A])])
    assert [type(effect) for effect in member.receive(LogGrew(), 0.0)] == [Train]
    log.extend([opened(1, S0, [B, A])])
    assert member.receive(LogGrew(), 1.0) == [Stop()]
    (train,) = member.receive(trained(1), 2.0)
    assert isinstance(train, Train)
    assert train.start == QUOTA


def test_a_state_that_a_replay_of_a_dropped_round_led_to_is_left_again() -> None:
    log = begun(opened(1, S0, [A]))
    log.follow([receipt(A), Settle(round=1, receipts=(2,), state=S1), opened(2, S1, [A], QUOTA)])
    member = member_of(log)
    assert [type(effect) for effect in member.receive(LogGrew(), 0.0)] == [Replay]
    log.follow(())
    assert member.receive(LogGrew(), 1.0) == []
    assert member.receive(Holds(round=1, state=S1), 2.0) == [Load(round=0, state=S0)]
    assert [type(effect) for effect in member.receive(Holds(round=0, state=S0), 3.0)] == [Train]


def test_after_a_restart_the_promise_for_whichever_round_is_open_is_kept() -> None:
    promised = [Promise(1, S0, 0, QUOTA), Promise(2, S1, QUOTA, QUOTA)]
    log = begun(opened(1, S0, [A]))
    member = member_of(log, (0, S0), *promised)
    assert member.receive(LogGrew(), 0.0) == [Redeliver(round=1)]
    log.follow([receipt(A), Settle(round=1, receipts=(2,), state=S1), opened(2, S1, [A], QUOTA)])
    effects = member.receive(LogGrew(), 1.0)
    assert effects[0] == Redeliver(round=2)
    assert [type(effect) for effect in effects[1:]] == [Replay]
