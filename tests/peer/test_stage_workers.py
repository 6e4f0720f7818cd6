"""Stages in real worker processes are those of one process, forward, backward, step and held-out losses.

IO: starts worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from p2p_llm_forge import model
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards
from p2p_llm_forge.prepare import Prepared
from p2p_llm_forge.stages import split, start, whole
from p2p_llm_forge.stages.desk import Desk
from p2p_llm_forge.stages.requests import StageOpen
from p2p_llm_forge.stages.tags import Tag
from p2p_llm_forge.stages.window import Window
from p2p_llm_forge.state import State
from tests.peer.stage_kit import LENGTH, SEQUENCES, TOKENS, opening, serving, staged, tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny GPT-2 with dropout in two stages."""
    return staged(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def here(run: Prepared, tmp_path: Path, one_thread: None) -> list[Desk]:
    """Both stages in this process."""
    desks = []
    for stage in (0, 1):
        request = StageOpen(id=1, do="stage_open", **opening(run, stage))
        desks.append(Desk(request, tmp_path / f"here {stage}", torch.device("cpu"), Window(None), lambda: 0))
        desks[-1].replica.begin(1, 8, 4)
    return desks


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as the workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


async def test_two_workers_pass_a_microbatch_to_each_other_as_two_stages_of_one_process(
    run: Prepared, tmp_path: Path, here: list[Desk]
) -> None:
    async with serving(run, tmp_path, 0) as (first, memory, zero), serving(run, tmp_path, 1) as (last, other, one):
        for j in range(4):
            async with memory.slot() as slot:
                read = await slot.call(first, "stage_read", {}, "reply", "targets", start=8 + SEQUENCES * j)
                assert read["tokens"] == TOKENS
                tokens, targets = bytes(slot.reply()), bytes(slot.reply("targets"))
            async with memory.slot() as slot:
                out = await slot.call(first, "stage_forward", {"x": tokens}, "reply", **tag(zero, j))
                hidden = bytes(slot.reply())
            async with other.slot() as slot:
                given = {"x": hidden, "gradient": targets}
                answer = await slot.call(last, "stage_backward", given, "reply", **tag(one, j))
                gradient = bytes(slot.reply())
            async with memory.slot() as slot:
                done = await slot.call(first, "stage_backward", {"gradient": gradient}, "reply", **tag(zero, j))
                assert bytes(slot.reply()) == b""
            assert [reply["answer"] for reply in (out, answer, done)] == ["done"] * 3
            assert answer["queue"] == 0 < answer["service_us"]
            tags = [Tag(round=1, microbatch=j, state=state, tokens=TOKENS) for state in (zero, one)]
            assert here[0].replica.forward(tags[0], tokens).data == hidden
            expected = here[1].replica.backward(tags[1], hidden, targets)
            assert (expected.data, expected.loss) == (gradient, answer["loss"])
            here[0].replica.backward(tags[0], tokens, gradient)
        updates = []
        for worker, desk in ((first, here[0]), (last, here[1])):
            assert (await worker.call("stage_freeze", round=1, manifest=[0, 1, 2, 3]))["lacking"] == []
            written = await worker.call("stage_write", round=1, manifest=[0, 1, 2, 3])
            assert Path(written["update"]).name == desk.replica.write([0, 1, 2, 3]).path.name
            updates.append([{"path": written["update"], "tokens": written["tokens"], "mine": 1}])
        checked = await first.call("stage_check", stage=1, update=updates[1][0])
        assert checked["values"] == here[1].replica.held.layout.parameters
        norms = [
            (await worker.call("stage_norm", state=state, updates=updates[at], tied=updates[1 - at]))["norm"]
            for at, (worker, state) in enumerate(((first, zero), (last, one)))
        ]
        other = await first.call("stage_norm", state=zero, stage=1, updates=updates[1], tied=updates[0])
        assert other["norm"] == norms[1] != norms[0], "whoever has a stage's updates knows its norm"
        for at, (worker, state) in enumerate(((first, zero), (last, one))):
            applied = await worker.call(
                "stage_apply", round=1, state=state, updates=updates[at], tied=updates[1 - at], norms=norms
            )
            assert applied["state"] != state
            assert (await worker.call("stage_load", state=applied["path"]))["state"] == applied["state"]


async def test_held_out_losses_of_two_workers_are_those_of_the_whole_model(run: Prepared, tmp_path: Path) -> None:
    async with serving(run, tmp_path, 0) as (first, memory, zero), serving(run, tmp_path, 1) as (last, other, one):
        total, count, at = 0.0, 0, 0
        while True:
            async with memory.slot() as slot:
                read = await slot.call(first, "stage_read", {}, "reply", "targets", start=at, held_out=1)
                tokens, targets = bytes(slot.reply()), bytes(slot.reply("targets"))
            if not read["tokens"]:
                break
            async with memory.slot() as slot:
                await slot.call(first, "stage_evaluate", {"x": tokens}, "reply", state=zero)
                hidden = bytes(slot.reply())
            async with other.slot() as slot:
                given = {"x": hidden, "targets": targets}
                answer = await slot.call(last, "stage_evaluate", given, "reply", state=one)
            assert answer["tokens"] == read["tokens"]
            total, count, at = total + answer["loss"] * answer["tokens"], count + answer["tokens"], at + SEQUENCES
        assert count == run.manifest.held_out_slots * LENGTH
        assert run.manifest.held_out_slots % SEQUENCES, "so that the last one is filled up"
        assert abs(total / count / 1e6 - held_out_loss(run)) < 1e-5
        async with other.slot() as slot:
            given = {"x": hidden, "targets": targets}
            assert (await slot.call(last, "stage_evaluate", given, "reply", state=zero))["answer"] == "stale"


def held_out_loss(run: Prepared) -> float:
    """Of the whole model with the initial weights, in nats."""
    config = model.config_from_blob(run.paths["model"].read_bytes())
    cut = start.cut_of(run.spec)
    layouts = split.layouts(config, cut, run.spec.training.outer)
    parts = [State.load(run.paths[f"state.{stage}"], layout) for stage, layout in enumerate(layouts)]
    built = whole.model_of(config, whole.assemble(parts)).eval()
    manifest = run.manifest
    sampler = Sampler(seed=run.spec.seed, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots)
    tokens = torch.from_numpy(Shards(manifest, run.shard_paths).read(sampler.held_out(manifest.held_out_slots)))
    with torch.no_grad():
        logits = built(input_ids=tokens[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
