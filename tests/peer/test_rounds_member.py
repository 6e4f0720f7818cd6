"""A member's round machine: catching up, training, delivering, and starting again where the disk stands.

IO: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ledger.entries import Entry, Settle
from peer.rounds.delivery import REMIND_S, Promise
from peer.rounds.follow import MemberMachine
from peer.rounds.log import RunLog
from peer.rounds.messages import (
    Answered,
    Broke,
    Deliver,
    Holds,
    Load,
    LogGrew,
    MemberEffect,
    Redeliver,
    Replay,
    Stop,
    Train,
    Trained,
)
from tests.peer.rounds_kit import (
    BEGIN,
    QUOTA,
    S0,
    S1,
    S2,
    S3,
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
    settled_round,
)

STATES = (S0, S1, S2, S3)
PROMISE = Promise(1, S0, 0, QUOTA)


def machine(
    log: RunLog, held: tuple[int, str] | None = (0, S0), promised: Sequence[Promise] = (), account: str = A
) -> MemberMachine:
    """A member of the run."""
    return MemberMachine(account=account, log=log, state_bytes=STATE_BYTES, held=held, promised=promised)


def settled(rounds: int, update_bytes: int = 10) -> RunLog:
    """A log in which so many rounds are settled."""
    log = begun()
    for number in range(1, rounds + 1):
        log.extend(settled_round(number, STATES[number - 1], STATES[number], log.size, update_bytes))
    return log


def grow(member: MemberMachine, *entries: Entry, now: float = 0.0) -> list[MemberEffect]:
    """The log grew by these entries."""
    member.log.extend(entries)
    return member.receive(LogGrew(), now)


def trained(number: int = 1, slots: int = QUOTA) -> Trained:
    """What the worker answers."""
    return Trained(
        round=number, update=blob("update", 10), tokens=slots * TOKENS, slots=slots, loss=1, steps=1, leaves=digest("x")
    )


def kinds(effects: Sequence[MemberEffect]) -> list[type[MemberEffect]]:
    """Types of the effects."""
    return [type(effect) for effect in effects]


def delivery() -> Deliver:
    """What a member that trained its whole seat of round 1 asks for."""
    open_round = begun(opened(1, S0, [A, B])).open
    assert open_round is not None
    return Deliver(open=open_round, trained=trained())


def delivering(now: float = 0.0) -> MemberMachine:
    """A member whose receipt of round 1 is on its way."""
    member = machine(begun())
    assert kinds(grow(member, opened(1, S0, [A, B]))) == [Train]
    assert member.receive(trained(), now) == [delivery()]
    return member


# ---------------------------------------------------------------- working


def test_a_member_that_holds_the_state_trains_on_its_own_seat() -> None:
    member = machine(begun(), account=B)
    (train,) = grow(member, opened(1, S0, [A, B]))
    assert isinstance(train, Train)
    assert (train.start, train.quota) == (QUOTA, QUOTA)
    assert member.receive(LogGrew(), 0.0) == []


def test_a_member_without_a_seat_waits() -> None:
    assert grow(machine(begun()), opened(1, S0, [B])) == []


def test_a_member_that_knows_nothing_of_the_log_asks_for_nothing() -> None:
    member = machine(RunLog(), held=None)
    assert member.receive(LogGrew(), 0.0) == []
    assert grow(member, BEGIN) == [Load(round=0, state=S0)]


def test_training_is_stopped_once_when_its_round_was_cut_without_us() -> None:
    member = machine(begun(), account=B)
    grow(member, opened(1, S0, [A, B]))
    assert grow(member, receipt(A), Settle(round=1, receipts=(2,), state=S1)) == [Stop()]
    assert member.tick(1.0) == []
    assert kinds(member.receive(trained(slots=1), 2.0)) == [Replay]  # and nothing is delivered


def test_training_that_ended_before_its_first_step_delivers_nothing() -> None:
    member = machine(begun())
    grow(member, opened(1, S0, [A]))
    assert member.receive(trained(slots=0), 1.0) == []
    assert member.tick(100.0) == []


def test_training_that_broke_is_tried_again_after_a_pause() -> None:
    member = machine(begun())
    (train,) = grow(member, opened(1, S0, [A]))
    assert member.receive(Broke(effect=train, reason="out of memory"), 10.0) == []
    assert member.deadline == 11.0
    assert member.tick(10.9) == []
    assert member.tick(11.0) == [train]
    member.receive(Broke(effect=train, reason="out of memory"), 20.0)
    assert member.deadline == 22.0


# ---------------------------------------------------------------- delivering


def test_a_taken_receipt_is_offered_again_until_its_round_is_over() -> None:
    member = delivering()
    assert member.receive(Answered(round=1, refusal=None), 5.0) == []
    assert member.deadline == 5.0 + REMIND_S
    assert member.tick(5.0 + REMIND_S) == [Redeliver(round=1)]
    assert member.tick(100.0) == []  # not twice at a time
    member.receive(Answered(round=1, refusal=None), 100.0)
    assert kinds(grow(member, receipt(A), Settle(round=1, receipts=(2,), state=S1))) == [Replay]
    assert member.tick(1000.0) == []
    assert member.deadline is None


def test_a_refusal_for_good_ends_the_delivery() -> None:
    for code in ("FP-413", "FP-414", "FP-415", "FP-131"):
        member = delivering()
        assert member.receive(Answered(round=1, refusal=(code, "no")), 5.0) == []
        assert member.deadline is None
        assert member.tick(100.0) == []


def test_a_leader_that_is_not_ready_is_asked_again() -> None:
    member = delivering()
    member.receive(Answered(round=1, refusal=("FP-411", "none is open yet")), 5.0)
    assert member.tick(6.0) == [Redeliver(round=1)]


def test_a_delivery_that_found_nobody_is_repeated_with_growing_pauses_and_training_does_not_wait_for_it() -> None:
    member = delivering()
    for now, pause in ((10.0, 1.0), (20.0, 2.0), (30.0, 4.0)):
        assert member.receive(Broke(effect=delivery(), reason="unreachable"), now) == []
        assert member.deadline == now + pause
        assert member.tick(now + pause) == [delivery()]
    member.receive(Broke(effect=delivery(), reason="unreachable"), 40.0)
    assert kinds(grow(member, receipt(A), Settle(round=1, receipts=(2,), state=S1), now=40.1)) == [Replay]
    member.receive(Holds(round=1, state=S1), 40.2)
    assert kinds(grow(member, opened(2, S1, [A], slot=2 * QUOTA), now=40.3)) == [Train]


def test_answers_about_an_earlier_round_change_nothing() -> None:
    member = delivering()
    assert member.receive(Answered(round=7, refusal=("FP-414", "old")), 5.0) == []
    assert member.receive(Broke(effect=Redeliver(round=7), reason="old"), 5.0) == []
    assert member.receive(Broke(effect=Stop(), reason="no worker"), 5.0) == []
    assert member.deadline is None


# ---------------------------------------------------------------- catching up


def test_missed_rounds_are_replayed_one_after_the_other() -> None:
    member = machine(settled(2))
    assert member.receive(LogGrew(), 0.0) == [Replay(settled=member.log.settled[0])]
    assert member.receive(Holds(round=1, state=S1), 1.0) == [Replay(settled=member.log.settled[1])]
    assert member.receive(Holds(round=2, state=S2), 2.0) == []
    assert member.state == S2


def test_a_snapshot_is_loaded_when_it_is_smaller_than_what_was_missed() -> None:
    member = machine(settled(3, update_bytes=STATE_BYTES))
    assert member.receive(LogGrew(), 0.0) == [Load(round=3, state=S3)]
    assert member.state == ""


def test_the_last_round_alone_is_always_replayed() -> None:
    member = machine(settled(1, update_bytes=10 * STATE_BYTES))
    assert kinds(member.receive(LogGrew(), 0.0)) == [Replay]


def test_a_joiner_loads_a_snapshot_and_trains_from_the_next_open() -> None:
    member = machine(settled(2), held=None)
    assert grow(member, opened(3, S2, [B], slot=2 * QUOTA)) == [Load(round=2, state=S2)]
    assert member.receive(Holds(round=2, state=S2), 1.0) == []


def test_a_replay_that_breaks_becomes_a_snapshot_and_a_snapshot_that_breaks_a_replay() -> None:
    member = machine(settled(2))
    (replay,) = member.receive(LogGrew(), 0.0)
    member.receive(Broke(effect=replay, reason="nobody has the update"), 0.0)
    (load,) = member.tick(1.0)
    assert load == Load(round=2, state=S2)
    member.receive(Broke(effect=load, reason="nobody has the state"), 1.0)
    assert member.state == S0
    assert member.tick(3.0) == [replay]
    assert member.receive(Holds(round=1, state=S1), 4.0) == [Replay(settled=member.log.settled[1])]


def test_a_state_that_differs_from_the_logs_is_replaced_by_a_snapshot() -> None:
    member = machine(settled(1))
    member.receive(LogGrew(), 0.0)
    assert member.receive(Holds(round=1, state=blob("wrong")), 1.0) == [Load(round=1, state=S1)]
    assert machine(settled(1), held=(1, blob("wrong"))).receive(LogGrew(), 0.0) == [Load(round=1, state=S1)]


def test_the_leaders_own_member_may_be_ahead_of_the_log_and_goes_back_only_after_a_restart() -> None:
    member = machine(begun())
    grow(member, opened(1, S0, [A]))
    member.receive(trained(), 1.0)
    assert member.receive(Holds(round=1, state=S1), 2.0) == []
    assert member.tick(50.0) == []
    restarted = machine(begun(opened(1, S0, [A])), held=(1, S1))
    assert restarted.receive(LogGrew(), 0.0) == [Load(round=0, state=S0)]
    assert kinds(restarted.receive(Holds(round=0, state=S0), 1.0)) == [Train]


# ---------------------------------------------------------------- restarts and ends


def test_after_a_restart_the_promised_receipt_is_delivered_again_and_never_another() -> None:
    member = machine(begun(opened(1, S0, [A])), promised=[PROMISE])
    assert member.receive(LogGrew(), 0.0) == [Redeliver(round=1)]
    assert member.receive(Answered(round=1, refusal=None), 1.0) == []


def test_a_promised_receipt_does_not_wait_until_the_state_is_back() -> None:
    member = machine(begun(opened(1, S0, [A])), held=None, promised=[PROMISE])
    assert member.receive(LogGrew(), 0.0) == [Redeliver(round=1), Load(round=0, state=S0)]


def test_a_promise_for_a_round_that_is_over_is_forgotten() -> None:
    log = settled(1)
    log.extend([opened(2, S1, [A], slot=QUOTA)])
    assert kinds(machine(log, held=(1, S1), promised=[PROMISE]).receive(LogGrew(), 0.0)) == [Train]


def test_a_restart_in_mid_training_trains_the_same_seat_again() -> None:
    (train,) = machine(begun(opened(1, S0, [A]))).receive(LogGrew(), 0.0)
    assert isinstance(train, Train)
    assert train.start == 0


def test_a_closed_run_is_finished_once_its_final_state_is_held() -> None:
    member = machine(begun(opened(1, S0, [B, A])), account=B)
    member.receive(LogGrew(), 0.0)
    settle = Settle(round=1, receipts=(2,), state=S1)
    assert grow(member, replace(receipt(A), account=B), settle, closed(S1)) == [Stop()]
    assert not member.finished
    assert kinds(member.receive(trained(slots=1), 1.0)) == [Replay]
    member.receive(Holds(round=1, state=S1), 2.0)
    assert member.finished
