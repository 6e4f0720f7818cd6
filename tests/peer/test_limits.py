"""Rates and memory per remote peer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import Busy
from peer.network.limits import FLOOD, FLOOD_AGAIN_S, Allowance, Bucket, Limits


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5)), max_size=50))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(steps: list[tuple[float, float]]) -> None:
    bucket, now, given_out = Bucket(3.0, 10.0, 0.0), 0.0, 0.0
    for wait, amount in steps:
        now += wait
        if bucket.take(amount, now) == 0.0:
            given_out += amount
        assert given_out <= 10.0 + 3.0 * now + 1e-6


def test_a_refusal_says_when_to_come_back() -> None:
    bucket = Bucket(2.0, 4.0, 0.0)
    assert bucket.take(4, 0.0) == 0.0
    wait = bucket.take(1, 0.0)
    assert bucket.take(1, wait) == 0.0


def test_one_peer_cannot_use_up_what_belongs_to_another() -> None:
    allowance = Allowance(Limits(requests_per_s=1, burst_requests=2))
    for _ in range(2):
        allowance.enter("a", 10, 0.0)
    with pytest.raises(Busy, match="requests/s"):
        allowance.enter("a", 10, 0.0)
    allowance.enter("b", 10, 0.0)
    assert allowance.refused == 1


def test_memory_in_flight_is_bounded_per_peer_and_given_back() -> None:
    allowance = Allowance(Limits(in_flight_bytes=100, total_in_flight_bytes=150))
    allowance.enter("a", 80, 0.0)
    with pytest.raises(Busy, match="in flight"):
        allowance.enter("a", 30, 0.0)
    with pytest.raises(Busy, match="in flight"), allowance.reserve("a", 30):
        pass
    with pytest.raises(Busy, match="all peers"):
        allowance.enter("b", 80, 0.0)
    allowance.leave("a", 80, 0)
    allowance.enter("b", 80, 0.0)


def test_the_number_of_requests_in_flight_is_bounded() -> None:
    allowance = Allowance(Limits(in_flight=2))
    allowance.enter("a", 1, 0.0)
    allowance.enter("a", 1, 0.0)
    with pytest.raises(Busy, match="in flight"):
        allowance.enter("a", 1, 0.0)


def test_large_replies_are_paid_for_afterwards() -> None:
    allowance = Allowance(Limits(bytes_per_s=10, burst_bytes=100))
    allowance.enter("a", 1, 0.0)
    allowance.leave("a", 1, 1000)
    with pytest.raises(Busy, match="bytes/s"):
        allowance.enter("a", 1, 1.0)
    allowance.enter("a", 1, 200.0)


def test_the_table_of_peers_is_bounded_and_keeps_those_who_are_busy() -> None:
    allowance = Allowance(Limits(peers=3))
    allowance.enter("busy", 1, 0.0)
    for number in range(50):
        allowance.enter(f"p{number}", 1, 0.0)
        allowance.leave(f"p{number}", 1, 0)
    assert len(allowance._remotes) <= 4
    assert "busy" in allowance._remotes


def test_a_flood_is_told_with_its_size_and_not_again_at_once() -> None:
    allowance = Allowance(Limits(requests_per_s=1, burst_requests=1))
    allowance.enter("a", 1, 0.0)
    for _ in range(FLOOD):
        assert allowance.flood("a", 0.0) == 0
        with pytest.raises(Busy):
            allowance.enter("a", 1, 0.0)
    assert allowance.flood("a", 0.0) == FLOOD
    for _ in range(2 * FLOOD):
        with pytest.raises(Busy):
            allowance.enter("a", 1, 0.0)
    assert allowance.flood("a", 1.0) == 0
    assert allowance.flood("a", FLOOD_AGAIN_S) == 2 * FLOOD
    assert allowance.flood("nobody", 0.0) == 0
