"""Aggregation: its mathematics, and that every machine computes the same bits."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge import codec, outer
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.schedule import half_cosine, learning_rate, power
from p2p_llm_forge.settings import CodecSpec, OuterSpec, TrainingSpec
from p2p_llm_forge.state import Layout, State

from .outer_case import CASES

ROOT = Path(__file__).parents[2]


def dense(values: list[float]) -> codec.Update:
    """A dense update."""
    return codec.Update(parameters=len(values), values=torch.tensor(values), indices=None)


def sparse(size: int, **values: float) -> codec.Update:
    """A sparse update: `_3=1.5` sends 1.5 for coordinate 3."""
    items = sorted((int(key[1:]), value) for key, value in values.items())
    indices = torch.tensor([index for index, _ in items])
    return codec.Update(parameters=size, values=torch.tensor([value for _, value in items]), indices=indices)


def held(spec: TrainingSpec, weights: list[float]) -> State:
    """The state of a model of one vector."""
    model = torch.nn.ParameterDict({"vector": torch.tensor(weights)})
    return State.of_model(model, Layout.of(model, spec.outer))


def test_a_coordinate_is_the_token_weighted_mean_over_the_members_that_sent_it() -> None:
    mean = outer.aggregate([sparse(4, _0=1.0, _1=2.0), sparse(4, _1=5.0, _3=-1.0)], [100, 200], None)
    assert mean.tolist() == pytest.approx([1.0, 4.0, 0.0, -1.0])


def test_dividing_only_what_somebody_sent_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    spec, size = CodecSpec(k=3, chunk=64), 64 * 20 + 7
    updates = [codec.encode(torch.randn(size, generator=generator), spec)[1] for _ in range(3)]
    tokens, norms = [7, 512, 33], [1.0, 2.0, 3.0]
    quick = outer.aggregate(updates, tokens, norms)
    monkeypatch.setattr(outer, "_FEW", size + 1)
    assert torch.equal(quick, outer.aggregate(updates, tokens, norms))
    assert 0 < int((quick != 0.0).sum()) < 3 * updates[0].count


def test_an_update_above_the_median_norm_is_scaled_down_to_it() -> None:
    updates = [dense([1.0, 0.0]), dense([0.0, 1.0]), dense([300.0, 400.0])]
    mean = outer.aggregate(updates, [1, 1, 1], [outer.norm(update) for update in updates])
    assert mean.tolist() == pytest.approx([(1.0 + 0.6) / 3, (1.0 + 0.8) / 3], rel=1e-4)


def test_of_two_updates_the_larger_comes_down_to_the_middle_and_zero_norms_do_no_harm() -> None:
    assert outer.clip_factors([1.0, 3.0]) == [1.0, 2.0 / 3.0]
    assert outer.clip_factors([0.0, 0.0, 5.0]) == [1.0, 1.0, 0.0]
    assert outer.clip_factors([0.0]) == [1.0]


def test_sgd_and_nesterov_do_what_their_formulas_say() -> None:
    spec = TrainingSpec(outer=OuterSpec(learning_rate=0.5))
    state = held(spec, [1.0, 2.0])
    outer.step(state, torch.tensor([0.1, 0.2]), spec, 1)
    assert state.weights_P.tolist() == pytest.approx([0.95, 1.9])
    spec = TrainingSpec(outer=OuterSpec(kind="nesterov", learning_rate=0.7, momentum=0.9))
    state = held(spec, [0.95, 1.9])
    state.outer["momentum"].copy_(torch.tensor([0.5, -0.5]))
    outer.step(state, torch.tensor([0.1, 0.2]), spec, 1)
    new = [0.9 * 0.5 + 0.1, 0.9 * -0.5 + 0.2]
    assert state.outer["momentum"].tolist() == pytest.approx(new)
    moved = [0.95 - 0.7 * (0.1 + 0.9 * new[0]), 1.9 - 0.7 * (0.2 + 0.9 * new[1])]
    assert state.weights_P.tolist() == pytest.approx(moved)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_adamw_does_what_torch_does_with_decay_on_matrices_only(grad_clip: float) -> None:
    spec = TrainingSpec(
        mode="synchronous", rounds=9, warmup_rounds=3, grad_clip=grad_clip, weight_decay=0.3, learning_rate=0.01
    )
    random = torch.Generator().manual_seed(4)
    model = torch.nn.ParameterDict({"matrix": torch.randn(4, 5, generator=random), "vector": torch.ones(3)})
    state = State.of_model(model, Layout.of(model, spec.outer))
    groups: list[dict[str, Any]] = [{"params": [model["matrix"]]}, {"params": [model["vector"]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=spec.betas, weight_decay=spec.weight_decay)
    for number in range(1, 10):
        mean_P = torch.randn(23, generator=random) * 0.3
        model["matrix"].grad, model["vector"].grad = mean_P[:20].view(4, 5).clone(), mean_P[20:].clone()
        if grad_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, number)
        optimizer.step()
        outer.step(state, mean_P, spec, number)
    plain_P = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert float((state.weights_P - plain_P).norm() / plain_P.norm()) < 1e-6
    assert state.outer["steps"].tolist() == [9.0]


def test_the_gradient_of_a_round_is_the_sum_of_the_sums_over_all_tokens() -> None:
    found = outer.gradient([dense([30.0, -4.0]), dense([50.0, 0.0])], [10, 30])
    assert found.tolist() == [2.0, pytest.approx(-0.1)]
    spec = TrainingSpec(mode="synchronous")
    combined = outer.combine([dense([30.0, -4.0]), dense([50.0, 0.0])], [10, 30], [31.0, 50.0], spec)
    assert torch.equal(combined, found), "no update is scaled down to another's norm"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50), st.randoms())
def test_the_norm_is_exact_enough_and_no_order_changes_it(values: list[float], random: object) -> None:
    found = outer.norm(dense(values))
    truth = math.sqrt(math.fsum(float(torch.tensor(value)) ** 2 for value in values))
    assert found == pytest.approx(truth, rel=1e-6)
    assert outer.norm(dense(values[::-1])) == found


def test_the_norm_of_a_long_update_is_right() -> None:
    values = torch.linspace(-1.0, 1.0, 3_000_001)
    found = outer.norm(codec.Update(parameters=values.numel(), values=values, indices=None))
    assert found == pytest.approx(float(values.double().norm()), rel=1e-4)


def test_an_update_over_the_norm_limit_is_refused() -> None:
    with pytest.raises(UpdateError, match="over-norm"):
        outer.check_norm(dense([3.0, 3.0]), max_rms=2.0)
    assert outer.check_norm(dense([1.0, 1.0]), max_rms=2.0) == pytest.approx(math.sqrt(2.0))


def test_every_thread_count_and_instruction_set_gives_the_same_state_ids() -> None:
    found = {}
    for threads, capability in ((1, "default"), (2, "avx2"), (3, "avx512"), (4, "")):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        if capability:
            env["ATEN_CPU_CAPABILITY"] = capability
        command = [sys.executable, "-m", "tests.p2p_llm_forge.outer_case", str(threads)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        found[threads, capability] = done.stdout
    assert len(set(found.values())) == 1, found
    assert len(set(found[1, "default"].split())) == len(CASES)


def test_receipt_order_is_part_of_the_result_only_through_rounding() -> None:
    updates = [codec.encode(torch.randn(5000), CodecSpec())[1] for _ in range(3)]
    forward = outer.aggregate(updates, [1, 2, 3], None)
    backward = outer.aggregate(updates[::-1], [3, 2, 1], None)
    torch.testing.assert_close(forward, backward)


def test_cosine_and_power_are_right_without_the_c_library() -> None:
    for step in range(1001):
        assert half_cosine(step / 1000) == pytest.approx((1 + math.cos(math.pi * step / 1000)) / 2, abs=1e-15)
    assert (half_cosine(0.0), half_cosine(1.0)) == (1.0, 0.0)
    for exponent in (0, 1, 2, 7, 50, 1_000_000):
        assert power(0.95, exponent) == pytest.approx(0.95**exponent, rel=1e-13)
