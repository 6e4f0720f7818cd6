"""Dead experts: masked, the living weigh as much as all did, and what it costs is counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_llm_forge.errors import HolderError
from p2p_llm_forge.stages.experts import gate
from p2p_llm_forge.stages.experts.gate import Lost
from p2p_llm_forge.stages.experts.groups import Serving

from .experts_case import FAMILIES, Swarm, Whole, config_of, distance, done, tokens_of

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_cuts")

INDEX = torch.tensor([[0, 1], [2, 3], [3, 2], [1, 4]])
WEIGHTS = torch.tensor([[0.5, 0.25], [0.6, 0.4], [0.7, 0.3], [0.125, 0.375]])


def test_the_living_share_what_the_router_gave_all_and_others_keep_theirs_bit_for_bit() -> None:
    alive = gate.living(INDEX, {2, 1})
    found = gate.renormalised(WEIGHTS, alive)
    assert found.tolist() == [[0.75, 0.0], [0.0, 1.0], [pytest.approx(1.0), 0.0], [0.0, 0.5]]
    assert torch.equal(gate.renormalised(WEIGHTS, gate.living(INDEX, {7})), WEIGHTS)


def test_a_token_without_living_experts_gets_nothing_and_no_gradient_that_is_no_number() -> None:
    weights = WEIGHTS.clone().requires_grad_()
    found = gate.renormalised(weights, gate.living(INDEX, {2, 3}))
    assert found[1:3].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    found.square().sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert weights.grad.isfinite().all()
    assert not weights.grad[1:3].any()


def test_what_was_lost_is_counted_and_adds_up() -> None:
    lost = gate.count(WEIGHTS, gate.living(INDEX, {2, 3, 4}))
    assert (lost.tokens, lost.weakened, lost.silenced) == (4, 3, 2)
    assert lost.weight == pytest.approx(2.375)
    assert lost.share == pytest.approx(2.375 / 3.25)
    both = lost + gate.count(WEIGHTS, None)
    assert (both.tokens, both.weakened, both.share) == (8, 3, pytest.approx(2.375 / 6.5))
    assert Lost().share == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(2, 12), st.data())
def test_sums_are_kept_zeros_stay_with_the_dead_and_the_choice_repeats(
    seed: int, experts: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(1, experts))
    dead = data.draw(st.sets(st.integers(0, experts - 1)))
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randperm(experts, generator=generator)[:chosen] for _ in range(7)])
    weights = torch.rand(7, chosen, generator=generator) + 1e-3
    alive = gate.living(index, dead)
    found = gate.renormalised(weights, alive)
    some = alive.any(dim=-1)
    assert torch.allclose(found.sum(dim=-1)[some], weights.sum(dim=-1)[some])
    assert not found[~alive].any()
    assert torch.equal(found, gate.renormalised(weights.clone(), gate.living(index.clone(), set(dead))))
    lost = gate.count(weights, alive)
    assert lost.silenced == int((~some).sum()) <= lost.weakened <= lost.tokens


def masked_locally(whole: Whole, dead: set[int], tokens: Tensor) -> Tensor:
    """The gradient of the local model whose routers give dead experts no weight and the living the rest."""

    def renormalise(
        module: object, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        logits, weights, index = output
        alive = torch.tensor([[int(e) not in dead for e in row] for row in index])
        kept = weights * alive
        scale = weights.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1e-30)
        return logits, kept * scale, index

    gates = [module for name, module in whole.model.named_modules() if name.endswith(".mlp.gate")]
    hooks = [module.register_forward_hook(renormalise) for module in gates]  # type: ignore[arg-type]
    gradient_P, _ = whole.gradient(tokens)
    for hook in hooks:
        hook.remove()
    return gradient_P


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_experts_equal_a_local_model_that_masks_them_and_its_load_balance_loss_stays(
    tmp_path: Path, family: str
) -> None:
    config = config_of(family, output_router_logits=True, router_aux_loss_coef=0.1)
    whole, tokens = Whole(config), tokens_of(4, seed=8)
    swarm = Swarm(config, whole.state, tmp_path, groups=4)
    swarm.dead = {"g1r0"}
    swarm.begin(1)
    driven = swarm.run(0, tokens)
    gradient_P = masked_locally(whole, {2, 3}, tokens)
    trunk = torch.cat([gradient_P[start:end] for start, end in swarm.pieces[0].spans])
    assert distance(swarm.gradients()[0], trunk) <= 1e-6
    assert driven.balance > 0.0
    assert {call.holder for call, _ in driven.records} == {"g0r0", "g2r0", "g3r0"}
    assert set(driven.lost) == {0, 1}
    for lost in driven.lost.values():
        assert lost.tokens == 4 * 12
        assert 0 < lost.weakened < lost.tokens
        assert 0.0 < lost.share < 1.0


def test_single_experts_of_single_layers_may_be_dead(tmp_path: Path) -> None:
    config = config_of("olmoe")
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=2)
    swarm.begin(1)
    serving = Serving.of(swarm.groups, swarm.holders(), layers=2, dead={1: {0, 5}})
    driven = swarm.run(0, tokens_of(4, seed=9), serving)
    assert driven.lost[0].weakened == 0
    assert driven.lost[1].weakened > 0
    assert not any({0, 5} & set(call.experts) for _, call in swarm.calls if call.layer == 1)


def test_with_all_experts_dead_the_trunk_goes_on_alone(tmp_path: Path) -> None:
    config = config_of("qwen2_moe")
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=2)
    swarm.dead = {"g0r0", "g1r0"}
    swarm.begin(1)
    driven = swarm.run(0, tokens_of(2, seed=10))
    assert swarm.calls == []
    assert all(lost.silenced == lost.tokens and lost.share == 1.0 for lost in driven.lost.values())
    gradient_P = swarm.gradients()[0]
    assert gradient_P.any()
    assert gradient_P.isfinite().all()


def test_a_replica_that_dies_between_forward_and_backward_is_replaced_without_a_trace(tmp_path: Path) -> None:
    config, tokens = config_of("mixtral"), tokens_of(4, seed=11)
    state = Whole(config).state
    found = []
    for dies in (False, True):
        swarm = Swarm(config, state, tmp_path / str(dies), groups=2, replicas=2)
        swarm.begin(1)
        ask = swarm.exchange.backward

        def backward(
            passage: Any, calls: Any, gradients: Any, swarm: Swarm = swarm, ask: Any = ask, dies: bool = dies
        ) -> Any:
            if dies and not swarm.dead:
                swarm.dead = {"g1r0"}
                passage.serving = swarm.serving()
                calls = [replace(call, holder=call.holder.replace("g1r0", "g1r1")) for call in calls]
            return ask(passage, calls, gradients)

        swarm.exchange.backward = backward
        driven = swarm.run(0, tokens)
        found.append([driven.losses, *(swarm.shards["g1r1" if dies else "g1r0"].manifest().values())])
        swarm.exchange.backward = ask
        found[-1].extend(
            part.tolist() for part in [swarm.trunk._sum_P, swarm.shards["g1r1" if dies else "g1r0"]._sum_P]
        )
    assert found[0] == found[1]


def test_what_a_dead_replica_had_counted_is_counted_at_another_from_the_drivers_records(tmp_path: Path) -> None:
    config, tokens = config_of("qwen3_moe"), tokens_of(4, seed=13)
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=2, replicas=2)
    swarm.begin(1)
    driven = swarm.run(0, tokens)
    counted = swarm.shards["g1r0"]._sum_P.clone()
    swarm.dead, other = {"g1r0"}, swarm.shards["g1r1"]
    swarm.manifests["g1r1"] = {0: swarm.manifests["g1r0"][0]}
    assert other.freeze(swarm.manifests["g1r1"]) == [0]
    for call, gradient in driven.records:
        if call.holder == "g1r0":
            done(other.backward(swarm.tag("g1r1", 0), replace(call, holder="g1r1"), gradient))
    assert other.freeze(swarm.manifests["g1r1"]) == []
    assert torch.equal(other._sum_P, counted)


def test_an_expert_that_dies_within_a_microbatch_has_it_driven_again_without_it(tmp_path: Path) -> None:
    config, tokens = config_of("mixtral"), tokens_of(4, seed=12)
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=4)
    swarm.begin(1)
    ask = swarm.exchange.backward

    def backward(passage: Any, calls: Any, gradients: Any) -> Any:
        answers = ask(passage, calls, gradients)
        swarm.dead = {"g3r0"}
        passage.serving = swarm.serving()
        return answers

    swarm.exchange.backward = backward
    with pytest.raises(
        HolderError, match=r"model\.layers\.0\.mlp\.experts: expert \d died within a microbatch; run the"
    ):
        swarm.run(0, tokens)
    assert not swarm.trunk._sum_P.any()
    swarm.exchange.backward = ask
    for name, shard in swarm.shards.items():
        shard.undo(swarm.tag(name, 0))
    driven = swarm.run(0, tokens)
    assert driven.lost[0].weakened > 0
    assert not driven.layers(swarm.groups.span(3))
