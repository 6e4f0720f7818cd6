"""Mode synchronous: members together are one machine with the whole batch; gradients of missed rounds are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge import codec, model
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.prepare import Prepared
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.settings import OuterSpec
from p2p_llm_forge.state import Layout, State

from . import engines
from .engines import member, settled, train

pytestmark = pytest.mark.usefixtures("one_thread")


def prepared(folder: Path, **training: Any) -> Prepared:
    """4 sequences of 16 tokens for each member and round."""
    return engines.prepared(folder, mode="synchronous", rounds=50, warmup_rounds=5, **training)


def one_machine(run: Prepared, rounds: int, slots: int) -> torch.Tensor:
    """The weights that plain torch AdamW reaches with the same global batches, each as one batch."""
    spec = run.spec.training
    config = model.config_from_blob(read_blob(run.paths["model"], model.LIMIT_BYTES, "model blob"))
    plain = model.build(config, run.spec.seed)
    manifest = load_manifest(run.paths["manifest"])
    sampler = Sampler(seed=run.spec.seed, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots)
    tokens = torch.from_numpy(Shards(manifest, run.shard_paths).read(sampler.windows(0, rounds * slots)))
    matrices = [parameter for parameter in plain.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in plain.parameters() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=spec.betas, weight_decay=spec.weight_decay)
    for number, batch in enumerate(tokens.split(slots), 1):
        logits = plain(input_ids=batch[:, :-1]).logits
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        if spec.grad_clip:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), spec.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, number)
        optimizer.step()
    return State.of_model(plain, Layout.of(plain, OuterSpec())).weights_P


def together(run: Prepared, folder: Path, rounds: int, parts: tuple[int, ...]) -> tuple[list[Engine], float]:
    """Members that train `parts` slots each in every round; and how far from one machine they end, relatively."""
    members = [member(run, folder / str(place)) for place in range(len(parts))]
    start = 0
    for number in range(1, rounds + 1):
        replies = []
        for engine, count in zip(members, parts, strict=True):
            replies.append(train(engine, number, start, count))
            start += count
        ids = {engine.apply(number, settled(replies, place))["state"] for place, engine in enumerate(members)}
        assert len(ids) == 1
    plain_P, found_P = one_machine(run, rounds, sum(parts)), members[0].state.weights_P
    return members, float((found_P - plain_P).double().norm() / plain_P.double().norm())


@pytest.mark.parametrize(
    ("parts", "rounds", "settings"),
    [((4, 4, 4, 4), 50, {}), ((4, 3, 1), 15, {"grad_clip": 0.05, "micro_batch_size": 1})],
)
def test_members_equal_one_machine_with_the_whole_batch(
    tmp_path: Path, parts: tuple[int, ...], rounds: int, settings: dict[str, Any]
) -> None:
    run = prepared(tmp_path, **settings)
    members, distance = together(run, tmp_path, rounds, parts)
    assert distance <= 1e-6
    initial = State.load(run.paths["state"], members[0].layout)
    assert float((members[0].state.weights_P - initial.weights_P).norm() / initial.weights_P.norm()) > 0.01


def test_rounding_to_half_precision_stays_near_one_machine(tmp_path: Path) -> None:
    run = prepared(tmp_path, codec={"kind": "f16"})
    assert together(run, tmp_path, 10, (4, 4))[1] < 1e-3


def test_a_replay_without_data_reaches_the_same_states(tmp_path: Path) -> None:
    run = prepared(tmp_path, codec={"kind": "int8"})
    one, other = member(run, tmp_path / "1"), member(run, tmp_path / "2")
    auditor = member(run, tmp_path / "3", shards=False)
    for number in range(1, 4):
        replies = [train(one, number, number * 8, 4), train(other, number, number * 8 + 4, 3)]
        assert [reply["tokens"] for reply in replies] == [4 * 16, 3 * 16]
        assert [reply["steps"] for reply in replies] == [2, 2]
        states = {
            engine.apply(number, settled(replies, mine))["state"]
            for engine, mine in ((one, 0), (other, 1), (auditor, None))
        }
        assert len(states) == 1
        late = member(run, tmp_path / f"late {number}", shards=False)
        assert late.load(tmp_path / "3" / "states" / f"{auditor.state_id.partition('-')[0]}.safetensors") in states


def test_a_gradient_of_a_missed_round_is_never_sent_again(tmp_path: Path) -> None:
    engine = member(prepared(tmp_path), tmp_path / "1")
    first = train(engine, 1, 0, 4)
    again = train(engine, 1, 0, 4)
    assert again["update"] == first["update"], "a second training of the round starts from nothing"
    engine.apply(1, [])
    assert train(engine, 2, 0, 4)["update"] == first["update"]


def test_what_rounding_took_is_sent_with_the_next_gradient(tmp_path: Path) -> None:
    run = prepared(tmp_path, codec={"kind": "int4"})
    engine, newcomer = member(run, tmp_path / "1"), member(run, tmp_path / "2")
    for number in (1, 2):
        reply = train(engine, number, 4 * number, 4)
        engine.apply(number, settled([reply], 0))
        newcomer.apply(number, settled([reply]))
    remembered, fresh = train(engine, 3, 16, 4), train(newcomer, 3, 16, 4)
    assert engine.state_id == newcomer.state_id
    assert remembered["loss"] == fresh["loss"]
    assert Path(remembered["update"]).name != Path(fresh["update"]).name


def test_a_round_without_updates_is_no_step(tmp_path: Path) -> None:
    engine = member(prepared(tmp_path), tmp_path / "1")
    before = engine.state_id
    assert engine.apply(1, [])["state"] == before
    engine.apply(2, settled([train(engine, 2, 0, 4)], 0))
    assert engine.state.outer["steps"].tolist() == [1.0]


def test_an_update_that_is_zero_throughout_is_no_members(tmp_path: Path) -> None:
    engine = member(prepared(tmp_path), tmp_path / "1")
    empty = tmp_path / "empty"
    empty.write_bytes(codec.encode(torch.zeros(engine.layout.parameters), engine.spec.training.codec)[0])
    with pytest.raises(UpdateError, match="values are zero"):
        engine.check(empty)


def test_the_norm_limit_counts_by_the_token_and_refuses_without_a_trace(tmp_path: Path) -> None:
    engine = member(prepared(tmp_path, max_update_rms=1e-6), tmp_path / "1")
    assert engine.spec.max_update_rms == pytest.approx(1e-6 * 4 * 16)
    before, reply = engine.state_id, train(engine, 1, 0, 4)
    with pytest.raises(UpdateError, match="over-norm"):
        engine.check(Path(reply["update"]))
    with pytest.raises(UpdateError, match="over-norm"):
        engine.apply(1, settled([reply], 0))
    assert engine.state_id == before == engine.state.id()
