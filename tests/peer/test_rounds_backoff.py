"""Members that come and go: for how many rounds they pause, and that a run which needs them takes them.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Open
from peer.rounds import messages as rounds
from peer.rounds.backoff import DROPS, MOST_ROUNDS, WINDOW, Backoff
from tests.peer.rounds_kit import PLAN, S0, A, B, Bench, C, blob, reports

LONG = replace(PLAN, rounds=1000, min_members=1)


def dropped(backoff: Backoff, *numbers: int) -> list[int]:
    """Drop A in these rounds; returns for how many rounds it was benched each time, 0 if not."""
    until = [backoff.dropped(A, number) for number in numbers]
    return [0 if first is None else first - number - 1 for first, number in zip(until, numbers, strict=True)]


def test_the_third_drop_within_the_window_benches_and_each_further_one_for_twice_as_long() -> None:
    assert dropped(Backoff(), 1, 2, 3, 5, 8, 13, 22, 39, 56) == [0, 0, 1, 2, 4, 8, 16, MOST_ROUNDS, MOST_ROUNDS]


def test_drops_far_apart_bench_nobody() -> None:
    assert dropped(Backoff(), *range(1, 200, WINDOW // (DROPS - 1) + 1)) == [0] * 34
    assert dropped(Backoff(), 1, 4, 1 + WINDOW) == [0, 0, 0]
    assert dropped(Backoff(), 1, 4, WINDOW) == [0, 0, 1]


def test_a_stable_stretch_clears_everything() -> None:
    backoff = Backoff()
    assert dropped(backoff, 1, 2, 3, 5) == [0, 0, 1, 2]
    back = 5 + 1 + 2
    assert dropped(backoff, back + WINDOW, back + WINDOW + 1, back + WINDOW + 2) == [0, 0, 1]


def test_one_drop_short_of_a_stable_stretch_does_not() -> None:
    backoff = Backoff()
    assert dropped(backoff, 1, 2, 3, 5) == [0, 0, 1, 2]
    assert dropped(backoff, 5 + 1 + 2 + WINDOW - 1) == [4]


def test_two_drops_in_one_round_are_one() -> None:
    assert dropped(Backoff(), 1, 1, 1, 2, 2) == [0, 0, 0, 0, 0]


def test_the_benched_are_not_fit_until_their_round_has_come_unless_too_few_others_are() -> None:
    backoff = Backoff()
    dropped(backoff, 1, 2, 3, 5)  # may come back in round 8
    for number in (2, 3, 4):
        backoff.dropped(B, number)  # may come back in round 6
    assert backoff.fit([A, B, C], round=5, wanted=1) == [C]
    assert backoff.fit([A, B, C], round=5, wanted=2) == [C, B]
    assert backoff.fit([A, B, C], round=5, wanted=3) == [C, B, A]
    assert backoff.fit([A, B, C], round=6, wanted=1) == [B, C]
    assert backoff.fit([A, B, C], round=8, wanted=1) == [A, B, C]


# ---------------------------------------------------------------- in the leader's machine


def state(number: int) -> str:
    """The state after a round."""
    return blob(f"state {number}") if number else S0


def flap(bench: Bench, *, silent: bool = True) -> None:
    """B is lost in the open round, comes back and still delivers."""
    number = bench.log.round + 1
    if silent:
        bench.stay(bench.now + PLAN.lost_after_s, A, state=state(number - 1))
    else:
        bench.tell(rounds.Left(account=B, reason="paused"))
    bench.beat(A, B, state=state(number - 1))
    bench.settle(state(number), B, A)
    bench.beat(A, B, state=state(number))


def rostered(bench: Bench) -> list[bool]:
    """Of every round, whether B was on its roster."""
    return [B in [seat.account for seat in entry.roster] for entry in bench.logged if isinstance(entry, Open)]


def started(min_members: int = 1) -> Bench:
    """A leader with A and B in round 1."""
    bench = Bench(replace(LONG, min_members=2))
    bench.beat(A, B)
    bench.plan = bench.machine.plan = replace(LONG, min_members=min_members)
    return bench


def test_a_member_that_flaps_is_benched_with_the_reason_and_until_when() -> None:
    bench = started()
    for _ in range(3):
        flap(bench)
    (told,) = reports(bench.asked, "benched")
    assert (told["account"], told["until"]) == (B, 5)
    assert told["reason"] == "dropped again and again, last in round 3: no heartbeat for 3.0 s"
    bench.stay(bench.now + PLAN.lost_after_s, A, B, state=state(3))
    bench.settle(state(4), A)
    assert rostered(bench) == [True, True, True, False, True]


def test_a_goodbye_is_no_flapping() -> None:
    bench = started()
    for _ in range(5):
        flap(bench, silent=False)
    assert reports(bench.asked, "benched") == []
    assert rostered(bench) == [True] * 6


def test_a_run_that_needs_a_benched_member_takes_it() -> None:
    bench = started(min_members=2)
    for _ in range(4):
        flap(bench)
    assert [told["until"] for told in reports(bench.asked, "benched")] == [5, 7]
    assert rostered(bench) == [True] * 5
