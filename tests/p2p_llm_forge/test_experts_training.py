"""Synchronous rounds: as the local model with all experts alive; on and downwards where experts are dead."""

from pathlib import Path
from typing import Any

import pytest

from p2p_llm_forge.settings import CodecSpec
from p2p_llm_forge.stages.experts.pieces import assemble

from .experts_case import FAMILIES, SPEC, Swarm, Whole, config_of, distance, tokens_of

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_cuts")

ROUNDS = 30
BALANCE: dict[str, Any] = {"output_router_logits": True, "router_aux_loss_coef": 0.02}


@pytest.mark.parametrize("family", FAMILIES)
def test_thirty_rounds_on_two_replicas_of_four_groups_equal_the_local_model(tmp_path: Path, family: str) -> None:
    config = config_of(family, **BALANCE)
    whole = Whole(config)
    initial = whole.state.weights_P.clone()
    swarm = Swarm(config, whole.state, tmp_path, groups=4, replicas=2)
    for number in range(1, ROUNDS + 1):
        tokens = tokens_of(8, seed=number)
        assert swarm.round(number, tokens) == pytest.approx(whole.round(number, tokens), rel=1e-5)
    found = assemble(swarm.states(), swarm.pieces, whole.layout)
    assert distance(found.weights_P, whole.state.weights_P) <= 1e-6
    assert distance(whole.state.weights_P, initial) > 0.1
    ids = [state.id() for state in swarm.states()]
    assert ids[1:] == [swarm.shards[f"g{group}r1"].held.id for group in range(4)]


def test_rounded_updates_stay_near_the_local_model(tmp_path: Path) -> None:
    config = config_of("olmoe")
    whole = Whole(config)
    spec = SPEC.model_copy(update={"codec": CodecSpec(kind="int8")})
    swarm = Swarm(config, whole.state, tmp_path, groups=2, replicas=2, spec=spec)
    for number in range(1, 11):
        swarm.round(number, tokens_of(8, seed=number))
        whole.round(number, tokens_of(8, seed=number))
    assert 0.0 < distance(assemble(swarm.states(), swarm.pieces, whole.layout).weights_P, whole.state.weights_P) < 0.02


def losses(swarm: Swarm, deaths: dict[int, str]) -> list[float]:
    """Mean token loss of each round; somebody dies before the second microbatch of some, with what was counted."""
    found = []
    for number in range(1, ROUNDS + 1):
        swarm.begin(number)
        for at, part in enumerate(tokens_of(8, seed=number).split(4)):
            swarm.run(at, part)
            if number in deaths:
                swarm.dead.add(deaths[number])
        swarm.settle(number)
        found.append(swarm.loss())
    return found


def steps(swarm: Swarm, *groups: int) -> list[float]:
    """How many steps these groups have taken."""
    return [float(swarm.shards[f"g{group}r0"].held.state.outer["steps"]) for group in groups]


def test_with_a_tenth_of_the_experts_dead_the_run_goes_on_and_the_loss_falls(tmp_path: Path) -> None:
    config = config_of("olmoe", experts=10, **BALANCE)
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=10)
    swarm.dead = {"g4r0"}
    found = losses(swarm, {})
    assert sum(found[-5:]) < 0.75 * sum(found[:5])
    assert steps(swarm, 4, 0) == [0, ROUNDS]


def test_experts_that_die_on_the_way_are_gone_from_then_on_and_the_loss_goes_on_falling(tmp_path: Path) -> None:
    config = config_of("qwen3_moe", experts=10, **BALANCE)
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=10)
    found = losses(swarm, {10: "g2r0", 18: "g7r0"})
    assert sum(found[-5:]) < 0.95 * sum(found[12:17])
    assert sum(found[12:17]) < 0.95 * sum(found[:5])
    assert steps(swarm, 2, 7, 0) == [9, 17, ROUNDS]
