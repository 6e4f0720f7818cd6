"""Who shall hold what of a round, whoever died and whatever is lacking.

IO: none.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.stages.manifest import Manifest, check_cover
from peer.stages.reconcile import Table, reconcile

DRIVERS, MIDDLES, LASTS = ("d1", "d2"), ("m1", "m2"), ("l1", "l2")
ALL = (*DRIVERS, *MIDDLES, *LASTS)
TABLES: dict[str, Table] = {"d1": {0: ("m1", "l1"), 1: ("m2", "l1")}, "d2": {2: ("m1", "l2")}}


def test_everybody_there_holds_what_the_drivers_recorded() -> None:
    found = reconcile(TABLES, working=set(ALL), lacking={}, sound={})
    assert found.gaps == {}
    assert found.counted == {0, 1, 2}
    assert found.manifests == {"d1": {0, 1}, "d2": {2}, "m1": {0, 2}, "m2": {1}, "l1": {0, 1}, "l2": {2}}


def test_what_a_dead_replica_held_is_replayed_by_the_drivers_that_gave_it() -> None:
    found = reconcile(TABLES, working=set(ALL) - {"m1"}, lacking={}, sound={})
    assert found.gaps == {"d1": ((1, 0),), "d2": ((1, 2),)}
    assert "m1" not in found.manifests


def test_what_a_dead_driver_drove_is_dropped_in_all_stages() -> None:
    found = reconcile(TABLES, working=set(ALL) - {"d1"}, lacking={}, sound={})
    assert (found.gaps, found.counted) == ({}, {2})
    assert found.manifests == {"d2": {2}, "m1": {2}, "l2": {2}}


def test_a_dead_driver_counts_with_its_receipt_until_something_of_it_would_have_to_be_replayed() -> None:
    gone = set(ALL) - {"d1"}
    assert reconcile(TABLES, working=gone, lacking={}, sound={"d1": {0, 1}}).counted == {0, 1, 2}
    assert reconcile(TABLES, working=gone, lacking={"m2": {1}}, sound={"d1": {0, 1}}).counted == {2}


def test_a_dead_replica_counts_with_a_receipt_for_just_what_it_shall_hold() -> None:
    gone = set(ALL) - {"l1"}
    assert reconcile(TABLES, working=gone, lacking={}, sound={"l1": {0, 1}}).gaps == {}
    assert reconcile(TABLES, working=gone, lacking={}, sound={"l1": {0, 1, 2}}).gaps == {"d1": ((2, 0), (2, 1))}


def test_a_replica_that_lost_what_its_receipt_says_counts_with_the_receipt_or_is_replayed() -> None:
    lacking = {"m1": {0, 2}}
    assert reconcile(TABLES, working=set(ALL), lacking=lacking, sound={"m1": {0, 2}}).gaps == {}
    found = reconcile(TABLES, working=set(ALL) - {"d2"}, lacking=lacking, sound={"m1": {0, 2}})
    assert (found.gaps, found.counted) == ({"d1": ((1, 0),)}, {0, 1})


some = st.sets(st.sampled_from(ALL))
numbers = st.sets(st.integers(0, 7))


@given(
    rows=st.lists(st.tuples(st.sampled_from(MIDDLES), st.sampled_from(LASTS)), min_size=8, max_size=8),
    driven=numbers, gone=some, lacking=st.dictionaries(st.sampled_from(ALL), numbers),
    sound=st.dictionaries(st.sampled_from(ALL), numbers), exact=some,
)  # fmt: skip
def test_once_the_gaps_are_closed_every_stage_holds_the_same_set_each_microbatch_once(
    rows: list[tuple[str, str]], driven: set[int], gone: set[str], lacking: dict[str, set[int]],
    sound: dict[str, set[int]], exact: set[str],
) -> None:  # fmt: skip
    tables: dict[str, Table] = {
        driver: {number: rows[number] for number in driven if number // 4 == place}
        for place, driver in enumerate(DRIVERS)
    }
    whole = reconcile(tables, working=set(ALL), lacking={}, sound={})
    sound |= {account: set(whole.manifests.get(account, ())) for account in exact}
    working = set(ALL) - gone
    found = reconcile(tables, working=working, lacking=lacking, sound=sound)
    by_stage = [
        [Manifest.of(found.manifests.get(account, ()), 8) for account in group] for group in (DRIVERS, MIDDLES, LASTS)
    ]
    for driver, gaps in found.gaps.items():
        assert driver in working, "somebody who is gone is to replay"
        for stage, number in gaps:
            assert number in tables[driver]
            by_stage[stage].append(Manifest.of([number], 8))
    assert set(check_cover(by_stage, 8)) == found.counted
    for account, held in found.manifests.items():
        able = account in working and not held & lacking.get(account, set())
        assert able or held == sound.get(account), f"{account} cannot hold {held}"


WITH_EXPERTS: dict[str, Table] = {"d1": {0: ("m1", "l1"), 1: ("m1", "")}, "d2": {2: ("m1", "l2")}}


def test_a_group_of_experts_holds_what_somebody_there_can_hold() -> None:
    found = reconcile(WITH_EXPERTS, working=set(ALL) - {"l1"}, lacking={}, sound={}, optional={1: True, 2: True})
    assert found.gaps == {"d1": ((2, 0),)}
    found = reconcile(WITH_EXPERTS, working=set(ALL) - set(LASTS), lacking={}, sound={}, optional={1: True, 2: False})
    assert (found.gaps, found.counted) == ({}, {0, 1, 2})
    assert found.manifests == {"d1": {0, 1}, "d2": {2}, "m1": {0, 1, 2}}


def test_a_dead_driver_takes_no_microbatch_from_the_trunk_of_another_when_a_group_lacks_it() -> None:
    lacking = {"l1": {0}}
    gone = set(ALL) - {"d1"}
    found = reconcile(
        WITH_EXPERTS, working=gone, lacking=lacking, sound={"d1": {0, 1}}, optional={1: True, 2: True}
    )
    assert (found.gaps, found.counted) == ({}, {0, 1, 2})
    assert found.manifests == {"d1": {0, 1}, "d2": {2}, "m1": {0, 1, 2}, "l2": {2}}
