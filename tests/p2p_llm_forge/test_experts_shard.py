"""A shard's replica: once, undone, frozen; and what it refuses in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_llm_forge.errors import RequestError, UpdateError
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import survey
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.stages.experts.parts import cut, parts
from p2p_llm_forge.stages.experts.shard import ExpertShard, Tag

from .experts_case import CPU, SPEC, Whole, config_of, read

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def shard(tmp_path: Path) -> ExpertShard:
    """Experts 2, 3, 4 of 8, in two layers, in round 5."""
    config = config_of("mixtral")
    fused, state, groups = survey(config), Whole(config).state, Groups.of(8, 3)
    pieces = parts(state.layout, fused, groups)
    made = ExpertShard(
        part=pieces[2], group=1, groups=groups, fused=fused, state=cut(state, pieces)[2], spec=SPEC, folder=tmp_path,
        room_bytes=1 << 20, device=CPU,
    )  # fmt: skip
    made.open(5)
    return made


def values(rows: int, seed: int) -> Tensor:
    """Normal numbers [S, 32]."""
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))


def call(layer: int = 0, experts: tuple[int, ...] = (2, 4), counts: tuple[int, ...] = (3, 2), seed: int = 1) -> Call:
    """A question that the shard can answer."""
    return Call(layer=layer, holder="me", experts=experts, counts=counts, tokens_SD=values(sum(counts), seed))


def tag(shard: ExpertShard, microbatch: int = 0) -> Tag:
    """Of this round and state."""
    return Tag(round=5, microbatch=microbatch, state=shard.held.state_id, tokens=8)


def added(shard: ExpertShard) -> Tensor:
    """What is in the accumulator."""
    return shard._sum_P.clone()


def test_the_same_backward_call_again_gets_the_same_reply_and_adds_nothing(shard: ExpertShard) -> None:
    first = shard.backward(tag(shard), call(), values(5, 2))
    once = added(shard)
    assert once.any()
    assert torch.equal(shard.backward(tag(shard), call(), values(5, 2)), first)
    assert torch.equal(added(shard), once)
    assert shard.manifest == {0: {0}}


def test_another_backward_call_in_the_place_of_one_is_refused_until_that_is_undone(shard: ExpertShard) -> None:
    shard.backward(tag(shard), call(), values(5, 2))
    once = added(shard)
    with pytest.raises(RequestError, match="experts 2:5, layer 0, microbatch 0: another backward call .* undo it first"):
        shard.backward(tag(shard), call(), values(5, 3))
    assert torch.equal(added(shard), once)
    shard.undo(0)
    shard.backward(tag(shard), call(), values(5, 3))
    assert shard.manifest == {0: {0}}


def test_forward_leaves_nothing_behind(shard: ExpertShard) -> None:
    first = shard.forward(tag(shard), call())
    assert torch.equal(shard.forward(tag(shard, 3), call()), first)
    assert not added(shard).any()
    assert (shard.manifest, shard.held_bytes) == ({}, 0)


def test_what_is_undone_was_never_there(shard: ExpertShard) -> None:
    shard.backward(tag(shard, 0), call(0, seed=1), values(5, 2))
    shard.backward(tag(shard, 0), call(1, seed=3), values(5, 4))
    kept = added(shard)
    shard.backward(tag(shard, 1), call(0, seed=5), values(5, 6))
    shard.backward(tag(shard, 1), call(1, seed=7), values(5, 8))
    shard.undo(1)
    shard.undo(9)
    assert float((added(shard) - kept).norm() / kept.norm()) <= 1e-6
    assert shard.manifest == {0: {0, 1}}
    assert shard.held_bytes == 2 * 3 * 5 * 32 * 4


def test_freezing_undoes_what_is_not_in_the_manifest_and_says_what_is_lacking(shard: ExpertShard) -> None:
    shard.backward(tag(shard, 0), call(0, seed=1), values(5, 2))
    kept = added(shard)
    shard.backward(tag(shard, 0), call(1, seed=3), values(5, 4))
    shard.backward(tag(shard, 1), call(0, seed=5), values(5, 6))
    assert shard.freeze({0: {0}, 2: {1}, 3: set(), 4: {0}}) == (2, 4)
    assert shard.manifest == {0: {0}}
    assert float((added(shard) - kept).norm() / kept.norm()) <= 1e-6
    shard.backward(tag(shard, 2), call(1, seed=7), values(5, 8))
    shard.backward(tag(shard, 4), call(0, seed=7), values(5, 8))
    assert shard.freeze({0: {0}, 2: {1}, 3: set(), 4: {0}}) == ()


def test_the_update_is_the_sum_and_nothing_is_added_or_undone_after_it(shard: ExpertShard) -> None:
    reply = shard.backward(tag(shard), call(), values(5, 2))
    path = shard.write_update()
    assert torch.equal(read(path, shard.held.part, SPEC).values, added(shard))
    assert torch.equal(shard.backward(tag(shard), call(), values(5, 2)), reply)
    with pytest.raises(RequestError, match="the update of round 5 is written; wait for the next round"):
        shard.backward(tag(shard, 1), call(), values(5, 2))
    with pytest.raises(RequestError, match="the update of round 5 is written, nothing is undone now"):
        shard.undo(0)
    assert shard.freeze({0: {0}}) == ()
    shard.open(6)
    assert not added(shard).any()
    assert shard.manifest == {}


def test_another_round_or_state_is_stale_and_hears_what_is_held(shard: ExpertShard) -> None:
    with pytest.raises(RequestError, match=r"STALE: round 4 on state [0-9a-f]{16}, held are round 5 and state"):
        shard.forward(replace(tag(shard), round=4), call())
    with pytest.raises(RequestError, match=f"STALE: round 5 on state ff, held are round 5 and state {shard.held.state_id[:16]}"):
        shard.backward(replace(tag(shard), state="ff"), call(), values(5, 2))


def test_more_than_there_is_room_for_is_busy_and_changes_nothing(shard: ExpertShard) -> None:
    shard.room_bytes = 3 * 5 * 32 * 4
    shard.backward(tag(shard), call(), values(5, 2))
    once = added(shard)
    with pytest.raises(RequestError, match="experts 2:5, layer 1, microbatch 0: BUSY: 1920 bytes are held, 1920 more"):
        shard.backward(tag(shard), call(1), values(5, 2))
    assert torch.equal(added(shard), once)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"layer": 2}, r"experts 2:5: layer 2 is out of range, wanted 0…1"),
    ({"layer": -1}, r"experts 2:5: layer -1 is out of range, wanted 0…1"),
    ({"experts": (2, 5)}, r"experts 2:5, layer 0: expert 5 is out of range, wanted 2…4"),
    ({"experts": (-1, 4)}, r"expert -1 is out of range, wanted 2…4"),
    ({"experts": (4, 2)}, r"experts \[4, 2\], wanted ascending ones"),
    ({"experts": (2, 2)}, r"experts \[2, 2\], wanted ascending ones"),
    ({"experts": (2,)}, r"1 experts with 2 counts, wanted one for each"),
    ({"experts": (), "counts": ()}, r"0 experts with 0 counts"),
    ({"counts": (5, 0)}, r"0 tokens for an expert, wanted 1 or more"),
    ({"counts": (3, 3)}, r"tokens are float32 \[5, 32\], wanted float32 \[6, 32\]"),
    ({"tokens_SD": torch.zeros(5, 31)}, r"tokens are float32 \[5, 31\], wanted float32 \[5, 32\]"),
    ({"tokens_SD": torch.zeros(5, 32).half()}, r"tokens are float16 \[5, 32\], wanted float32 \[5, 32\]"),
    ({"tokens_SD": torch.full((5, 32), float("inf"))}, r"tokens are not finite, wanted numbers"),
]


@pytest.mark.parametrize(("fields", "fault"), FAULTS)
def test_a_call_that_cannot_be_served_is_refused_in_one_line(shard: ExpertShard, fields: dict[str, Any], fault: str) -> None:
    bad = replace(call(), **fields)
    for ask in (lambda: shard.forward(tag(shard), bad), lambda: shard.backward(tag(shard), bad, values(5, 2))):
        with pytest.raises(RequestError, match=fault) as caught:
            ask()
        assert "\n" not in caught.value.message
    assert shard.manifest == {}


@pytest.mark.parametrize(
    ("gradient", "fault"),
    [
        (torch.zeros(4, 32), r"experts 2:5, layer 0: gradients are float32 \[4, 32\], wanted float32 \[5, 32\]"),
        (torch.full((5, 32), float("nan")), r"gradients are not finite"),
    ],
)
def test_gradients_that_do_not_belong_to_the_call_are_refused(shard: ExpertShard, gradient: Tensor, fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        shard.backward(tag(shard), call(), gradient)
    assert not added(shard).any()


def test_values_that_overflow_are_refused_and_add_nothing(shard: ExpertShard) -> None:
    huge = replace(call(), tokens_SD=values(5, 1) * 1e30)
    with pytest.raises(UpdateError, match="the outputs are not finite, the training diverged"):
        shard.forward(tag(shard), huge)
    with pytest.raises(UpdateError, match="the gradients are not finite, the training diverged"):
        shard.backward(tag(shard), huge, values(5, 2) * 1e30)
    assert not added(shard).any()
    assert shard.manifest == {}


def test_settled_updates_that_lead_nowhere_leave_the_state_as_it_was(shard: ExpertShard) -> None:
    shard.backward(tag(shard), call(), values(5, 2))
    update = read(shard.write_update(), shard.held.part, SPEC)
    before, name = shard.held.state.copy(), shard.held.state_id
    update.values.fill_(3e38)
    with pytest.raises(UpdateError, match="round 5: the settled updates of experts 2:5 lead to values not finite"):
        shard.apply(5, [update, update], 1, [1.0])
    assert (shard.held.state_id, shard.held.state.id()) == (name, before.id())
