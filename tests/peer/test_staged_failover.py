"""What a driver's journal tells of passes that another replica made than the one that was asked first."""

from typing import Any

from peer.runs.staged.failover import Failovers, told
from peer.stages.messages import Attempt, Kind, Tag
from peer.stages.tasks import Call

WHICH = {"round": 4, "stage": 1, "microbatch": 7, "kind": "backward"}


def call(account: str, **more: Any) -> Call:
    tag = Tag(round=4, state="s", stage=1, microbatch=7, kind=Kind.BACKWARD, **more)
    return Call(id=1, account=account, tag=tag, input="x", gradient="")


def asked(*accounts: str) -> Failovers:
    """One pass, asked of these, one each second."""
    failovers = Failovers()
    for second, account in enumerate(accounts):
        failovers.asks(call(account), float(second))
    return failovers


def test_an_answer_of_another_replica_is_told_with_who_was_asked_before_and_since_when() -> None:
    failover = asked("a", "a", "b", "c").answered(call("c"), 3.5)
    assert failover == {**WHICH, "account": "c", "before": ["a", "b"], "seconds": 3.5}


def test_the_first_answer_alone_is_told() -> None:
    failovers = asked("a", "b")
    assert failovers.answered(call("b"), 2.0) is not None
    assert failovers.answered(call("a"), 3.0) is None


def test_an_answer_of_who_was_asked_first_is_nothing_to_tell() -> None:
    assert asked("a", "a").answered(call("a"), 2.0) is None
    assert asked("a", "b").answered(call("a"), 2.0) is None


def test_who_refuses_has_not_failed() -> None:
    failovers = asked("a")
    failovers.refused(call("a"))
    failovers.asks(call("b"), 1.0)
    assert failovers.answered(call("b"), 2.0) is None
    failovers = asked("a", "b")
    failovers.refused(call("b"))
    failovers.asks(call("c"), 3.0)
    assert failovers.answered(call("c"), 4.0) == {**WHICH, "account": "c", "before": ["a", "b"], "seconds": 4.0}


def test_a_replay_of_what_was_answered_and_another_round_begin_anew() -> None:
    failovers = asked("a")
    assert failovers.answered(call("a"), 1.0) is None
    failovers.asks(call("b"), 5.0)
    assert failovers.answered(call("b"), 6.0) is None
    failovers.asks(call("a"), 7.0)
    failovers.clear()
    failovers.asks(call("b"), 8.0)
    assert failovers.answered(call("b"), 9.0) is None


def test_a_replay_for_another_attempt_is_another_pass() -> None:
    failovers = asked("a")
    again = call("b", attempt=Attempt(1, "leader"))
    failovers.asks(again, 5.0)
    assert failovers.answered(again, 6.0) is None


def test_a_pass_is_told_by_its_place_and_who_is_asked() -> None:
    assert told(call("a")) == {**WHICH, "account": "a"}
