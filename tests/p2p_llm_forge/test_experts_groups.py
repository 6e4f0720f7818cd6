"""Groups, who serves them, which of them a joiner should serve; and what a spec may say of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p2p_llm_forge.errors import DoesNotFit, SpecError
from p2p_llm_forge.settings import MembersSpec, TrainingSpec
from p2p_llm_forge.settings_experts import ExpertsSpec, check
from p2p_llm_forge.stages.experts.groups import Groups, Service, Serving, scarcity, to_serve

GIB = 1 << 30
MEMBERS = MembersSpec(max=16)


@given(st.integers(1, 300).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))))
def test_groups_are_even_and_hold_every_expert_once(sizes: tuple[int, int]) -> None:
    experts, count = sizes
    groups = Groups.of(experts, count)
    held = [list(range(*groups.span(group))) for group in range(groups.count)]
    assert [expert for part in held for expert in part] == list(range(experts))
    assert max(map(len, held)) - min(map(len, held)) <= 1


@pytest.mark.parametrize("count", [0, 9])
def test_a_group_without_experts_is_refused(count: int) -> None:
    with pytest.raises(SpecError, match=rf"experts\.groups: {count}, but a layer of this model has 8 experts; set 1…8"):
        Groups.of(8, count)


def test_a_group_without_replica_and_experts_named_besides_are_dead() -> None:
    serving = Serving.of(Groups.of(5, 2), ["a", None], layers=2, dead={1: {0}})
    assert serving.holders == (("a", "a", None, None, None), (None, "a", None, None, None))
    assert (serving.dead(0), serving.dead(1)) == ({2, 3, 4}, {0, 2, 3, 4})


def service(*speeds: float, load: float = 100.0, gib: float = 1.0) -> Service:
    """A group served so."""
    return Service(speeds=speeds, load=load, need_bytes=int(gib * GIB))


def test_the_group_with_most_replicas_missing_is_served_first_then_the_busiest() -> None:
    served = [service(5.0, 5.0), service(50.0), service(), service(1.0, 1.0, load=10.0)]
    assert to_serve(served, minimum=2, free_bytes=GIB) == 2
    assert to_serve(served[:2], minimum=2, free_bytes=GIB) == 1
    assert to_serve([served[0], served[3]], minimum=2, free_bytes=GIB) == 0
    assert to_serve([served[0], service(5.0, 5.0, load=101.0)], minimum=2, free_bytes=GIB) == 1
    assert to_serve([served[0], served[0]], minimum=2, free_bytes=GIB) == 0
    assert scarcity(service(5.0, 5.0), minimum=2) == (0, 10.0)
    assert scarcity(service(), minimum=0) == (0, float("inf"))


def test_only_a_group_that_fits_is_chosen_and_else_the_least_memory_is_named() -> None:
    served = [service(gib=3.0), service(1.0, 1.0, gib=0.5)]
    assert to_serve(served, minimum=2, free_bytes=GIB) == 1
    with pytest.raises(DoesNotFit, match=r"the smallest of 2 groups needs 0\.50 GiB, 0\.25 GiB are free; set more"):
        to_serve(served, minimum=2, free_bytes=GIB // 4)


@pytest.mark.parametrize(
    "fields",
    [{"groups": 0}, {"groups": 2, "replicas": 0}, {"groups": 128}, {"groups": 2, "activations": "f16"},
     {"groups": 2, "replica": 2}, {}],
)  # fmt: skip
def test_settings_out_of_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExpertsSpec(**fields)


def test_experts_need_one_shared_batch_cut_into_whole_microbatches() -> None:
    spec = ExpertsSpec(groups=4, microbatch_size=4)
    check(spec, TrainingSpec(mode="synchronous", inner_steps=2, batch_size=6), MEMBERS)
    with pytest.raises(ValueError, match=r"set training\.mode: synchronous, or leave experts out"):
        check(spec, TrainingSpec(), MEMBERS)
    with pytest.raises(ValueError, match="microbatch_size 4 does not divide a driver's 6 sequences"):
        check(spec, TrainingSpec(mode="synchronous", inner_steps=1, batch_size=6), MEMBERS)
    with pytest.raises(ValueError, match=r"members\.max is 8; set members\.max to 9 or more, or fewer replicas"):
        check(spec, TrainingSpec(mode="synchronous", inner_steps=2, batch_size=6), MembersSpec(max=8))
