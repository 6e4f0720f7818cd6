"""What parts of a model cost, the shares that are paid, and whether stages fit."""

from typing import Any

import pytest

from p2p_llm_forge import model
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import DoesNotFit, SplitError
from p2p_llm_forge.stages import anatomy, costs, cut, fit, timing
from p2p_llm_forge.stages.costs import Costs

from .test_stages_split import config

EXPERTS = {"first_k_dense_replace": 3, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}


def estimate(built_from: Any) -> Costs:
    """With short sequences."""
    return costs.estimate(built_from, sequence_length=12)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_parameters_are_counted_exactly(family: str, tie: bool) -> None:
    built_from = config(family, options={"tie_word_embeddings": tie})
    found = estimate(built_from)
    assert found.parameters == sum(value.numel() for value in model.build(built_from, 0).parameters())
    assert found.tied_parameters == (50 * 16 if tie else 0)
    layers = cut.even(5, 2)
    both = found.stage(layers, 0).parameters + found.stage(layers, 1).parameters
    assert both == found.parameters + found.tied_parameters


def test_a_large_head_makes_the_last_stage_shorter() -> None:
    large = config("llama", vocab_size=5000)
    assert cut.even(5, 2).layers == ((0, 2), (2, 5))
    assert estimate(large).cut(2).layers == ((0, 4), (4, 5))


def test_of_experts_only_those_that_a_token_meets_are_work() -> None:
    few, many = (config("mixtral", options={"num_local_experts": count}) for count in (2, 8))
    assert estimate(few).layers[0].parameters < estimate(many).layers[0].parameters / 2
    assert estimate(many).layers[0].work < 1.2 * estimate(few).layers[0].work


def test_shares_follow_the_work_and_add_up_to_a_million() -> None:
    found = estimate(config("gpt2"))
    for stages in (1, 2, 3, 5):
        layers = found.cut(stages)
        shares = found.shares(layers)
        assert sum(shares) == costs.MILLION
        work = [found.stage(layers, index).work for index in range(stages)]
        assert all(abs(share - costs.MILLION * each / sum(work)) < 1 for share, each in zip(shares, work, strict=True))


def test_a_stage_that_costs_next_to_nothing_has_a_share_too() -> None:
    found = estimate(config("gpt2"))
    for seconds in ([1e-9, 9e9, 1.0, 1.0, 1.0], [0.0] * 5):
        shares = found.measured(0.0, seconds, 0.0).shares(cut.Cut.of_counts((1, 1, 3)))
        assert sum(shares) == costs.MILLION
        assert min(shares) >= 1


def test_measured_seconds_take_the_place_of_operations() -> None:
    found = estimate(config("gpt2"))
    slow = found.measured(0.0, [9.0, 1.0, 1.0, 1.0, 1.0], 0.0)
    assert slow.cut(2).layers == ((0, 1), (1, 5))
    assert slow.parameters == found.parameters


def test_parts_are_timed_one_layer_of_each_kind_at_a_time() -> None:
    built_from = config("deepseek_v3", layers=6, options=EXPERTS)
    known = anatomy.of(built_from, 2)
    found = costs.estimate(built_from, sequence_length=12, known=known)
    ticks = iter(range(1000))
    spent = {"dense": 2.0, "experts": 5.0, "first": 3.0, "last": 9.0}
    order = [kind for kind in ("dense", "experts", "first", "last") for _ in range(timing.REPEATS)]
    times = [value for kind in order for value in (0.0, spent[kind])]
    measured = timing.measure(
        built_from, found, known, sequences=1, sequence_length=8, clock=lambda: times[next(ticks)]
    )
    assert [round(layer.work / 1e9) for layer in measured.layers] == [2, 2, 2, 5, 5, 5]
    assert round(measured.embedding.work / 1e9) == 1
    assert round(measured.head.work / 1e9) == 4
    assert measured.cut(3).layers == ((0, 3), (3, 5), (5, 6))


def test_without_inner_layers_the_estimate_stands() -> None:
    built_from = config("gpt2", layers=2)
    found = estimate(built_from)
    assert timing.measure(built_from, found, anatomy.of(built_from, 2), sequences=1, sequence_length=8) == found


def spec(stages: int) -> RunSpec:
    """Of a pipeline run."""
    return RunSpec.from_worker(
        {
            "name": "x",
            "model": {"family": "llama", "layers": 8, "hidden_size": 64, "heads": 2},
            "data": {"sequence_length": 16},
            "training": {"mode": "synchronous"},
            "pipeline": {"stages": stages},
        }
    )


def test_stages_that_fit_no_peer_are_refused_with_the_memory_that_would_do() -> None:
    built_from = config("llama", layers=8, hidden_size=256, vocab_size=100)
    found = estimate(built_from)
    layers = found.cut(2)
    least = fit.smallest_memory(built_from, found, layers, spec(2))
    fit.check(built_from, found, layers, spec(2), [1000, least, 5])
    with pytest.raises(DoesNotFit, match=r"stage \d of 2: .* the largest of 2 peers offers") as caught:
        fit.check(built_from, found, layers, spec(2), [1000, least - 1])
    told = f"the smallest memory that would do is {least / 2**30:.2f} GiB a peer; set pipeline.stages: 3"
    assert told in caught.value.message
    with pytest.raises(DoesNotFit, match="no number of stages fits; have peers with more memory"):
        fit.check(built_from, found, layers, spec(2), [1000])


def test_a_limit_of_parameters_moves_the_cut() -> None:
    found = estimate(config("llama", vocab_size=5000))
    least = found.smallest_stage(2)
    layers = found.cut(2, least)
    assert max(found.stage(layers, index).parameters for index in range(2)) == least
    with pytest.raises(SplitError, match="no cut into 2 stages keeps each within"):
        found.cut(2, least - 1)
