"""A shard's replica: every call is counted once, whatever is repeated, undone, frozen or forgotten."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_llm_forge import codec
from p2p_llm_forge.answer import leaves_root
from p2p_llm_forge.errors import RequestError, UpdateError
from p2p_llm_forge.protocol import Contribution
from p2p_llm_forge.settings import CodecSpec
from p2p_llm_forge.stages.experts.manifest import Asked
from p2p_llm_forge.stages.experts.records import Records
from p2p_llm_forge.stages.experts.shard import ExpertShard
from p2p_llm_forge.stages.experts.updates import Updates

from .experts_case import SPEC, distance, done
from .shard_case import call, made, tag, values

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_cuts")


@pytest.fixture
def shard(tmp_path: Path) -> ExpertShard:
    """Experts 2, 3, 4 of 8, in two layers, in round 5 with five microbatches."""
    return made(tmp_path)


def added(shard: ExpertShard) -> Tensor:
    """What is in the sum."""
    return shard._sum_P.clone()


def count(shard: ExpertShard, microbatch: int, layer: int, seed: int) -> Tensor:
    """Have a backward call counted."""
    return done(shard.backward(tag(shard, microbatch), call(layer, seed=seed), values(5, seed + 1)))


def asked(**layers: set[int]) -> dict[int, Asked]:
    """A manifest: `_3={0}` asks for layer 0 of microbatch 3."""
    return {int(key[1:]): Asked(layers=frozenset(value), tokens=8) for key, value in layers.items()}


def test_the_same_backward_call_again_gets_the_same_reply_and_adds_nothing(shard: ExpertShard) -> None:
    first, once = count(shard, 0, 0, seed=1), added(shard)
    assert once.any()
    assert torch.equal(count(shard, 0, 0, seed=1), first)
    assert torch.equal(added(shard), once)
    assert shard.manifest() == {0: {0}}
    shard.begin(5, 100, 5)
    assert torch.equal(added(shard), once)


def test_another_backward_call_in_the_place_of_one_is_refused_until_that_is_undone(shard: ExpertShard) -> None:
    count(shard, 0, 0, seed=1)
    once = added(shard)
    with pytest.raises(
        RequestError, match="experts 2:5, layer 0, microbatch 0: another backward call is counted; undo it"
    ):
        count(shard, 0, 0, seed=3)
    assert torch.equal(added(shard), once)
    assert shard.undo(tag(shard)).kind == "done"
    assert not added(shard).any()
    count(shard, 0, 0, seed=3)
    assert shard.manifest() == {0: {0}}


def test_forward_leaves_nothing_behind(shard: ExpertShard) -> None:
    first = done(shard.forward(tag(shard), call()))
    assert torch.equal(done(shard.forward(tag(shard, 3), call())), first)
    assert not added(shard).any()
    assert (shard.manifest(), shard._records.used_bytes) == ({}, 0)


def test_what_is_undone_was_never_there(shard: ExpertShard) -> None:
    count(shard, 0, 0, seed=1)
    count(shard, 0, 1, seed=3)
    kept = added(shard)
    count(shard, 1, 0, seed=5)
    count(shard, 1, 1, seed=7)
    shard.undo(tag(shard, 1))
    shard.undo(tag(shard, 4))
    assert distance(added(shard), kept) <= 1e-6
    assert shard.manifest() == {0: {0, 1}}
    assert shard._records.used_bytes == 2 * 3 * 5 * 32 * 4


def test_freezing_undoes_what_is_not_in_the_manifest_and_says_what_is_lacking(shard: ExpertShard) -> None:
    count(shard, 0, 0, seed=1)
    kept = added(shard)
    count(shard, 0, 1, seed=3)
    count(shard, 1, 0, seed=5)
    wanted = asked(_0={0}, _2={1}, _3=set(), _4={0})
    assert shard.freeze(wanted) == [2, 4]
    assert shard.manifest() == {0: {0}}
    assert distance(added(shard), kept) <= 1e-6
    with pytest.raises(
        RequestError, match="experts 2:5: calls of 1 microbatches are done, wanted exactly those of 3; freeze"
    ):
        shard.write(wanted)
    count(shard, 2, 1, seed=7)
    count(shard, 4, 0, seed=9)
    assert shard.freeze(wanted) == []
    assert shard.write(wanted).tokens == 4 * 8


def test_the_update_is_the_sum_over_the_manifest_with_microbatches_that_chose_no_expert_of_the_group(
    shard: ExpertShard,
) -> None:
    count(shard, 1, 0, seed=1)
    written = shard.write(asked(_1={0}, _3=set()))
    update = codec.decode(written.path.read_bytes(), SPEC.codec, shard.held.layout.parameters)
    assert torch.equal(update.values, added(shard))
    assert (written.tokens, written.loss) == (16, 0)
    assert written.leaves == leaves_root([(slot, 0) for slot in (102, 103, 106, 107)])
    shard.begin(6, 110, 5)
    assert not added(shard).any()
    assert shard.manifest() == {}


def test_a_group_whose_experts_nobody_chose_writes_zeros(shard: ExpertShard) -> None:
    written = shard.write(asked(_0=set(), _1=set()))
    own = [Contribution(path=str(written.path), tokens=written.tokens)]
    norm = shard.held.norm(shard.held.id, own, ())
    before = shard.held.id
    shard.apply(before, 5, own, [norm, norm, norm])
    assert shard.held.id != before  # weight decay, and the step is counted
    assert float(shard.held.state.outer["steps"]) == 1.0


def test_another_round_or_state_is_stale(shard: ExpertShard) -> None:
    for old in (replace(tag(shard), round=4), replace(tag(shard), state="ff")):
        assert shard.forward(old, call()).kind == "stale"
        assert shard.backward(old, call(), values(5, 2)).kind == "stale"
        assert shard.undo(old).kind == "stale"
    assert not added(shard).any()


@pytest.fixture
def forgetful(shard: ExpertShard) -> ExpertShard:
    """Has room for the record of one call."""
    shard._records = Records(3 * 5 * 32 * 4)
    return shard


def test_a_reply_that_is_no_longer_kept_is_made_again_and_adds_nothing(forgetful: ExpertShard) -> None:
    first = count(forgetful, 0, 0, seed=1)
    count(forgetful, 0, 1, seed=3)
    once = added(forgetful)
    assert torch.equal(count(forgetful, 0, 0, seed=1), first)
    assert torch.equal(added(forgetful), once)
    with pytest.raises(RequestError, match="another backward call is counted; undo it first"):
        count(forgetful, 0, 1, seed=9)


def test_what_is_no_longer_kept_is_undone_once_it_is_given_again(forgetful: ExpertShard) -> None:
    count(forgetful, 1, 0, seed=1)
    kept = added(forgetful)
    calls = [(call(layer, seed=seed), values(5, seed + 1)) for layer, seed in ((0, 3), (1, 5))]
    for item, gradient in calls:
        forgetful.backward(tag(forgetful, 0), item, gradient)
    before = added(forgetful)
    others = [(item, gradient * 2.0) for item, gradient in calls]
    for offered in ([], others, calls[1:]):
        assert forgetful.undo(tag(forgetful, 0), offered).kind == "missing"
        assert torch.equal(added(forgetful), before)
    assert forgetful.undo(tag(forgetful, 0), calls).kind == "done"
    assert forgetful.manifest() == {1: {0}}
    assert distance(added(forgetful), kept) <= 1e-6


def test_freezing_what_cannot_be_undone_forgets_everything_as_a_restart_would(forgetful: ExpertShard) -> None:
    for microbatch, seed in ((0, 1), (1, 3)):
        count(forgetful, microbatch, 0, seed=seed)
    assert forgetful.freeze(asked(_1={0})) == [1]
    assert (forgetful.manifest(), forgetful._records.used_bytes) == ({}, 0)
    assert not added(forgetful).any()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_repeated_undone_and_frozen_the_sum_is_that_of_the_manifest(
    shard: ExpertShard, data: st.DataObject
) -> None:
    shard.begin(5, 0, 0)
    shard.begin(5, 100, 5)
    shard._records = Records(data.draw(st.sampled_from([0, 3, 1000])) * 3 * 5 * 32 * 4)
    for _ in range(data.draw(st.integers(1, 12))):
        microbatch, layer = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 1))
        what = data.draw(st.sampled_from(["backward", "backward", "undo", "give", "freeze"]))
        if what == "backward":
            count(shard, microbatch, layer, seed=10 * microbatch + 2 * layer)
        elif what == "freeze":
            wanted = {microbatch: Asked(layers=frozenset({layer}), tokens=8)}
            had = layer in shard.manifest().get(microbatch, ())
            lacking = shard.freeze(wanted)
            assert lacking in ([], [microbatch])
            assert had or lacking
            assert shard.manifest() in ({}, {microbatch: {layer}})
        else:
            calls = [
                (call(at, seed=10 * microbatch + 2 * at), values(5, 10 * microbatch + 2 * at + 1)) for at in range(2)
            ]
            before = shard.manifest()
            kind = shard.undo(tag(shard, microbatch), calls if what == "give" else ()).kind
            assert kind == "done" or what == "undo"
            assert (microbatch in shard.manifest()) == (kind == "missing")
            assert kind == "done" or shard.manifest() == before
    wanted_P = torch.zeros_like(shard._sum_P)
    for microbatch, layers in shard.manifest().items():
        for layer in layers:
            seed = 10 * microbatch + 2 * layer
            shard._passes.add(wanted_P, layer, shard._passes.backward(call(layer, seed=seed), values(5, seed + 1)), 1)
    assert torch.allclose(added(shard), wanted_P, rtol=1e-4, atol=1e-4)
    assert bool(added(shard).any()) == bool(shard.manifest())


def test_settled_updates_that_lead_nowhere_leave_the_state_as_it_was(shard: ExpertShard) -> None:
    count(shard, 0, 0, seed=1)
    written = shard.write(asked(_0={0}))
    before, name = shard.held.state.id(), shard.held.id
    own = [Contribution(path=str(written.path), tokens=8)]
    with pytest.raises(UpdateError, match="norms: stage 2 is told none"):
        shard.apply(name, 5, own, ["0" * 16])
    assert (shard.held.id, shard.held.state.id()) == (name, before)
    assert shard.manifest() == {0: {0}}


def settled(path: Path, *, mine: bool) -> list[Contribution]:
    """What the log settled."""
    return [Contribution(path=f"elsewhere/{path.name}", tokens=1, mine=1 if mine else 0)]


@pytest.mark.parametrize(("fate", "carried"), [("settled", True), ("omitted", False), ("jumped", False)])
def test_what_rounding_took_of_a_settled_update_and_of_no_other_is_in_the_next(
    tmp_path: Path, fate: str, carried: bool
) -> None:
    spec, sum_P = CodecSpec(kind="int8"), values(1, 1)[0]
    updates, total_P = Updates(tmp_path, spec), torch.zeros(32)
    for _ in range(20):
        path = updates.write(sum_P)
        total_P += codec.decode(path.read_bytes(), spec, 32).values
        if fate == "jumped":
            updates.jumped()
        else:
            updates.applied(settled(path, mine=fate == "settled"))
    step = float(sum_P.abs().max()) / 127.0
    assert (float((total_P - 20 * sum_P).abs().max()) <= step) == carried
