"""Sets of microbatches as bitmaps: what is read, what is refused, and what they say of a round.

IO: none.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.stages import bitmap
from peer.errors import RoundError
from peer.stages.manifest import MOST_MICROBATCHES, Manifest, check_cover, cover, double, missing

sizes = st.integers(1, 200)


@st.composite
def manifests(draw: st.DrawFn, count: int = 2) -> tuple[Manifest, ...]:
    """Some manifests of one round."""
    size = draw(sizes)
    return tuple(Manifest.of(draw(st.sets(st.integers(0, size - 1))), size) for _ in range(count))


@given(manifests())
def test_a_manifest_is_the_set_that_it_was_made_of_and_is_read_from_its_own_hex(pair: tuple[Manifest, ...]) -> None:
    one, other = pair
    assert Manifest.read(one.hex, one.size) == one
    assert Manifest.of(one, one.size) == one
    assert list(one) == sorted(set(one)) == [number for number in range(one.size) if number in one]
    assert (set(one | other), set(one & other), set(one - other)) == (
        set(one) | set(other), set(one) & set(other), set(one) - set(other),
    )  # fmt: skip
    assert len(one) == len(set(one))
    assert bool(one) == bool(set(one))


@given(manifests(1))
def test_its_hex_is_the_one_of_the_ledger(one: tuple[Manifest, ...]) -> None:
    assert one[0].hex == bitmap(one[0], one[0].size)


@given(manifests(4))
def test_what_is_covered_held_twice_and_missing(some: tuple[Manifest, ...]) -> None:
    size, whole = some[0].size, set(range(some[0].size))
    everywhere = [number for one in some for number in one]
    assert set(cover(some, size)) == set(everywhere)
    assert set(double(some, size)) == {number for number in everywhere if everywhere.count(number) > 1}
    assert set(missing(some, Manifest.of(whole, size))) == whole - set(everywhere)


@pytest.mark.parametrize(
    "text", ["", "0", "000", "0F", "0g", " 1", "+1", "-1", "1_", "0x", "１2", "40", "ff", None, 7], ids=repr
)
def test_what_is_not_just_the_hex_of_six_microbatches_is_refused(text: object) -> None:
    with pytest.raises(RoundError, match="FP-450"):
        Manifest.read(text, 6)  # type: ignore[arg-type]
    assert Manifest.read("3f", 6) == Manifest.of(range(6), 6)


def test_a_round_has_at_least_one_microbatch_and_not_too_many() -> None:
    for size in (0, -1, MOST_MICROBATCHES + 1):
        with pytest.raises(RoundError, match="FP-450"):
            Manifest(bits=0, size=size)
    with pytest.raises(RoundError, match="microbatch 6, the round has 6"):
        Manifest.of([6], 6)
    with pytest.raises(RoundError, match="of 6 and of 7"):
        Manifest.of([1], 6) | Manifest.of([1], 7)


def of(*numbers: int) -> Manifest:
    """A manifest of a round of eight."""
    return Manifest.of(numbers, 8)


def test_every_stage_served_the_same_set_each_microbatch_once() -> None:
    assert check_cover([[of(0, 1), of(5)], [of(0, 5), of(1)], [of(0, 1, 5)]], 8) == of(0, 1, 5)
    assert check_cover([[], []], 8) == of()


def test_what_two_replicas_hold_or_none_is_named_with_its_stage() -> None:
    with pytest.raises(RoundError, match="stage 1: microbatches 5 are held by two replicas"):
        check_cover([[of(0, 5)], [of(0, 5), of(5)]], 8)
    with pytest.raises(RoundError, match="stage 1: microbatches 0, 5 are held by no replica"):
        check_cover([[of(0, 5)], []], 8)
    with pytest.raises(RoundError, match="stage 0: microbatches 7 are held by no replica"):
        check_cover([[of(0)], [of(0, 7)]], 8)
