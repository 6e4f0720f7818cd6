"""What a replica keeps: never more than its budget, never less than what is needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p_llm_forge.stages.shelf import Rank, Shelf, What

DRAWN = st.lists(
    st.tuples(st.sampled_from(What), st.integers(0, 5), st.integers(0, 40), st.sampled_from(Rank)), max_size=60
)


@given(DRAWN, st.integers(0, 120))
def test_the_budget_holds_and_what_is_needed_stays(drawn: list[tuple[What, int, int, Rank]], budget: int) -> None:
    shelf, needed = Shelf(budget), dict[tuple[What, int], bytes]()
    for place, (what, number, size, rank) in enumerate(drawn):
        data = bytes([place]) * size
        shelf.drop((what, number))
        needed.pop((what, number), None)
        if rank is Rank.NEEDED and not shelf.fits(size):
            continue
        shelf.put(what, number, data, rank)
        if rank is Rank.NEEDED:
            needed[what, number] = data
        assert shelf.used_bytes <= budget
        assert shelf.get(what, number) in ((data, None) if rank is not Rank.NEEDED else (data,))
        assert all(shelf.get(*key) == kept for key, kept in needed.items())
    shelf.clear()
    assert shelf.used_bytes == 0


def test_replies_go_before_records_and_the_oldest_first() -> None:
    shelf = Shelf(40)
    shelf.put(What.ANSWER, 1, b"x" * 10, Rank.REPLY)
    shelf.put(What.INPUT, 1, b"x" * 10, Rank.RECORD)
    shelf.put(What.ANSWER, 2, b"x" * 10, Rank.REPLY)
    shelf.put(What.INPUT, 2, b"x" * 20, Rank.NEEDED)
    kept = [key for key in ((What.ANSWER, 1), (What.ANSWER, 2), (What.INPUT, 1), (What.INPUT, 2)) if shelf.get(*key)]
    assert kept == [(What.ANSWER, 2), (What.INPUT, 1), (What.INPUT, 2)]
    shelf.put(What.GRADIENT, 2, b"x" * 20, Rank.NEEDED)
    assert not shelf.fits(1)
    assert shelf.get(What.INPUT, 1) is None
    shelf.put(What.OUTPUT, 3, b"x", Rank.REPLY)
    assert shelf.get(What.OUTPUT, 3) is None, "it has no room and is not needed"


def test_what_is_needed_no_longer_makes_room() -> None:
    shelf = Shelf(10)
    shelf.put(What.INPUT, 1, b"x" * 10, Rank.NEEDED)
    shelf.rank(What.INPUT, 1, Rank.RECORD)
    shelf.rank(What.INPUT, 7, Rank.RECORD)
    assert shelf.fits(10)
    shelf.put(What.INPUT, 2, b"y" * 10, Rank.NEEDED)
    assert shelf.get(What.INPUT, 1) is None
    shelf.forget(2)
    assert shelf.used_bytes == 0
