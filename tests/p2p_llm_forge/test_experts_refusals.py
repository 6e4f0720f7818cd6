"""What a shard refuses, in one line that names place, got and wanted; and nothing has changed then."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_llm_forge.errors import ActivationError, RequestError
from p2p_llm_forge.stages.experts.shard import ExpertShard

from .shard_case import call, made, tag, values

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_cuts")


@pytest.fixture
def shard(tmp_path: Path) -> ExpertShard:
    """Experts 2, 3, 4 of 8, in two layers, in round 5 with five microbatches."""
    return made(tmp_path)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"microbatch": 5}, "microbatch 5: round 5 has 5, from 0"),
        ({"microbatch": -1}, "microbatch -1: round 5 has 5, from 0"),
        ({"tokens": 0}, "microbatch 0: 0 valid tokens, wanted 1 or more"),
    ],
)
def test_no_such_microbatch_is_refused(shard: ExpertShard, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        shard.backward(replace(tag(shard), **fields), call(), values(5, 2))


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
def test_a_call_that_cannot_be_served_is_refused_in_one_line(
    shard: ExpertShard, fields: dict[str, Any], fault: str
) -> None:
    bad = replace(call(), **fields)
    for ask in (lambda: shard.forward(tag(shard), bad), lambda: shard.backward(tag(shard), bad, values(5, 2))):
        with pytest.raises((ActivationError, RequestError), match=fault) as caught:
            ask()
        assert "\n" not in caught.value.message
    assert shard.manifest() == {}


@pytest.mark.parametrize(
    ("gradient", "fault"),
    [
        (torch.zeros(4, 32), r"experts 2:5, layer 0: gradients are float32 \[4, 32\], wanted float32 \[5, 32\]"),
        (torch.full((5, 32), float("nan")), r"gradients are not finite"),
    ],
)
def test_gradients_that_do_not_belong_to_the_call_are_refused(shard: ExpertShard, gradient: Tensor, fault: str) -> None:
    with pytest.raises(ActivationError, match=fault):
        shard.backward(tag(shard), call(), gradient)
    assert not shard._sum_P.any()


def test_values_that_overflow_or_gradients_out_of_bounds_are_refused_and_add_nothing(shard: ExpertShard) -> None:
    huge = replace(call(), tokens_SD=values(5, 1) * 1e30)
    with pytest.raises(ActivationError, match="experts 2:5, layer 0, microbatch 0: the outputs are not finite"):
        shard.forward(tag(shard), huge)
    with pytest.raises(ActivationError, match=r"the gradient's norm is (nan|inf), wanted at most"):
        shard.backward(tag(shard), huge, values(5, 2) * 1e30)
    with pytest.raises(
        ActivationError, match=r"the gradient's norm is \d.*, wanted at most .* \(training.max_update_rms\)"
    ):
        shard.backward(tag(shard), call(), values(5, 2) * 1e6)
    assert not shard._sum_P.any()
    assert shard.manifest() == {}
