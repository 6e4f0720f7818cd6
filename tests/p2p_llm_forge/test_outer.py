"""Aggregation: its mathematics, and that every machine computes the same bits."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge import codec, outer
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import CodecSpec, OuterSpec

ROOT = Path(__file__).parents[2]


def dense(values: list[float]) -> codec.Update:
    """A dense update."""
    return codec.Update(parameters=len(values), values=torch.tensor(values), indices=None)


def sparse(size: int, **values: float) -> codec.Update:
    """A sparse update: `_3=1.5` sends 1.5 for coordinate 3."""
    items = sorted((int(key[1:]), value) for key, value in values.items())
    indices = torch.tensor([index for index, _ in items])
    return codec.Update(parameters=size, values=torch.tensor([value for _, value in items]), indices=indices)


def test_a_coordinate_is_the_token_weighted_mean_over_the_members_that_sent_it() -> None:
    mean = outer.aggregate([sparse(4, _0=1.0, _1=2.0), sparse(4, _1=5.0, _3=-1.0)], [100, 200], None)
    assert mean.tolist() == pytest.approx([1.0, 4.0, 0.0, -1.0])


def test_an_update_above_the_median_norm_is_scaled_down_to_it() -> None:
    updates = [dense([1.0, 0.0]), dense([0.0, 1.0]), dense([300.0, 400.0])]
    mean = outer.aggregate(updates, [1, 1, 1], [outer.norm(update) for update in updates])
    assert mean.tolist() == pytest.approx([(1.0 + 0.6) / 3, (1.0 + 0.8) / 3], rel=1e-4)


def test_of_two_updates_the_larger_comes_down_to_the_middle_and_zero_norms_do_no_harm() -> None:
    assert outer.clip_factors([1.0, 3.0]) == [1.0, 2.0 / 3.0]
    assert outer.clip_factors([0.0, 0.0, 5.0]) == [1.0, 1.0, 0.0]
    assert outer.clip_factors([0.0]) == [1.0]


def test_sgd_and_nesterov_do_what_their_formulas_say() -> None:
    weights, momentum = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.5])
    outer.step(weights, None, torch.tensor([0.1, 0.2]), OuterSpec(learning_rate=0.5))
    assert weights.tolist() == pytest.approx([0.95, 1.9])
    spec = OuterSpec(kind="nesterov", learning_rate=0.7, momentum=0.9)
    outer.step(weights, momentum, torch.tensor([0.1, 0.2]), spec)
    new = [0.9 * 0.5 + 0.1, 0.9 * -0.5 + 0.2]
    assert momentum.tolist() == pytest.approx(new)
    assert weights.tolist() == pytest.approx([0.95 - 0.7 * (0.1 + 0.9 * new[0]), 1.9 - 0.7 * (0.2 + 0.9 * new[1])])


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
    assert len(set(found[1, "default"].split())) == 4


def test_receipt_order_is_part_of_the_result_only_through_rounding() -> None:
    updates = [codec.encode(torch.randn(5000), CodecSpec())[1] for _ in range(3)]
    forward = outer.aggregate(updates, [1, 2, 3], None)
    backward = outer.aggregate(updates[::-1], [3, 2, 1], None)
    torch.testing.assert_close(forward, backward)
