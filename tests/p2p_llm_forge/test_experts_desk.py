"""Trunk and shards behind the requests of a worker: a round as daemons would have it, and what is refused.

IO: blobs, memory shared within the process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import ActivationError, DoesNotFit, ModelError, RequestError, SpecError
from p2p_llm_forge.prepare import Prepared, prepare
from p2p_llm_forge.protocol import parse
from p2p_llm_forge.stages import requests
from p2p_llm_forge.stages.activations import encode
from p2p_llm_forge.stages.experts import requests as experts
from p2p_llm_forge.stages.experts.shard_desk import digest
from p2p_llm_forge.stages.front import Front

from .conftest import corpus_text, spec_fields

PART = 1 << 16
TOKENS = 64


def fields(folder: Path) -> dict[str, Any]:
    """A tiny OLMoE in two groups, rounds of four microbatches of two sequences."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(400))
    found = spec_fields(corpus, mode="synchronous", inner_steps=2, batch_size=4, codec={"kind": "f32"})
    options = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 48}
    found["model"] = {"family": "olmoe", "layers": 2, "hidden_size": 32, "heads": 2, "options": options}
    return {**found, "experts": {"groups": 2, "replicas": 1, "microbatch_size": 2, "activations": "f32"}}


def made(spec: dict[str, Any], folder: Path, memory: int = 1 << 40) -> Prepared:
    """The run's blobs."""
    return prepare(RunSpec.from_worker(spec), folder / "blobs", memory, lambda *_: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("experts")
    return made(fields(folder), folder)


class Piece:
    """One worker's front, and the memory that it shares."""

    def __init__(self, run: Prepared, folder: Path, stage: int) -> None:
        self.memory = os.memfd_create("test")
        os.ftruncate(self.memory, 3 * PART)
        self.front = Front(folder / f"work {stage}", torch.device("cpu"), self.memory, lambda: 0, self.event)
        self.holders: dict[str, Piece] = {}
        self.garbage: bytes | None = None
        """What holder b answers instead."""
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        """Backward calls: by whom, what, and their sum."""
        opened = self(
            "stage_open", config=run.spec.canonical(), model=str(run.paths["model"]), stage=stage,
            manifest=str(run.paths["manifest"]), state=str(run.paths[f"state.{stage}"]),
            shards=[] if stage else [str(path) for path in run.shard_paths],
        )  # fmt: skip
        assert opened["state"] == run.ids[f"state.{stage}"]
        self.state = opened["state"]
        self("stage_begin", round=1, start=8, microbatches=4)

    def __call__(self, do: str, **more: Any) -> dict[str, Any]:
        """Make a request."""
        import json

        line = json.dumps({"id": 1, "do": do, **more}).encode()
        request = parse(line, {**requests.COMMANDS, **experts.COMMANDS})
        return self.front.check(request) if isinstance(request, requests.StageCheck) else self.front.do(request)

    def passing(self, do: str, microbatch: int = 0, **more: Any) -> dict[str, Any]:
        """A request about a microbatch."""
        return self(do, **{"round": 1, "microbatch": microbatch, "state": self.state, "tokens": TOKENS, **more})

    def read(self, part: int, at: int, size: int) -> bytes:
        return os.pread(self.memory, size, part * PART + at)

    def write(self, part: int, at: int, data: bytes) -> None:
        os.pwrite(self.memory, data, part * PART + at)

    def event(self, event: dict[str, Any]) -> None:
        """The trunk asks: as a daemon does it, for whoever lives."""
        failed, at = "", 0
        for call in event["calls"]:
            size, holder = call["bytes"], self.holders.get(call["holder"])
            if holder is None:
                failed = call["holder"]
                break
            for part in (0, 1):
                holder.write(part, 0, self.read(part, at, size))
            told = {"layer": call["layer"], "experts": call["experts"], "counts": call["counts"]}
            more = {"gradient": place(1, size)} if event["kind"] == "backward" else {}
            answer = holder.passing(
                f"expert_{event['kind']}", self.number, **told, x=place(0, size), reply=place(2, PART), **more
            )
            assert (answer["answer"], answer["bytes"]) == ("done", size)
            if more:
                parts = [memoryview(self.read(part, at, size)) for part in (0, 1)]
                told["bytes"] = [bytes(part) for part in parts]
                numbers = {key: told[key] for key in ("layer", "experts", "counts")}
                kind = experts.ExpertBackward.model_construct(**numbers)
                self.asked.append((call["holder"], told, digest(kind, *parts)))
            reply = holder.read(2, 0, size)
            if call["holder"] == "b" and self.garbage is not None:
                reply = (reply[: size - len(self.garbage)] if len(self.garbage) == 4 else b"") + self.garbage
            self.write(2, at, reply.ljust(size, b"\0"))
            at += size
        self.front.answered(experts.TrunkAnswer(id=2, do="trunk_answer", ask=event["ask"], failed=failed))

    def drive(self, number: int, *holders: str) -> dict[str, Any]:
        """A microbatch through the trunk."""
        self.number, self.asked = number, []
        places = {"x": place(0, PART), "gradient": place(1, PART), "reply": place(2, PART)}
        return self.passing("trunk_drive", number, holders=list(holders), **places)


def place(part: int, size: int) -> dict[str, int]:
    return {"at": part * PART, "bytes": size}


class Swarm:
    """A trunk and two groups."""

    def __init__(self, run: Prepared, folder: Path) -> None:
        self.trunk, self.pieces = Piece(run, folder, 0), [Piece(run, folder, stage) for stage in (1, 2)]
        self.trunk.holders = dict(zip("ab", self.pieces, strict=True))

    def run(self, number: int) -> None:
        """A microbatch that all of them count."""
        assert self.trunk.drive(number, "a", "b")["answer"] == "done"
        for name, piece in self.trunk.holders.items():
            assert piece.passing("expert_count", number, calls=self.calls(name))["answer"] == "done"

    def calls(self, name: str) -> list[dict[str, Any]]:
        """What a holder is told that a microbatch is made of."""
        return [{"layer": told["layer"], "sum": found} for who, told, found in self.trunk.asked if who == name]


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
    with pytest.raises(ModelError, match="gpt2 has no experts to place on peers"):
        made({**good, "model": {"family": "gpt2", "layers": 2, "hidden_size": 32, "heads": 2}}, tmp_path)
    with pytest.raises(DoesNotFit, match=r"set more experts\.groups, or have peers with more memory"):
        made(good, tmp_path, memory=1000)
    with pytest.raises(SpecError, match="pipeline and experts do not go together yet; leave one of them out"):
        made({**good, "pipeline": {"stages": 2, "microbatch_size": 2}}, tmp_path)
    with pytest.raises(SpecError, match=r"members.max is 2; set members.max to 3 or more"):
        made({**good, "members": {"min": 1, "max": 2}}, tmp_path)
