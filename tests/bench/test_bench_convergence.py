"""What `convergence` trains is what the engine trains, and its rows are computed once.

IO: temporary folders.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import convergence
import convergence_rows
import harness
import members
import pytest
import torch
from convergence_rows import Row, Size
from harness import Result

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.prepare import prepare
from p2p_llm_forge.protocol import Contribution, Open

CORPUS = Path(__file__).parents[2] / "data" / "sample_corpus.txt"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(CORPUS.read_text("utf-8")[:20_000], "utf-8")
    return path


def small(text: Path, **training: Any) -> RunSpec:
    return RunSpec.from_worker({
        "name": "members",
        "seed": 5,
        "model": {"family": "llama", "layers": 1, "hidden_size": 16, "heads": 2},
        "data": {"path": str(text), "sequence_length": 16, "tokenizer": {"kind": "bytes"}},
        "training": {"rounds": 3, "inner_steps": 4, "batch_size": 2, **training},
    })  # fmt: skip


def by_engines(spec: RunSpec, folder: Path, quotas: Sequence[int]) -> list[str]:
    """The state ids of a run's rounds, as the members' engines find them from each other's files."""
    made = prepare(spec, folder / "blobs", members.MEMORY_BYTES, lambda *_: None)
    request = Open(
        id=1, do="open", config=spec.canonical(), shards=[str(path) for path in made.shard_paths],
        **{name: str(path) for name, path in made.paths.items()},
    )  # fmt: skip
    engines = [Engine(request, folder / f"member {place}", members.CPU) for place in range(len(quotas))]
    start, ids = 0, []
    for number in range(1, spec.training.rounds + 1):
        replies = []
        for engine, quota in zip(engines, quotas, strict=True):
            replies.append(
                engine.train(
                    round_number=number, start=start, count=quota, seconds=600.0, stopped=lambda: False,
                    report=lambda *_: None,
                )
            )  # fmt: skip
            start += quota
        for mine, engine in enumerate(engines):
            told = [
                Contribution(path=reply["update"], tokens=reply["tokens"], mine=int(place == mine))
                for place, reply in enumerate(replies)
            ]
            engine.apply(number, told)
        assert len({engine.state_id for engine in engines}) == 1
        ids.append(engines[0].state_id)
    return ids


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"codec": {"kind": "topk", "k": 8, "decay": 0.5}},
        {"codec": {"kind": "int4"}, "outer": {"kind": "nesterov", "learning_rate": 0.7}},
    ],
)
def test_members_in_one_process_find_the_states_that_engines_find(
    tmp_path: Path, text: Path, training: dict[str, Any]
) -> None:
    spec = small(text, **training)
    swarm = members.Swarm(spec, tmp_path / "swarm", shares=(0.25, 0.5, 1.0))
    found = []
    for number in range(1, spec.training.rounds + 1):
        swarm.round(number)
        found.append(swarm.state.id())
    assert found == by_engines(spec, tmp_path, (2, 4, 8))
    assert swarm.tokens == 3 * (2 + 4 + 8) * 16


def test_updates_that_weigh_alike_give_other_weights_only_at_unequal_speeds(tmp_path: Path, text: Path) -> None:
    def state(shares: Sequence[float], by_tokens: bool) -> str:
        folder = tmp_path / f"{shares} {by_tokens}"
        swarm = members.Swarm(small(text), folder, shares=shares, by_tokens=by_tokens)
        swarm.round(1)
        return swarm.state.id()

    assert state((1.0, 1.0), True) == state((1.0, 1.0), False)
    assert state((0.25, 1.0), True) != state((0.25, 1.0), False)


def test_a_member_with_all_batches_steps_as_synchronous_members_do(tmp_path: Path, text: Path) -> None:
    shared = {"rounds": 3, "inner_steps": 1, "warmup_rounds": 0, "min_learning_rate_ratio": 1.0}
    one = small(text, **shared, batch_size=8, codec={"kind": "f32"})
    whole = members.Swarm(one, tmp_path / "whole", shares=(1.0,))
    parts = members.Swarm(small(text, **shared, mode="synchronous"), tmp_path / "parts")
    before_P = whole.state.weights_P.clone()
    for number in range(1, 4):
        whole.round(number)
        parts.round(number)
    assert whole.tokens == parts.tokens
    moved = float((whole.state.weights_P - before_P).norm())
    # AdamW makes much of what rounding leaves of gradients near zero; another batch would be as far as it moved.
    assert float((whole.state.weights_P - parts.state.weights_P).norm()) < 0.01 * moved
