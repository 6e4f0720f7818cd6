"""Worker processes that behave, lie, go silent or die; and tasks that are kept going.

IO: starts small Python programs in place of the engine.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from peer.errors import WorkerDied, WorkerRefused
from peer.supervisor import Keeper, Worker
from tests.peer.memory_net import until

READY = 'say({"event": "ready", "version": 1, "device": "cpu", "threads": 1, "network_isolated": 0})\n'
HEAD = """
import json, os, sys, time
def say(message): print(json.dumps(message) if not isinstance(message, str) else message, flush=True)
def ok(request, **fields): say({"id": request["id"], "ok": fields})
"""
SERVE = """
for line in sys.stdin:
    request = json.loads(line)
    do = request["do"]
    if do == "echo": ok(request, got=request["value"])
    elif do == "refuse": say({"id": request["id"], "error": {"code": "FP-107", "message": "no good"}})
    elif do == "wordless": say({"id": request["id"], "error": {}})
    elif do == "events":
        for number in range(3): say({"id": request["id"], "event": "progress", "step": number})
        ok(request)
    elif do == "garbage":
        say("this is no JSON"); say('{"id": 999, "ok": {}}'); say('[1]'); say('"text"'); say('{"id": [1], "ok": {}}')
        say("[" * 10**5)
        sys.stdout.buffer.write(bytes([0, 255, 10])); ok(request)
    elif do == "half": say({"id": request["id"]}); ok(request)
    elif do == "flood": sys.stdout.write("x" * (6 << 20)); sys.stdout.flush()
    elif do == "die": print("a driver crashed", file=sys.stderr); os._exit(3)
    elif do == "hang": time.sleep(60)
    elif do in ("stop", "close"):
        ok(request)
        if do == "close": sys.exit(0)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has workers run this program instead of the engine."""

    def use(text: str) -> None:
        path = tmp_path / "program"
        path.write_text(f"#!{os.path.realpath(executable)}\n{HEAD}{text}")
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    executable = sys.executable
    return use


async def start(folder: Path) -> Worker:
    return await Worker.start(folder / "work", threads=1, device="cpu")


async def test_a_worker_answers_calls_that_overlap(program: Any, tmp_path: Path) -> None:
    program(READY + SERVE)
    worker = await start(tmp_path)
    assert worker.facts["device"] == "cpu"
    answers = await asyncio.gather(*(worker.call("echo", value=number) for number in range(20)))
    assert [answer["got"] for answer in answers] == list(range(20))
    events: list[Any] = []
    await worker.call("events", on_event=events.append)
    assert [event["step"] for event in events] == [0, 1, 2]
    await worker.close()
    assert not worker.alive
    with pytest.raises(WorkerDied):
        await worker.call("echo", value=1)


async def test_a_refusal_carries_the_workers_code_and_the_worker_lives_on(program: Any, tmp_path: Path) -> None:
    program(READY + SERVE)
    worker = await start(tmp_path)
    with pytest.raises(WorkerRefused, match="no good") as refused:
        await worker.call("refuse")
    assert refused.value.code == "FP-107"
    with pytest.raises(WorkerRefused, match="no reason given"):
        await worker.call("wordless")
    assert await worker.call("echo", value=1) == {"got": 1}
    await worker.close()


@pytest.mark.parametrize("command", ["garbage", "half"])
async def test_garbage_lines_are_passed_over(program: Any, tmp_path: Path, command: str) -> None:
    program(READY + SERVE)
    worker = await start(tmp_path)
    async with asyncio.timeout(10):
        assert await worker.call(command) == {}
        assert await worker.call("echo", value=1) == {"got": 1}
    await worker.close()


async def test_a_line_without_end_ends_the_worker_and_not_the_daemon(program: Any, tmp_path: Path) -> None:
    program(READY + SERVE)
    worker = await start(tmp_path)
    async with asyncio.timeout(10):
        with pytest.raises(WorkerDied):
            await worker.call("flood")
    assert not worker.alive
    await until(lambda: not Path(f"/proc/{worker.pid}").exists())
    await worker.close()


async def test_a_death_is_told_to_all_who_wait_with_the_last_words(program: Any, tmp_path: Path) -> None:
    program(READY + SERVE)
    worker = await start(tmp_path)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(worker.call("die"), worker.call("echo", value=1), return_exceptions=True)
    assert all(isinstance(answer, WorkerDied) for answer in answers)
    assert "a driver crashed" in str(answers[0])
    await worker.close()


async def test_a_worker_that_is_killed_tells_of_its_death(program: Any, tmp_path: Path) -> None:
    program(READY + SERVE)
    worker = await start(tmp_path)
    call = asyncio.create_task(worker.call("hang"))
    await until(lambda: worker._calls)
    os.kill(worker.pid, 9)
    with pytest.raises(WorkerDied):
        await asyncio.wait_for(call, 10)
    await worker.close()


async def test_a_worker_that_does_not_close_is_killed(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(READY + SERVE)
    monkeypatch.setattr("peer.supervisor.CLOSE_S", 0.1)
    worker = await start(tmp_path)
    call = asyncio.create_task(worker.call("hang"))
    await until(lambda: worker._calls)
    async with asyncio.timeout(10):
        await worker.close()
    with pytest.raises(WorkerDied):
        await call
    assert not worker.alive


async def test_a_worker_that_never_gets_ready_is_ended_and_named(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("print(os.getpid(), file=sys.stderr, flush=True)\ntime.sleep(60)")
    monkeypatch.setattr("peer.supervisor.READY_S", 0.5)
    with pytest.raises(WorkerDied, match=r"not ready after .*worker\.log"):
        await start(tmp_path)
    words = (tmp_path / "work" / "worker.log").read_text().split()
    assert not words or not Path(f"/proc/{words[0]}").exists()


async def test_a_start_that_is_cancelled_leaves_no_process(program: Any, tmp_path: Path) -> None:
    program("print(os.getpid(), file=sys.stderr, flush=True)\ntime.sleep(60)")
    starting = asyncio.create_task(start(tmp_path))
    words = tmp_path / "work" / "worker.log"
    await until(lambda: words.exists() and words.read_text().strip())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not Path(f"/proc/{words.read_text().strip()}").exists()


async def test_a_worker_that_ends_before_it_is_ready_says_why(program: Any, tmp_path: Path) -> None:
    program("sys.exit('no torch here')")
    async with asyncio.timeout(10):
        with pytest.raises(WorkerDied, match="no torch here"):
            await start(tmp_path)


# ---------------------------------------------------------------- Keeper


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peer.supervisor.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("peer.supervisor.MOST_PAUSE_S", 0.004)


async def keep(failures: int) -> list[float]:
    """The pauses after so many failures in a row."""
    left = [ValueError(f"failure {number}") for number in range(failures)]

    async def work() -> None:
        if left:
            raise left.pop()

    with capture_logs() as logs:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            Keeper(tasks).keep("work", work)
    assert not left
    return [entry["again_in_s"] for entry in logs if entry["event"] == "task_failed"]


@pytest.mark.usefixtures("pauses")
async def test_a_task_that_fails_is_started_again_after_longer_and_longer_pauses() -> None:
    assert await keep(0) == []
    assert await keep(5) == [0.001, 0.002, 0.004, 0.004, 0.004]


@pytest.mark.usefixtures("pauses")
async def test_a_task_that_ran_long_before_it_failed_starts_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peer.supervisor.STEADY_S", -1.0)
    assert await keep(3) == [0.001, 0.001, 0.001]


@pytest.mark.usefixtures("pauses")
async def test_a_failing_task_does_not_disturb_the_others() -> None:
    done = asyncio.Event()
    failed = asyncio.Event()

    async def bad() -> None:
        failed.set()
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    async def good() -> None:
        await failed.wait()
        done.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        keeper = Keeper(tasks)
        keeper.keep("bad", bad)
        keeper.keep("good", good)
        await done.wait()
        keeper.cancel()
