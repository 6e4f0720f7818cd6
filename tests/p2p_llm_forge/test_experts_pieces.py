"""Trunk and shards: cut and put together bit for bit, with ids of their own and one for the run."""

from pathlib import Path

import pytest
import torch

from p2p_llm_forge.errors import StateError
from p2p_llm_forge.settings import OuterSpec
from p2p_llm_forge.stages import anatomy, whole
from p2p_llm_forge.stages import initial as stages_initial
from p2p_llm_forge.stages.costs import estimate as estimate_costs
from p2p_llm_forge.stages.cut import even
from p2p_llm_forge.stages.experts import initial
from p2p_llm_forge.stages.experts.fused import survey
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.stages.experts.pieces import Piece, assemble, cut, estimate, pieces, shares
from p2p_llm_forge.stages.skeleton import skeleton
from p2p_llm_forge.stages.whole import run_state_id
from p2p_llm_forge.state import Layout, State

from .experts_case import FAMILIES, SPEC, Whole, config_of

GROUPS = (1, 3, 8)


def trained(family: str) -> tuple[State, tuple[Piece, ...]]:
    """A state with values in all its moments, and how it is cut in 3."""
    config = config_of(family)
    state = Whole(config).state
    for moment in state.layout.moments:
        state.outer[moment].copy_(torch.rand(state.layout.parameters, generator=torch.Generator().manual_seed(9)))
    state.outer["steps"].fill_(7.0)
    return state, pieces(state.layout, survey(config), Groups.of(8, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_state_goes_together_again_bit_for_bit_with_its_moments(family: str, tmp_path: Path) -> None:
    state, _ = trained(family)
    for groups in GROUPS:
        into = pieces(state.layout, survey(config_of(family)), Groups.of(8, groups))
        held = cut(state, into)
        assert sum(piece.layout.parameters for piece in into) == state.layout.parameters
        for number, (piece, own) in enumerate(zip(into, held, strict=True)):
            own.write(tmp_path / f"{number}.safetensors")
            assert State.load(tmp_path / f"{number}.safetensors", piece.layout).id() == own.id()
        assert assemble(held, into, state.layout).id() == state.id()


def test_a_slice_is_named_after_the_whole_tensor_and_its_experts_and_opens_as_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state, into = trained("mixtral")
    assert into[2].what == "experts 2:5"
    cut(state, into)[2].write(tmp_path / "shard.safetensors")
    found = load_file(tmp_path / "shard.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    place = state.layout.names.index(name)
    start, end, _ = list(state.layout.spans())[place]
    held = state.weights_P[start:end].view(state.layout.shapes[place])
    assert torch.equal(found[f"{name}[2:5]"], held[2:5])


def test_the_run_state_id_is_over_the_trunk_and_all_groups_in_their_order() -> None:
    state, into = trained("olmoe")
    ids = [held.id() for held in cut(state, into)]
    assert len(set(ids)) == 4
    assert run_state_id(ids).endswith(f"-{sum(piece.layout.total_bytes for piece in into)}")
    assert run_state_id(ids) != run_state_id(ids[::-1])


def test_a_piece_that_stepped_less_gives_its_weights_but_not_its_moments() -> None:
    state, into = trained("qwen2_moe")
    held = cut(state, into)
    held[3].outer["steps"].fill_(4.0)
    with pytest.raises(
        StateError, match=r"experts 5:8: outer\.steps is 4, that of the trunk 7; assemble the weights only"
    ):
        assemble(held, into, state.layout)
    weights = assemble(held, into, state.layout, weights_only=True)
    assert torch.equal(weights.weights_P, state.weights_P)
    assert not any(values.any() for values in weights.outer.values())


def test_a_missing_or_foreign_piece_is_refused_by_name() -> None:
    state, into = trained("qwen3_moe")
    held = cut(state, into)
    with pytest.raises(StateError, match="state: 3 pieces, wanted 4: the trunk and every group of experts"):
        assemble(held[:3], into, state.layout)
    with pytest.raises(StateError, match="state of experts 0:2: holds other tensors"):
        assemble([held[0], held[2], held[1], held[3]], into, state.layout)


def test_the_estimate_of_a_shard_counts_its_own_parameters_only() -> None:
    config = config_of("mixtral")
    fused, layout = survey(config), Layout.of(Whole(config).model, OuterSpec())
    all_of_them = estimate(pieces(layout, fused, Groups.of(8, 1))[1], fused, tokens=64, microbatches=2, chosen=2)
    half = estimate(pieces(layout, fused, Groups.of(8, 2))[1], fused, tokens=64, microbatches=2, chosen=2)
    assert all_of_them.parameters == 2 * half.parameters == 2 * 8 * 3 * 32 * 48
    assert all_of_them.weights_bytes == 8 * all_of_them.parameters
    assert all_of_them.activation_bytes == half.activation_bytes == 4 * 64 * 2 * (6 * 48 + 2 * 3 * 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_add_up_to_the_whole_model_and_equal_groups_earn_alike(family: str) -> None:
    config = config_of(family)
    fused, layout = survey(config), Layout.of(Whole(config).model, OuterSpec())
    costs = estimate_costs(config, sequence_length=16)
    found = shares(pieces(layout, fused, Groups.of(8, 4)), costs, chosen=2, experts=8)
    assert sum(found) == 1_000_000
    assert max(found[1:]) - min(found[1:]) <= 1
    experts = 6 * 2 * sum(3 * layer.hidden * layer.inner for layer in fused)  # two of them for every token and layer
    work = sum(cost.work for cost in (costs.embedding, *costs.layers, costs.head))
    assert sum(found[1:]) == pytest.approx(1e6 * experts / work, abs=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_weights_are_the_same_whatever_the_model_is_cut_into(family: str) -> None:
    config = config_of(family, tie_word_embeddings=True)
    fused, layout = survey(config), Layout.of(skeleton(config), SPEC.outer)
    found = []
    for count in (1, 3):
        groups = Groups.of(8, count)
        into = pieces(layout, fused, groups)
        found.append(assemble(list(initial.states(config, into, fused, groups, seed=5)), into, layout))
    known = anatomy.of(config, 2)
    found.append(whole.assemble(list(stages_initial.states(config, even(2, 2), SPEC.outer, 5, known))))
    assert found[0].id() == found[1].id() == found[2].id()
    assert 0.05 < float(found[0].weights_P.std()) < 0.3
