"""The memory that a daemon shares with a worker, and what a worker refuses of what lies there; it lives on.

IO: starts worker processes.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.prepare import Prepared
from p2p_llm_forge.stages.activations import encode
from p2p_llm_forge.stages.front import MOST_WAITING, Front
from p2p_llm_forge.stages.requests import Place, StageForward, StageManifest, StageOpen
from peer.errors import WorkerDied, WorkerRefused
from peer.supervisor import Worker
from peer.tensors import Tensors
from tests.peer.memory_net import until
from tests.peer.stage_kit import LENGTH, SEQUENCES, SLOTS, opening, serving, staged, tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny GPT-2 with dropout in two stages."""
    return staged(tmp_path_factory.mktemp("stages"))


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
            ("stage_open", opening(run, 1) | {"memory_bytes": 1000}, "parameters need about"),
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
