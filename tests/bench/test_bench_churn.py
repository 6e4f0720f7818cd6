"""What the benchmark of kills in a pipeline makes of journals."""

from typing import Any

import churn
import pytest

from peer.demo.peers import DemoFailed

Event = dict[str, Any]

KILL = churn.Kill(account="victim", round=3, began_at=90.0, at=100.0, back_at=106.0)


def overtaken(time: float, seconds: float, microbatch: int = 0, before: str = "victim") -> Event:
    """Another replica answered, so long after the first request."""
    return {"event": "failed_over", "time": time, "round": 3, "stage": 1, "microbatch": microbatch, "kind": "backward",
            "account": "other", "before": [before], "seconds": seconds}  # fmt: skip


def broke(time: float, seconds: float, microbatch: int = 0, account: str = "victim") -> Event:
    """A request's line broke."""
    return {"event": "call_broke", "time": time, "round": 3, "stage": 1, "microbatch": microbatch, "kind": "backward",
            "account": account, "seconds": seconds}  # fmt: skip


def found(*journals: list[Event]) -> tuple[list[float], list[float]]:
    waits = churn.waits(journals, KILL, 110.0)
    return list(waits.answered), list(waits.unanswered)


def test_a_request_waits_from_the_kill_until_another_replica_has_answered() -> None:
    one = [broke(100.1, 0.3), overtaken(100.5, 0.7), broke(100.1, 0.2, 1), overtaken(101.5, 1.6, 1)]
    assert found(one, [overtaken(100.25, 0.5)]) == ([0.5, 1.5, 0.25], [])


def test_a_request_that_never_broke_but_was_silent_counts_as_well() -> None:
    assert found([overtaken(106.0, 6.5)]) == ([6.0], [])


def test_requests_to_others_and_those_sent_after_the_kill_or_over_before_it_do_not_count() -> None:
    others = [overtaken(100.5, 0.7, before="other"), broke(100.1, 0.3, account="other")]
    late = [broke(100.5, 0.1, 4), overtaken(100.7, 0.3, 4)]
    early = [broke(99.5, 0.1, 5), overtaken(99.9, 0.5, 5)]
    assert found(others + late + early) == ([], [])


def test_a_broken_request_that_no_other_answered_waits_until_the_round_is_settled() -> None:
    assert found([broke(100.1, 0.3), overtaken(100.5, 0.7), broke(100.1, 0.3, 2)]) == ([0.5], [10.0])


def test_goodput_is_the_settled_tokens_over_all_time_void_rounds_included() -> None:
    settled = [{"event": "settled", "round": number, "time": 10.0 * number, "tokens": tokens}
               for number, tokens in enumerate((500, 800, 0, 700), 1)]  # fmt: skip
    assert churn.goodput(settled, 1, 4) == 50.0
    assert churn.goodput(settled, 2, 4) == 35.0
    with pytest.raises(DemoFailed, match="4 to 5"):
        churn.goodput(settled, 4, 5)


def test_the_limit_is_what_is_left_of_the_peers_time_without_the_victims_lost_work_and_absence() -> None:
    assert churn.limit([KILL], 5, 20.0) == pytest.approx(1 - 16 / 100)
    assert churn.limit([], 5, 20.0) == 1.0
