"""Stages in real worker processes: tensors through shared memory, equal to one process, and every refusal survived.

IO: starts worker processes.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.prepare import Prepared, prepare
from p2p_llm_forge.stages.activations import encode
from p2p_llm_forge.stages.desk import Desk
from p2p_llm_forge.stages.front import MOST_WAITING, Front
from p2p_llm_forge.stages.requests import Place, StageForward, StageManifest, StageOpen
from p2p_llm_forge.stages.tags import Tag
from p2p_llm_forge.stages.window import Window
from peer.errors import WorkerDied, WorkerRefused
from peer.supervisor import Worker
from peer.tensors import Tensors
from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.memory_net import until

SLOTS, SEQUENCES, LENGTH, TOKENS = 3, 2, 32, 64


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny GPT-2 with dropout in two stages."""
    folder = tmp_path_factory.mktemp("stages")
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(400))
    fields = spec_fields(corpus, mode="synchronous")
    fields["model"]["dropout"] = "0.1"
    fields["pipeline"] = {"stages": 2, "microbatch_size": SEQUENCES, "activations": "f32"}
    return prepare(RunSpec.from_worker(fields), folder / "blobs", 1 << 40, lambda *_: None)


def opening(run: Prepared, stage: int) -> dict[str, Any]:
    """The fields of `stage_open`."""
    return {
        "config": run.spec.canonical(), "model": str(run.paths["model"]), "manifest": str(run.paths["manifest"]),
        "shards": [str(path) for path in run.shard_paths], "stage": stage, "state": str(run.paths[f"state.{stage}"]),
    }  # fmt: skip


@asynccontextmanager
async def serving(
    run: Prepared, folder: Path, stage: int, *, hold: bool = True
) -> AsyncIterator[tuple[Worker, Tensors, str]]:
    """A worker that holds a stage, in round 1 of 4 microbatches; and the id of its state."""
    tensors = Tensors(SLOTS)
    worker = await Worker.start(folder / f"work {stage}", threads=1, device="cpu", tensors=tensors.descriptor)
    try:
        opened = await worker.call("stage_open", **opening(run, stage))
        assert opened["state"] == run.ids[f"state.{stage}"]
        if hold:
            tensors.hold(opened["tensor_bytes"])
        await worker.call("stage_begin", round=1, start=8, microbatches=4)
        yield worker, tensors, opened["state"]
    finally:
        await worker.close()
        tensors.close()


def tag(state: str, microbatch: int = 0, **changes: Any) -> dict[str, Any]:
    return {"round": 1, "microbatch": microbatch, "state": state, "tokens": TOKENS, **changes}


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


async def test_whatever_is_malformed_is_refused_in_one_line_and_the_worker_lives(run: Prepared, tmp_path: Path) -> None:
    async with serving(run, tmp_path, 1) as (worker, memory, state):
        hidden = torch.zeros(SEQUENCES, LENGTH, 32)
        good, targets = encode(hidden, "f32"), encode(torch.ones(SEQUENCES, LENGTH, dtype=torch.int64), "tokens")
        nan, short = good[:-4] + b"\x00\x00\xc0\x7f", encode(hidden[:, 1:], "f32")
        both = {"x": good, "gradient": targets}
        wrong_shape = r"input: got f32 \[2, 31, 32\], wanted f32 \[2, 32, 32\]"
        cases: list[tuple[str, str, dict[str, bytes], dict[str, Any]]] = [
            ("FP-113", wrong_shape, {"x": short, "gradient": targets}, tag(state)),
            ("FP-113", "input: holds values that are not finite", {"x": nan, "gradient": targets}, tag(state)),
            ("FP-113", "gradient: oversize", {"x": good, "gradient": b"x" * (1 << 20)}, tag(state)),
            ("FP-113", "targets: got f32", {"x": good, "gradient": good}, tag(state)),
            ("FP-109", "microbatch 4: round 1 has 4", both, tag(state, 4)),
            ("FP-109", "stage_backward: tokens", both, tag(state, tokens=0)),
            ("FP-109", "gradient: field required", {"x": good}, tag(state)),
        ]
        for code, text, given, fields in cases:
            with pytest.raises(WorkerRefused, match=text) as caught:
                async with memory.slot() as slot:
                    await slot.call(worker, "stage_backward", given, "reply", **fields)
            assert caught.value.code == code
            assert "\n" not in caught.value.message
        for do, fields, text in (
            ("stage_write", {"round": 1, "manifest": [0]}, "freeze first"),
            ("stage_freeze", {"round": 1, "manifest": [4]}, "microbatch 4"),
            ("stage_open", opening(run, 1) | {"stage": 2}, "stage 2, the run has 2"),
        ):
            with pytest.raises(WorkerRefused, match=text):
                await worker.call(do, **fields)
        with pytest.raises(WorkerRefused, match="send stage_open first"):
            await worker.call("stage_manifest")


