"""What `convergence` trains is what the engine trains, and its rows are computed once.

IO: temporary folders.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import convergence
import members
import pytest
from convergence import Table, summary
from convergence_rows import FULL, ROWS, Row, Size, best, ddp, default, spec_of, topk
from harness import Options, Result

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.prepare import prepare
from p2p_llm_forge.protocol import Contribution, Open
from p2p_llm_forge.settings import TrainingSpec
from peer.errors import ConfigError

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


def size(*rows: Row) -> Size:
    return Size(rows=rows, steps=20, warmup_steps=10, seeds=2, looks=2, sequences=4)


def row(name: str, loss: float, *, seed: int = 1, sent: float = 1.0) -> dict[str, Any]:
    return {
        "name": name, "about": name.split()[0], "seed": seed, "loss": loss, "bytes_per_token": sent,
        "curve": [2.0, loss], "curve_tokens": [10, 20],
    }  # fmt: skip


def test_all_rows_train_on_the_same_tokens_and_warm_up_over_the_same() -> None:
    for one in ROWS:
        training = spec_of(one, 1, CORPUS, FULL).training
        quotas = [math.floor(training.inner_steps * share) * training.batch_size for share in one.shares]
        part = 0.95 if one.about == "speeds" else 1.0
        assert training.rounds * sum(quotas) == part * FULL.steps * 4 * 4, one.name
        assert training.warmup_rounds / training.rounds == FULL.warmup_steps / FULL.steps, one.name


def test_the_default_row_is_what_the_package_does_by_default() -> None:
    asked, package = spec_of(default(0.006), 1, CORPUS, FULL).training, TrainingSpec()
    ours = {"rounds", "warmup_rounds", "learning_rate", "batch_size"}
    assert asked.model_dump(exclude=ours) == package.model_dump(exclude=ours)
    chosen = topk(package.codec.k, package.inner_steps, "k and H")
    assert chosen.name in {one.name for one in ROWS}
    assert spec_of(chosen, 1, CORPUS, FULL) == spec_of(default(0.006), 1, CORPUS, FULL)


def test_no_two_rows_have_the_same_name() -> None:
    assert len({one.name for one in ROWS}) == len(ROWS)


def test_the_ratio_is_of_the_best_learning_rates_seed_by_seed() -> None:
    rows = [
        row("ddp a", 1.7), row("ddp b", 1.6, sent=9.0), row("ddp b", 1.5, seed=2, sent=9.0),
        row("default a", 1.632), row("default a", 1.545, seed=2), row("default b", 1.65), row("codecs", 1.0),
    ]  # fmt: skip
    assert [one["seed"] for one in best(rows, "ddp")] == [1, 2]
    found = summary(rows)
    assert found["ratios"] == [1.02, 1.03]
    assert found["default_over_ddp"] == 1.025
    assert (found["ddp_loss"], found["ddp_bytes_per_token"], found["default_bytes_per_token"]) == (1.55, 9.0, 1.0)


def test_rows_are_computed_once_and_again_where_anything_differs(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "result.json"
    options = Options(json=file, plot=None, quick=True, folder=tmp_path, more={"corpus": str(text)})
    monkeypatch.setattr(convergence, "QUICK", size(ddp(0.01), default(0.01)))
    told = convergence.measure(options).metrics
    assert [(one["about"], one["seed"]) for one in told["rows"]] == [(a, s) for s in (1, 2) for a in ("ddp", "default")]
    assert len({one["tokens"] for one in told["rows"]}) == 1
    assert told["ddp_bytes_per_token"] == 4 * told["rows"][0]["parameters"] / (4 * 64)
    assert json.loads(file.read_text())["metrics"]["rows"] == told["rows"]

    computed: list[str] = []
    monkeypatch.setattr(Table, "_compute", lambda _self, one, _spec: computed.append(one.name) or row(one.name, 1.0))
    assert convergence.measure(options).metrics == told
    assert computed == []
    text.write_text(text.read_text("utf-8") + "x", "utf-8")
    convergence.measure(options)
    assert computed == ["ddp lr 0.01", "default lr 0.01"] * 2


def test_a_result_file_of_something_else_is_left_alone(tmp_path: Path, text: Path) -> None:
    file = tmp_path / "result.json"
    for content in ("no json", "[]", '{"metrics": {"rows": [1]}}', '{"metrics": {}}'):
        file.write_text(content)
        with pytest.raises(ConfigError, match="holds no rows of convergence"):
            Table(file, text, size())
        assert file.read_text() == content


def test_a_corpus_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.txt"):
        Table(None, tmp_path / "missing.txt", size())
    short = tmp_path / "short.txt"
    short.write_text("short")
    with pytest.raises(ConfigError, match=r"shorter than one sequence|too short"):
        Table(None, short, size()).row(default(0.01), 1)


def test_the_plot_shows_every_row_of_the_first_seed(tmp_path: Path) -> None:
    rows = [row("ddp a", 1.6), row("ddp a", 1.5, seed=2), row("default a", 1.7)]
    plot = tmp_path / "plot.svg"
    convergence.draw(Result(name="convergence", metrics={"rows": rows}, targets={}), plot)
    assert plot.stat().st_size > 0
