"""Where layers are cut: balance against brute force, bounds, refusals."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.stages import cut
from p2p_llm_forge.stages.cut import Cut

costs = st.lists(st.integers(0, 9), min_size=1, max_size=9)
extra = st.integers(0, 12)


def every_cut(layers: int, stages: int) -> list[Cut]:
    """All there are."""
    return [Cut(layers=tuple(pairwise((0, *middle, layers)))) for middle in combinations(range(1, layers), stages - 1)]


def sums(found: Cut, layers: list[int], first: int, last: int) -> list[int]:
    """What each stage comes to."""
    parts = [sum(layers[start:end]) for start, end in found.layers]
    parts[0] += first
    parts[-1] += last
    return parts


@given(layers=costs, first=extra, last=extra, data=st.data())
def test_the_dearest_stage_costs_as_little_as_possible_and_the_others_are_even(
    layers: list[int], first: int, last: int, data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, len(layers)))
    found = cut.balanced(layers, first, last, stages)

    def merit(tried: Cut) -> tuple[int, int]:
        parts = sums(tried, layers, first, last)
        return max(parts), sum(part * part for part in parts)

    assert found.stages() == stages
    assert found.total() == len(layers)
    assert merit(found) == min(map(merit, every_cut(len(layers), stages)))
    assert cut.smallest_largest(layers, first, last, stages) == merit(found)[0]


@given(layers=costs, sizes=costs, first=extra, last=extra, data=st.data())
def test_a_bound_on_bytes_is_kept_or_the_smallest_that_would_do_is_named(
    layers: list[int], sizes: list[int], first: int, last: int, data: st.DataObject
) -> None:
    count = min(len(layers), len(sizes))
    layers, sizes = layers[:count], sizes[:count]
    stages = data.draw(st.integers(1, count))
    bound = data.draw(st.integers(0, 40))
    possible = [tried for tried in every_cut(count, stages) if max(sums(tried, sizes, last, first)) <= bound]
    if not possible:
        least = cut.smallest_largest(sizes, last, first, stages)
        with pytest.raises(SplitError, match=f"the best one needs {least}; set more stages"):
            cut.balanced(layers, first, last, stages, (sizes, last, first, bound))
        return
    found = cut.balanced(layers, first, last, stages, (sizes, last, first, bound))
    assert max(sums(found, sizes, last, first)) <= bound
    assert max(sums(found, layers, first, last)) == min(max(sums(tried, layers, first, last)) for tried in possible)


def test_equal_layers_are_spread_evenly_and_a_heavy_head_gets_fewer() -> None:
    assert cut.even(10, 4).layers == ((0, 2), (2, 4), (4, 7), (7, 10))
    assert cut.balanced([1] * 12, 0, 3, 3).layers == ((0, 5), (5, 10), (10, 12))
    assert Cut.of_counts((2, 1, 3)).layers == ((0, 2), (2, 3), (3, 6))


@pytest.mark.parametrize("stages", [0, 4])
def test_more_stages_than_layers_are_refused(stages: int) -> None:
    with pytest.raises(SplitError, match=rf"pipeline.stages: {stages}, the model has 3 layers; set 3 stages or fewer"):
        cut.even(3, stages)
