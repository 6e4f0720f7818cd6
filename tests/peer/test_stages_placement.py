"""Which stage a peer serves: where it is needed most, with few moves.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from peer.stages.messages import Status
from peer.stages.placement import HYSTERESIS, INTERVAL_S, Placement
from tests.peer.stages_kit import GB, PLAN, S0

TWO = replace(PLAN, replicas=2)
EQUAL = replace(TWO, shares=(250_000, 250_000, 500_000))


class Bench:
    """A placement and who lives."""

    def __init__(self, plan: object = TWO) -> None:
        self.placement = Placement(plan)  # type: ignore[arg-type]
        self.living: list[str] = []

    def seen(
        self, account: str, stage: int = -1, seconds: float = 0.0, memory: int = 8 * GB, now: float = 0.0
    ) -> list[str]:
        """A peer says how it stands; what is told of it."""
        if account not in self.living:
            self.living.append(account)
        status = Status(
            account=account, life=1, seq=1, stage=stage, state=S0 if stage >= 0 else "", memory_bytes=memory,
            microbatch_s=seconds,
        )  # fmt: skip
        return [report.event for report in self.placement.seen(status, now=now, living=self.living)]

    def join(self, account: str, **more: float) -> int | None:
        """A newcomer: its stage."""
        self.seen(account, **more)  # type: ignore[arg-type]
        return self.placement.stage_of(account)

    def serving(self, *seconds: tuple[float, ...]) -> Bench:
        """So many peers in each stage, with the time that each needs for a microbatch."""
        for stage, times in enumerate(seconds):
            for place, time in enumerate(times):
                self.seen(f"{stage}{place}", stage, time)
        return self


def test_joiners_fill_the_stages_evenly_while_none_was_measured() -> None:
    bench = Bench()
    stages = [bench.join(f"peer {number}") for number in range(6)]
    assert sorted(stages, key=str) == [0, 0, 1, 1, 2, 2]


def test_a_joiner_serves_the_stage_whose_replicas_together_are_slowest() -> None:
    assert Bench().serving((1.0, 1.0), (1.0, 4.0), (1.0, 1.0)).join("new") == 1
    assert Bench().serving((1.0, 1.0), (1.0, 1.0), (2.0, 2.0, 4.0)).join("new") == 2


def test_a_stage_with_too_few_replicas_comes_before_a_slow_one() -> None:
    assert Bench().serving((0.1,), (9.0, 9.0), (1.0, 1.0)).join("new") == 0


def test_a_joiner_gets_only_what_it_can_hold_and_none_if_nothing_fits() -> None:
    bench = Bench()
    assert bench.join("small", memory=2 * GB) == 0
    assert bench.join("another", memory=2 * GB) == 0
    assert bench.join("middling", memory=3 * GB) == 1
    assert bench.seen("middling") == []
    assert bench.seen("tiny", memory=GB) == ["unfit"]
    assert bench.placement.stage_of("tiny") is None


def test_who_comes_with_a_stage_keeps_it() -> None:
    bench = Bench().serving((1.0, 1.0), (9.0, 9.0), (1.0, 1.0))
    bench.seen("back", stage=0)
    assert bench.placement.stage_of("back") == 0


def test_a_move_goes_to_the_least_served_stage_if_that_is_worth_it_by_a_good_part() -> None:
    bench = Bench().serving((1.0, 1.0, 1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    move = bench.placement.edge(bench.living, INTERVAL_S)
    assert move is None, "two stages bound the run: helping one of them gains nothing"
    bench = Bench(EQUAL).serving((1.0, 1.0, 1.0, 1.0), (0.5, 0.5), (1.0, 1.0))
    move = bench.placement.edge(bench.living, INTERVAL_S)
    assert move is not None
    assert (move.before, move.stage) == (0, 2)
    gained = 2.0 + 0.5
    assert gained >= (1 + HYSTERESIS) * 2.0


def test_a_move_that_gains_little_is_not_made() -> None:
    bench = Bench().serving((1.0, 1.0, 9.0), (1.0, 1.0, 1.0), (1.0, 1.1))
    assert bench.placement.edge(bench.living, INTERVAL_S) is None


def test_one_move_in_an_interval_and_nobody_moves_soon_after_it_came() -> None:
    bench = Bench(EQUAL).serving((0.5,) * 5, (0.5,) * 5, (4.0, 4.0))
    assert bench.placement.edge(bench.living, INTERVAL_S - 1) is None
    first = bench.placement.edge(bench.living, INTERVAL_S)
    assert first is not None
    assert bench.placement.edge(bench.living, 2 * INTERVAL_S - 1) is None
    second = bench.placement.edge(bench.living, 2 * INTERVAL_S)
    assert second is not None
    assert second.account != first.account, "it does not hold its new stage yet"


def test_no_stage_falls_below_its_replicas_also_where_another_has_none() -> None:
    bench = Bench().serving((1.0, 1.0), (1.0, 1.0), ())
    assert bench.placement.edge(bench.living, 10 * INTERVAL_S) is None
    assert bench.placement.missing({0: 2, 1: 2}) == "stage 2 has no replica: needs a peer with >= 3.1 GB"


def test_a_stage_without_replicas_is_mended_first_whatever_it_gains() -> None:
    bench = Bench().serving((1.0, 1.0, 1.0, 1.0), (1.0, 1.0), ())
    move = bench.placement.edge(bench.living, INTERVAL_S)
    assert move is not None
    assert (move.before, move.stage) == (0, 2)
    again = bench.placement.edge(bench.living, INTERVAL_S + 1)
    assert again is not None
    assert again.account != move.account


def test_what_is_missing_is_said_stage_by_stage() -> None:
    placement = Placement(TWO)
    assert placement.missing({0: 2, 1: 1, 2: 5}) == "stage 1 has 1 of 2 replicas: needs a peer with >= 3.0 GB"
    assert placement.missing({0: 2, 1: 2, 2: 2}) == ""
    assert placement.missing({1: 2, 2: 2}) == "stage 0 has no replica: needs a peer with >= 2.0 GB"


@given(
    peers=st.lists(st.tuples(st.integers(0, 2), st.floats(0.1, 10.0)), min_size=6, max_size=16),
    gone=st.lists(st.integers(0, 15), max_size=20),
)
def test_moves_fill_stages_or_make_the_least_one_quicker_and_end_if_nothing_changes(
    peers: list[tuple[int, float]], gone: list[int]
) -> None:
    bench = Bench()
    for number, (stage, seconds) in enumerate(peers):
        bench.seen(f"peer {number}", stage, seconds)
    living = [account for account in bench.living if int(account.split()[1]) not in gone]
    now, moved = INTERVAL_S, dict[str, float]()
    for _ in range(40):
        least = min(bench.placement._capacities(living, {}))
        short = min(bench.placement._counts(living)) < TWO.replicas
        move = bench.placement.edge(living, now)
        if move is not None:
            assert now - moved.get(move.account, -INTERVAL_S) >= INTERVAL_S
            moved[move.account] = now
            bench.placement._peers[move.account].holds = True
            assert short or min(bench.placement._capacities(living, {})) > least
            assert bench.placement._counts(living)[move.before] >= TWO.replicas
        now += INTERVAL_S / 2
    assert bench.placement.edge(living, now + INTERVAL_S) is None
