"""Trunk and shards behind the requests of a worker: a round as daemons would have it, and what is refused.

IO: blobs, memory shared within the process.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.errors import ActivationError, DoesNotFit, ModelError, RequestError, SpecError
from p2p_llm_forge.model import config_from_blob
from p2p_llm_forge.prepare import Prepared
from p2p_llm_forge.protocol import parse
from p2p_llm_forge.stages import requests
from p2p_llm_forge.stages.activations import encode
from p2p_llm_forge.stages.experts import requests as experts
from p2p_llm_forge.stages.experts.pieces import assemble
from p2p_llm_forge.stages.experts.start import Placed
from p2p_llm_forge.stages.experts.trunk import objective
from p2p_llm_forge.stages.whole import model_of
from p2p_llm_forge.state import State

from .experts_desk_kit import PART, TOKENS, Swarm, fields, made, place

DRIVE = {
    "id": 1, "do": "trunk_drive", "round": 1, "microbatch": 0, "state": "x", "tokens": TOKENS, "holders": ["a", "b"],
    "x": place(0, PART), "gradient": place(1, PART), "reply": place(2, PART),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("experts")
    return made(fields(folder), folder)


@pytest.fixture
def swarm(run: Prepared, tmp_path: Path) -> Swarm:
    return Swarm(run, tmp_path)


def test_a_round_is_driven_counted_written_and_applied(swarm: Swarm) -> None:
    for number in range(4):
        swarm.run(number)
    everybody = [swarm.trunk, *swarm.pieces]
    updates = []
    for piece in everybody:
        assert piece("stage_freeze", round=1, manifest=[0, 1, 2, 3]) == {"answer": "done", "lacking": []}
        found = piece("stage_write", round=1, manifest=[0, 1, 2, 3])
        assert (found["tokens"], found["slots"]) == (4 * TOKENS, 8)
        assert bool(found["loss"]) == (piece is swarm.trunk)
        updates.append({"path": found["update"], "tokens": found["tokens"], "mine": 0})
    norms = [
        piece("stage_norm", state=piece.state, updates=[update], whole=4 * TOKENS)["norm"]
        for piece, update in zip(everybody, updates, strict=True)
    ]
    other = everybody[0]("stage_norm", state=everybody[0].state, stage=2, updates=[updates[2]], whole=4 * TOKENS)
    assert other["norm"] == norms[2]
    for stage, (piece, update) in enumerate(zip(everybody, updates, strict=True)):
        assert everybody[0]("stage_check", stage=stage, update=update)["values"] > 0
        after = piece("stage_apply", state=piece.state, round=1, updates=[update], norms=norms, whole=4 * TOKENS)
        assert after["state"] != piece.state


def test_a_group_that_served_half_of_a_round_divides_by_all_of_its_tokens(swarm: Swarm) -> None:
    swarm.run(0)
    found = swarm.pieces[0]("stage_write", round=1, manifest=[0])
    update = [{"path": found["update"], "tokens": TOKENS, "mine": 0}]
    holder = swarm.pieces[0]
    norms = [holder("stage_norm", state=holder.state, updates=update, whole=whole) for whole in (0, 2 * TOKENS)]
    own, whole = (int(told["norm"], 16) for told in norms)
    assert own - whole == 1 << 52, "half of it, to the bit"


def test_a_microbatch_that_is_driven_again_counts_once(swarm: Swarm) -> None:
    swarm.run(0)
    before = swarm.pieces[0]("stage_write", round=1, manifest=[0])["update"]
    swarm.trunk("stage_begin", round=1, start=8, microbatches=4, anew=1)
    swarm.run(0)
    assert swarm.pieces[0]("stage_write", round=1, manifest=[0])["update"] == before


def test_without_one_group_it_is_another_call_which_takes_the_place_of_the_first(swarm: Swarm) -> None:
    swarm.run(0)
    swarm.trunk("stage_begin", round=1, start=8, microbatches=4, anew=1)
    answer = swarm.trunk.drive(0, "a", "")
    assert 0 < answer["lost"]["weakened"] <= answer["lost"]["tokens"] == 2 * TOKENS
    holder = swarm.pieces[0]
    assert holder("stage_freeze", round=1, manifest=[0])["lacking"] == [0], "it counts once the driver says so"
    swarm.trunk("stage_begin", round=1, start=8, microbatches=4, anew=1)
    swarm.trunk.drive(0, "a", "")
    assert holder.passing("expert_count", 0, calls=swarm.calls("a"))["answer"] == "done"
    assert holder("stage_manifest")["done"] == [0]


def test_a_holder_that_fails_leaves_the_trunk_as_it_was(swarm: Swarm) -> None:
    answer = swarm.trunk.drive(0, "a", "nobody")
    assert (answer["answer"], answer["holder"]) == ("failed", "nobody")
    assert swarm.trunk("stage_manifest")["done"] == []
    swarm.run(0)
    assert swarm.trunk("stage_manifest")["done"] == [0]


def test_held_out_sequences_have_the_loss_of_the_whole_model_and_count_nowhere(run: Prepared, swarm: Swarm) -> None:
    swarm.run(0)
    before = [piece("stage_manifest") for piece in (swarm.trunk, *swarm.pieces)]
    manifest = load_manifest(run.paths["manifest"])
    sampler = Sampler(seed=run.spec.seed, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots)
    windows = sampler.held_out(manifest.held_out_slots)
    tokens = torch.from_numpy(Shards(manifest, list(run.shard_paths)).read(windows))
    config = config_from_blob(run.paths["model"].read_bytes())
    placed = Placed.of(run.spec, config)
    states = [State.load(run.paths[f"state.{index}"], piece.layout) for index, piece in enumerate(placed.pieces)]
    whole = model_of(config, assemble(states, placed.pieces, placed.whole)).eval()
    for first in (*range(0, len(windows), 2), len(windows) - 1):  # of the last there is one sequence only
        part = tokens[first : first + 2]
        with torch.no_grad():
            wanted = float(objective(whole, part).losses_B.mean())
        found = swarm.trunk.evaluate(first, "a", "b")
        assert (found["answer"], found["tokens"]) == ("done", part[:, 1:].numel())
        assert abs(found["loss"] / 1e6 - wanted) <= 1e-5
    assert swarm.trunk.evaluate(len(windows) + 1, "a", "b")["tokens"] == 0
    assert [piece("stage_manifest") for piece in (swarm.trunk, *swarm.pieces)] == before


def test_an_evaluation_of_another_state_or_without_a_holder_gives_no_figure(swarm: Swarm) -> None:
    failed = swarm.trunk.evaluate(0, "a", "nobody")
    assert (failed["answer"], failed["holder"]) == ("failed", "nobody")
    places = {"x": place(0, PART), "reply": place(2, PART)}
    told = swarm.trunk("trunk_evaluate", state="x", start=0, holders=["a", "b"], **places)
    assert (told["answer"], told["state"]) == ("stale", swarm.trunk.state)
    layer = {"layer": 0, "experts": [0], "counts": [1]}
    assert swarm.pieces[0]("expert_evaluate", state="x", **layer, **places)["answer"] == "stale"
    with pytest.raises(RequestError, match="trunk_evaluate: 1 holders for 2 groups"):
        swarm.trunk.evaluate(0, "a")
    with pytest.raises(RequestError, match="holds the trunk"):
        swarm.trunk("expert_evaluate", state=swarm.trunk.state, **layer, **places)
    with pytest.raises(RequestError, match="holds experts"):
        swarm.pieces[0].evaluate(0, "a", "b")


@pytest.mark.parametrize("garbage", [b"", b"nonsense", b"\x00\x00\xc0\x7f"])
def test_a_holder_that_answers_garbage_is_named(swarm: Swarm, garbage: bytes) -> None:
    swarm.trunk.garbage = garbage
    answer = swarm.trunk.drive(0, "a", "b")
    assert (answer["answer"], answer["holder"]) == ("failed", "b")
    assert "answer of b" in answer["why"]
    assert swarm.trunk("stage_manifest")["done"] == []


def test_what_a_holder_lacks_is_told_and_can_be_given_again(swarm: Swarm) -> None:
    swarm.run(0)
    calls, holder = swarm.calls("a"), swarm.pieces[0]
    holder("stage_begin", round=1, start=8, microbatches=4, anew=1)
    assert holder.passing("expert_count", 0, calls=calls)["answer"] == "missing"
    for _, told, _ in (one for one in swarm.trunk.asked if one[0] == "a"):
        x, gradient = told["bytes"]
        holder.write(0, 0, x)
        holder.write(1, 0, gradient)
        numbers = {key: told[key] for key in ("layer", "experts", "counts")}
        holder.passing(
            "expert_backward", 0, **numbers, x=place(0, len(x)), gradient=place(1, len(x)), reply=place(2, PART)
        )
    wrong = [{**call, "sum": "0" * 64} for call in calls]
    assert holder.passing("expert_count", 0, calls=wrong)["answer"] == "missing"
    assert holder.passing("expert_count", 0, calls=calls)["answer"] == "done"


def test_a_trunk_that_is_to_hold_less_holds_nothing(swarm: Swarm) -> None:
    swarm.run(0)
    swarm.run(1)
    assert swarm.trunk("stage_freeze", round=1, manifest=[1])["lacking"] == [1]
    assert swarm.trunk("stage_manifest")["done"] == []


def test_microbatches_that_are_under_way_at_once_come_to_the_sum_of_those_one_after_the_other(swarm: Swarm) -> None:
    for number in (0, 1):
        swarm.trunk.drive(number, "a", "b")
    wanted = swarm.trunk("stage_write", round=1, manifest=[0, 1])
    swarm.trunk("stage_begin", round=1, start=8, microbatches=4, anew=1)
    asked, both = threading.Event(), threading.Barrier(2, timeout=60)

    def before(event: dict[str, Any]) -> None:
        asked.set()
        both.wait()  # nobody goes on before both are in this layer

    swarm.trunk.before = before
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(swarm.trunk.drive, 0, "a", "b")
        assert asked.wait(60)
        assert swarm.trunk.drive(0, "a", "b")["answer"] == "busy", "it is under way already"
        other = pool.submit(swarm.trunk.drive, 1, "a", "b", lane=1)
        assert [first.result(60)["answer"], other.result(60)["answer"]] == ["done", "done"]
    assert swarm.trunk("stage_write", round=1, manifest=[0, 1]) == wanted


def test_a_trunk_drives_several_microbatches_at_once_unless_it_draws_random_numbers(tmp_path: Path) -> None:
    drive = parse(json.dumps(DRIVE).encode(), {**requests.COMMANDS, **experts.COMMANDS})
    for dropout, at_once in ((0.0, 2), (0.1, 1)):
        spec = fields(tmp_path)
        swarm = Swarm(made({**spec, "model": {**spec["model"], "dropout": dropout}}, tmp_path), tmp_path)
        assert swarm.trunk.front.at_once(drive) == at_once
        assert swarm.pieces[0].front.at_once(drive) == 0
        assert swarm.trunk.front.at_once(experts.TrunkAnswer(id=1, do="trunk_answer", ask=1)) == 0


def test_another_round_or_state_is_stale(swarm: Swarm) -> None:
    assert swarm.pieces[0].passing("expert_count", 0, calls=[], round=2)["answer"] == "stale"
    told = swarm.pieces[0].passing("expert_count", 0, calls=[], state="x")
    assert (told["answer"], told["round"], told["state"]) == ("stale", 1, swarm.pieces[0].state)
    assert swarm.pieces[0]("stage_freeze", round=2, manifest=[])["answer"] == "stale"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"experts": [1, 2]}, "expert 2 is out of range, wanted 0…1"),
        ({"layer": 2}, "layer 2 is out of range, wanted 0…1"),
        ({"counts": [1, 1, 1]}, "3 pairs"),
        ({"counts": [100, 100]}, "200 pairs of tokens and experts, wanted 1 … 128"),
        ({"experts": [1, 0]}, "wanted ascending"),
    ],
)
def test_a_call_that_a_shard_cannot_serve_is_refused(swarm: Swarm, changes: dict[str, Any], text: str) -> None:
    data, holder = encode(torch.ones(2, 32), "f32"), swarm.pieces[0]
    holder.write(0, 0, data)
    asked = {"layer": 0, "experts": [0, 1], "counts": [1, 1], **changes}
    with pytest.raises((RequestError, ActivationError)) as caught:
        holder.passing("expert_forward", 0, **asked, x=place(0, len(data)), reply=place(2, PART))
    assert text in caught.value.message or "tokens: got" in caught.value.message


def test_tokens_that_are_not_numbers_are_refused(swarm: Swarm) -> None:
    data, holder = bytearray(encode(torch.ones(2, 32), "f32")), swarm.pieces[0]
    data[-4:] = b"\x00\x00\xc0\x7f"
    holder.write(0, 0, bytes(data))
    with pytest.raises(ActivationError, match="not finite"):
        holder.passing(
            "expert_forward", 0, layer=0, experts=[0, 1], counts=[1, 1], x=place(0, len(data)), reply=place(2, PART)
        )


def test_each_piece_refuses_what_is_for_another(swarm: Swarm) -> None:
    with pytest.raises(RequestError, match="holds experts"):
        swarm.pieces[0].drive(0, "a", "b")
    with pytest.raises(RequestError, match="holds the trunk"):
        swarm.trunk.passing("expert_count", 0, calls=[])
    with pytest.raises(RequestError, match="round 1 has 4"):
        swarm.trunk.drive(4, "a", "b")
    with pytest.raises(RequestError, match="1 holders for 2 groups"):
        swarm.trunk.drive(0, "a")
    with pytest.raises(RequestError, match="no trunk"):
        swarm.pieces[0].front.answered(experts.TrunkAnswer(id=1, do="trunk_answer", ask=1))
    with pytest.raises(RequestError, match="the run has 3"):
        swarm.trunk("stage_norm", state=swarm.trunk.state, stage=3, updates=[{"path": "x", "tokens": 1, "mine": 0}])


def test_runs_that_cannot_be_are_refused_at_submission(tmp_path: Path) -> None:
    good = fields(tmp_path)
    with pytest.raises(SpecError, match=r"experts.groups: 5, but a layer of this model has 4 experts; set 1…4"):
        made({**good, "experts": {**good["experts"], "groups": 5}}, tmp_path)
    options = {**good["model"]["options"], "num_experts_per_tok": 5}
    with pytest.raises(SpecError, match="5 experts chosen for a token, but a layer has 4; choose 1…4"):
        made({**good, "model": {**good["model"], "options": options}}, tmp_path)
    with pytest.raises(ModelError, match="gpt2 has no experts to place on peers"):
        made({**good, "model": {"family": "gpt2", "layers": 2, "hidden_size": 32, "heads": 2}}, tmp_path)
    with pytest.raises(DoesNotFit, match=r"set more experts\.groups, or have peers with more memory"):
        made(good, tmp_path, memory=1000)
    with pytest.raises(SpecError, match="pipeline and experts do not go together yet; leave one of them out"):
        made({**good, "pipeline": {"stages": 2, "microbatch_size": 2}}, tmp_path)
    with pytest.raises(SpecError, match=r"members.max is 2; set members.max to 3 or more"):
        made({**good, "members": {"min": 1, "max": 2}}, tmp_path)
