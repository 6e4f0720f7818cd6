"""Which runs a peer takes part in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ledger.keys import PrivateKey
from peer.peerkey import PeerKey
from peer.records import RunAdvert
from peer.runs.matcher import choose

KEY, PEER = PrivateKey.generate(), PeerKey.generate().peer_id


def advert(run: int, members: int = 0, phase: str = "training") -> RunAdvert:
    return RunAdvert.create(
        KEY, now=1000, network="ab" * 32, peer_id=PEER, run=f"{run:064x}", phase=phase, members=members
    )


def ids(adverts: list[RunAdvert]) -> list[int]:
    return [int(one.run, 16) for one in adverts]


def test_the_run_with_the_fewest_members_comes_first() -> None:
    adverts = [advert(1, 3), advert(3, 1), advert(2, 1)]
    assert ids(choose(adverts, taken=set(), busy=0, max_runs=2)) == [2, 3]


def test_known_and_closed_runs_are_left_alone() -> None:
    adverts = [advert(1), advert(2, phase="closed"), advert(3, phase="waiting")]
    assert ids(choose(adverts, taken={f"{1:064x}"}, busy=0, max_runs=9)) == [3]


@given(busy=st.integers(0, 9), most=st.integers(0, 9))
def test_nobody_works_on_more_runs_than_allowed(busy: int, most: int) -> None:
    chosen = choose([advert(number) for number in range(4)], taken=set(), busy=busy, max_runs=most)
    assert len(chosen) == min(4, max(0, most - busy))