async def test_a_stage_says_what_it_holds_and_stays_within_the_memory(run: Prepared, tmp_path: Path) -> None:
    async with serving(run, tmp_path, 0, hold=False) as (worker, memory, state):
        place = {"at": 0, "bytes": 10}
        with pytest.raises(WorkerRefused, match="but the shared memory has 0 bytes"):
            await worker.call("stage_forward", x=place, reply=place, **tag(state))
        memory.hold(SEQUENCES * LENGTH * 32 * 4 + 100)
        for at, size in ((1 << 40, 1), (0, 1 << 40), (-1, 1)):
            with pytest.raises(WorkerRefused, match=r"shared memory|greater than"):
                await worker.call("stage_forward", x={"at": at, "bytes": size}, reply=place, **tag(state))
        with pytest.raises(WorkerRefused, match="its place has room for 10"):
            await worker.call("stage_read", start=0, reply=place, targets=place)
        for wrong in (tag("0" * 64 + "-1"), tag(state, round=2)):
            async with memory.slot() as slot:
                stale = await slot.call(worker, "stage_backward", {"x": b"", "gradient": b""}, "reply", **wrong)
            assert (stale["answer"], stale["round"], stale["state"]) == ("stale", 1, state)
        assert (await worker.call("stage_freeze", round=2, manifest=[]))["answer"] == "stale"
        async with memory.slot() as slot:
            missing = await slot.call(worker, "stage_backward", {"gradient": b""}, "reply", **tag(state))
        assert missing["answer"] == "missing"
        assert await worker.call("stage_manifest") == {"round": 1, "state": state, "done": []}


async def test_a_slot_is_given_on_when_the_worker_has_answered_or_died_and_never_before(
    run: Prepared, tmp_path: Path
) -> None:
    async with serving(run, tmp_path, 0) as (worker, memory, _):

        async def read(reader: Worker) -> int:
            async with memory.slot() as slot:
                return int((await slot.call(reader, "stage_read", {}, "reply", "targets", start=0))["bytes"])

        os.kill(worker.pid, signal.SIGSTOP)
        gone = [asyncio.create_task(read(worker)) for _ in range(SLOTS)]
        await until(lambda: memory.free == 0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert memory.free == 0, "nobody waits for the answers any more, but the worker will still write them"
        os.kill(worker.pid, signal.SIGCONT)
        assert await read(worker) > 0
        assert memory.free == SLOTS
        await worker.kill()
        with pytest.raises(WorkerDied):
            await read(worker)
        assert memory.free == SLOTS
        another = await Worker.start(tmp_path / "again", threads=1, device="cpu", tensors=memory.descriptor)
        await another.call("stage_open", **opening(run, 0))
        assert await read(another) > 0
        await another.close()


def test_passes_are_turned_away_while_too_many_wait(run: Prepared, tmp_path: Path) -> None:
    waiting = 0
    front = Front(tmp_path, torch.device("cpu"), None, lambda: waiting, lambda _: None)
    place = Place(at=0, bytes=0)
    asked = StageForward(id=1, do="stage_forward", x=place, reply=place, **tag("x"))
    waiting = MOST_WAITING
    assert front.turned_away(asked) is None, "nothing is open, which it is told"
    front.do(StageOpen(id=1, do="stage_open", **opening(run, 0)))
    told = front.turned_away(asked)
    assert told == {"answer": "busy", "queue": MOST_WAITING, "service_us": 0, "wait_s": 0.0}
    assert front.turned_away(StageManifest(id=1, do="stage_manifest")) is None, "only passes can come again"
    waiting -= 1
    assert front.turned_away(asked) is None


def test_the_memory_can_grow_and_nobody_can_shrink_it() -> None:
    tensors = Tensors(2)
    tensors.hold(10_000)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(tensors.descriptor, 0)
    size = os.fstat(tensors.descriptor).st_size
    tensors.hold(5)
    assert os.fstat(tensors.descriptor).st_size == size == 2 * 3 * 3 * resource.getpagesize()
    tensors.hold(100_000)
    assert os.fstat(tensors.descriptor).st_size > size
    tensors.close()
