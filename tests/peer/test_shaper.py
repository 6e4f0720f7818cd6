"""Caps of our line: held over every second, fair between peers, and never in the way of small messages."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import Busy
from peer.network.shaper import LEAST_PIECE_BYTES, MOST_PIECE_BYTES, Shaper, patience_s

RATE = 1_000_000.0


def drive(shaper: Shaper, until: float, wanted: dict[str, int], small: list[tuple[float, int]] | None = None,
          bulk_bytes: int = 0) -> list[tuple[float, str, int]]:  # fmt: skip
    """Every peer has `wanted` bulk pieces, four of them waiting at a time; returns what went, and when."""
    now, went, small = 0.0, [], list(small or [])
    left, size = dict(wanted), bulk_bytes or shaper.piece_bytes
    waiting = dict.fromkeys(wanted, 0)
    while now < until:
        while small and small[0][0] <= now:
            _, size_of = small.pop(0)
            shaper.count(size_of)
            went.append((now, "small", size_of))
        for peer in wanted:
            while left[peer] and waiting[peer] < 4:
                shaper.ask(peer, size)
                left[peer] -= 1
                waiting[peer] += 1
        for turn in shaper.give(now):
            went.append((now, turn.peer, turn.size))
            waiting[turn.peer] -= 1
        wait_s = shaper.wait_s(now)
        now = min([until, *([now + max(wait_s, 1e-6)] if wait_s is not None else []), *(at for at, _ in small[:1])])
    return went


def most_in(went: list[tuple[float, str, int]], window_s: float) -> int:
    """The most bytes in any window of this length."""
    return max(sum(size for at, _, size in went if begin <= at < begin + window_s) for begin, _, _ in went)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.25, 1000.0), st.sampled_from([1.0, 2.0, 5.0]))
def test_no_window_of_a_second_or_more_holds_more_than_the_cap_and_a_piece(
    seed: int, mbit: float, window_s: float
) -> None:
    rng, rate = random.Random(seed), mbit * 125_000
    shaper = Shaper(rate, 0.0)
    small = sorted((rng.uniform(0, 6), rng.randrange(int(rate / 500) + 1)) for _ in range(50))
    went = drive(shaper, 6.0, {"a": 100_000, "b": 100_000}, small)
    assert most_in(went, window_s) <= 1.06 * rate * window_s + max(size for _, size in small)
    assert sum(size for _, _, size in went) >= 0.97 * rate * 6.0


def test_small_messages_go_at_once_in_the_midst_of_bulk_and_bulk_makes_room_for_them() -> None:
    small = [(0.1 * step, 10_000) for step in range(100)]
    went = drive(Shaper(RATE, 0.0), 10.0, {"a": 1000}, small)
    assert [at for at, who, _ in went if who == "small"] == [at for at, _ in small]
    assert sum(size for _, _, size in went) == pytest.approx(10 * RATE, rel=0.02)


def test_peers_share_the_line_by_bytes_whatever_the_size_of_their_pieces() -> None:
    shaper, had, waiting = Shaper(RATE, 0.0), {"large": 0, "tiny": 0}, {"large": 0, "tiny": 0}
    now = 0.0
    while now < 20.0:
        for peer, size in (("large", shaper.piece_bytes), ("tiny", 2_000)):
            while waiting[peer] < 8:
                shaper.ask(peer, size)
                waiting[peer] += 1
        for turn in shaper.give(now):
            had[turn.peer] += turn.size
            waiting[turn.peer] -= 1
        now += max(shaper.wait_s(now) or 0.0, 1e-4)
    assert had["large"] == pytest.approx(had["tiny"], rel=0.05)


def test_who_comes_late_waits_for_a_piece_not_for_all_that_was_before_it() -> None:
    shaper = Shaper(RATE, 0.0)
    for _ in range(8):
        shaper.ask("early", shaper.piece_bytes)
    shaper.give(0.0)
    late = shaper.ask("late", shaper.piece_bytes)
    assert late in shaper.give((shaper.wait_s(0.0) or 0.0) + 1e-6)


def test_too_much_that_waits_is_refused_and_what_is_dropped_waits_no_more() -> None:
    shaper = Shaper(RATE, 0.0, most_waiting=3, most_of_one=2)
    turns = [shaper.ask("a", 50_000), shaper.ask("a", 50_000)]
    with pytest.raises(Busy, match="2 of 2 pieces"):
        shaper.ask("a", 50_000)
    shaper.ask("b", 50_000)
    with pytest.raises(Busy):
        shaper.ask("c", 50_000)
    shaper.ask("c", 50_000, bounded=False)
    for turn in turns:
        shaper.drop(turn)
        shaper.drop(turn)
    assert shaper.waiting == 2
    assert [turn.peer for now in (0.0, 1.0, 2.0) for turn in shaper.give(now)] == ["b", "c"]
    assert shaper.wait_s(2.0) is None


def test_a_frame_above_a_piece_goes_and_is_paid_for_afterwards() -> None:
    shaper = Shaper(RATE, 0.0)
    shaper.ask("a", 1_000_000)
    assert len(shaper.give(0.0)) == 1
    shaper.ask("a", 1_000)
    assert shaper.give(0.9) == []
    assert len(shaper.give(1.0)) == 1


def test_bytes_that_did_not_come_are_given_back() -> None:
    shaper = Shaper(RATE, 0.0)
    shaper.ask("a", shaper.piece_bytes)
    shaper.give(0.0)
    shaper.count(-shaper.piece_bytes)
    shaper.ask("a", shaper.piece_bytes)
    assert len(shaper.give(0.0)) == 1


def test_pieces_follow_the_cap_and_deadlines_the_bytes() -> None:
    assert Shaper(RATE, 0.0).piece_bytes == 50_000
    assert Shaper(1e12, 0.0).piece_bytes == MOST_PIECE_BYTES
    assert Shaper(31_250.0, 0.0).piece_bytes >= LEAST_PIECE_BYTES
    assert patience_s(1 << 20) == 128.0
