"""A stage's part of the step: together the stages take the whole model's, and what they share stays the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from p2p_llm_forge import outer
from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages import step
from p2p_llm_forge.stages.seeds import stage_seed
from p2p_llm_forge.stages.step import Partner
from p2p_llm_forge.state import Layout, State

SHAPES = {"embed": (7, 5), "first.matrix": (4, 3), "last.matrix": (6, 2), "last.norm": (9,)}
FIRST, LAST = ("embed", "first.matrix"), ("embed", "last.matrix", "last.norm")


def spec(grad_clip: float) -> TrainingSpec:
    return TrainingSpec(mode="synchronous", rounds=9, grad_clip=grad_clip, learning_rate=0.01)


def states(training: TrainingSpec) -> tuple[State, State, State]:
    """The whole model's, the first and the last stage's."""
    random = torch.Generator().manual_seed(4)
    weights = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    found = []
    for names in (tuple(SHAPES), FIRST, LAST):
        model = Named({name: weights[name] for name in names})
        found.append(State.of_model(model, Layout.of(model, training.outer)))
    return found[0], found[1], found[2]


class Named(nn.Module):
    """Parameters whose names have dots."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.weights = {name: nn.Parameter(value.clone()) for name, value in weights.items()}

    def named_parameters(self, *_: object, **__: object):
        return iter(self.weights.items())


def update(layout: Layout, parts: dict[str, torch.Tensor]) -> Update:
    values = torch.cat([parts[name].reshape(-1) for name in layout.names])
    return Update(parameters=layout.parameters, values=values, indices=None)


@pytest.mark.parametrize("grad_clip", [0.0, 0.5, 100.0])
def test_two_stages_that_share_a_tensor_take_the_whole_models_step(grad_clip: float) -> None:
    training = spec(grad_clip)
    whole, first, last = states(training)
    partners = [Partner.of((first.layout, last.layout), stage) for stage in (0, 1)]
    random = torch.Generator().manual_seed(5)
    for number in range(1, 6):
        drawn = [
            {name: torch.randn(SHAPES[name], generator=random) * 9 for name in names}
            for names in (FIRST, FIRST, LAST, LAST, LAST)
        ]
        firsts = [update(first.layout, parts) for parts in drawn[:2]]
        lasts = [update(last.layout, parts) for parts in drawn[2:]]
        means = (
            step.mean(firsts, lasts, 30, partners[0], first.layout.parameters),
            step.mean(lasts, firsts, 30, partners[1], last.layout.parameters),
        )
        norms = [step.norm_of_hex(step.norm_hex(found.norm)) for found in means]
        step.step(first, means[0], norms, training, number)
        step.step(last, means[1], norms, training, number)
        total = {name: sum(parts.get(name, torch.zeros(shape)) for parts in drawn) for name, shape in SHAPES.items()}
        outer.step(whole, outer.gradient([update(whole.layout, total)], [30]), training, number)
        assert shared(first) == shared(last)
    joined = torch.cat([first.weights_P, last.weights_P[35:]])
    assert float((joined - whole.weights_P).norm() / whole.weights_P.norm()) < 1e-5


def shared(state: State) -> list[list[float]]:
    """The embedding's weights and moments."""
    assert state.layout.names[0] == "embed"
    return [part[:35].tolist() for part in (state.weights_P, state.outer["first_moment"], state.outer["second_moment"])]


def test_only_the_ends_have_a_partner_and_only_where_they_share_something() -> None:
    layouts = [Layout(names=(name,), shapes=((2,),), moments=(), counters=()) for name in ("a", "b", "a")]
    assert [Partner.of(layouts, stage) is not None for stage in range(3)] == [True, False, True]
    assert [Partner.of(layouts[:2], stage) for stage in range(2)] == [None, None]


def test_the_norm_over_all_stages_is_that_of_the_whole_gradient() -> None:
    assert step.whole_norm([3.0, 0.0, 4.0]) == 5.0
    assert step.whole_norm([]) == 0.0


def test_a_norm_travels_to_the_bit() -> None:
    assert step.norm_hex(1.5) == "3ff8000000000000"
    for norm in (0.0, 5e-324, 1 / 3, math.pi * 1e300):
        assert step.norm_of_hex(step.norm_hex(norm)) == norm


@pytest.mark.parametrize(
    "text", ["", "3ff8", "3FF8000000000000", "7ff0000000000000", "7ff8000000000000", "bff8000000000000", "x" * 16]
)
def test_what_is_no_norm_is_refused(text: str) -> None:
    with pytest.raises(UpdateError, match="norm"):
        step.norm_of_hex(text)


def test_every_stage_and_microbatch_has_its_own_seed() -> None:
    assert stage_seed(1, 2, 3, 4) == stage_seed(1, 2, 3, 4) == 36976532595987299
    seeds = {stage_seed(a, b, c, d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)}
    assert len(seeds) == 81
    assert all(0 <= seed < 1 << 56 for seed in seeds)
