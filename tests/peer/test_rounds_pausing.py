"""A member's round machine when its volunteer pauses: what it still does, and when it may go.

IO: none.
"""

from __future__ import annotations

from ledger.entries import Settle
from peer.rounds.messages import Answered, Broke, Deliver, LogGrew, Paused, Stop, Train
from tests.peer.rounds_kit import S0, S1, A, B, begun, opened, receipt, settled_round
from tests.peer.test_rounds_member import delivering, delivery, grow, kinds, machine, trained


def test_who_pauses_stops_training_delivers_what_there_is_and_begins_nothing_more() -> None:
    member = machine(begun())
    assert kinds(grow(member, opened(1, S0, [A, B]))) == [Train]
    assert not member.quiet
    assert member.receive(Paused(), 1.0) == [Stop()]
    assert member.receive(LogGrew(), 1.0) == []
    assert kinds(member.receive(trained(slots=1), 2.0)) == [Deliver]
    assert not member.quiet
    assert member.receive(Answered(round=1, refusal=None), 3.0) == []
    assert member.quiet
    assert grow(member, *settled_round(1, S0, S1, 1)[1:]) == []
    assert member.quiet


def test_who_pauses_before_its_first_step_has_nothing_to_deliver() -> None:
    member = machine(begun())
    grow(member, opened(1, S0, [A, B]))
    member.receive(Paused(), 1.0)
    assert member.receive(trained(slots=0), 2.0) == []
    assert member.quiet


def test_who_pauses_while_its_receipt_is_under_way_waits_for_the_answer_or_the_rounds_end() -> None:
    member = delivering()
    assert member.receive(Paused(), 1.0) == []
    assert not member.quiet
    assert kinds(member.receive(Broke(effect=delivery(), reason="nobody answers"), 1.0)) == []
    assert not member.quiet
    grow(member, receipt(A), Settle(round=1, receipts=(2,), state=S1), now=1.0)
    assert member.quiet


def test_who_is_idle_may_go_at_once() -> None:
    member = machine(begun())
    assert member.receive(Paused(), 1.0) == []
    assert member.quiet
