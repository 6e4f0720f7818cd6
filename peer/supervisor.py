"""Worker subprocesses: start, JSON-lines calls, events, death; and tasks that are started again when they fail.

A worker is one `python -m p2p_llm_forge.worker` in its run's folder. Whatever a model or a driver does to it, the
daemon sees only a `WorkerDied`. The worker asks the kernel to die with us, so a killed daemon leaves none behind.

IO: starts processes and speaks over their pipes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from peer.errors import WorkerDied, WorkerRefused

log = structlog.get_logger(__name__)

LINE_BYTES = 4 << 20
READY_S = 120.0
CLOSE_S = 3.0
FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0
STEADY_S = 120.0
"""A task that ran this long before it failed is not in a loop of failures."""

TUNING = {
    # Else glibc returns the memory of a training step to the system after each one, 15 % slower, in page faults; and
    # that of every vector of all parameters, which doubles the time of compressing and applying updates.
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    # Threads wait awake for microseconds, then sleep. Asleep at once is 20 % slower on an idle machine; awake for
    # milliseconds is several times slower on a busy one. Where it is known (GNU), it goes before OMP_WAIT_POLICY.
    "GOMP_SPINCOUNT": "3000",
}
"""Environment of a worker, where the volunteer's own does not say otherwise."""

Fields = dict[str, Any]
OnEvent = Callable[[Fields], None]


class Keeper:
    """Keeps long-lived tasks going: one that fails is logged with its traceback and started again after a pause."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        """The tasks live in `tasks`, the daemon's own group."""
        self._tasks = tasks
        self._kept: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work()` until it returns."""
        task = self._tasks.create_task(self._keep(name, work), name=name)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def cancel(self) -> None:
        """Cancel all that still runs."""
        for task in self._kept:
            task.cancel()

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            try:
                await work()
            except Exception:
                if time.monotonic() - started > STEADY_S:
                    pause = FIRST_PAUSE_S
                log.exception("task_failed", task=name, again_in_s=pause)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE_S)


class Worker:
    """One worker process. Calls may overlap: the worker answers by number, and queues what must be done in turn."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        """Use `start`."""
        self._process = process
        self._folder = folder
        self._calls: dict[int, tuple[asyncio.Future[Fields], OnEvent | None]] = {}
        self._last = 0
        self._ready: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(), name=f"worker-{process.pid}")
        self.facts: Fields = {}
        """What the worker said of itself when it was ready: device, threads, network_isolated."""

    @classmethod
    async def start(
        cls, folder: Path, *, threads: int, device: str = "auto", nice: int = 0, tensors: int | None = None
    ) -> Worker:
        """Start a worker in `folder` and wait until it is ready.

        Args:
            tensors: descriptor of the memory that it shares with us (`peer.tensors`).

        Raises:
            WorkerDied: it ended, or said nothing for `READY_S` seconds.
        """
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "p2p_llm_forge.worker",
            "--folder",
            str(folder),
            "--threads",
            str(threads),
            "--device",
            device,
            "--parent",
            str(os.getpid()),
        ]
        if tensors is not None:
            command += ["--tensors", str(tensors)]
        environment = {
            **TUNING,
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(threads),
        }
        with (folder / "worker.log").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=LINE_BYTES,
                env=environment,
                pass_fds=() if tensors is None else (tensors,),
                process_group=0,  # a Ctrl-C in the terminal is the daemon's to handle
            )
        worker = cls(process, folder)
        try:
            async with asyncio.timeout(READY_S):
                worker.facts = await asyncio.shield(worker._ready)
        except BaseException as exc:  # cancelled, too: a process that nobody knows would run on
            await worker.kill()
            if isinstance(exc, TimeoutError):
                place = folder / "worker.log"
                raise WorkerDied(f"worker in {folder}: not ready after {READY_S:.0f} s; see {place}") from None
            raise
        log.info("worker_started", pid=process.pid, **{k: v for k, v in worker.facts.items() if k != "event"})
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return self._process.returncode is None and not self._reader.done()

    async def call(self, do: str, *, on_event: OnEvent | None = None, **params: object) -> Fields:
        """Have the worker do something and wait for its answer.

        Args:
            do: the command.
            on_event: told of every event that the command reports on its way.
            params: the command's parameters.

        Raises:
            WorkerRefused: the worker answered with an error (its code and message).
            WorkerDied: it ended before it answered.
        """
        if not self.alive:
            raise self._death()
        self._last += 1
        number = self._last
        future: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._calls[number] = (future, on_event)
        line = json.dumps({"id": number, "do": do, **params}, separators=(",", ":")) + "\n"
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode())
            await self._process.stdin.drain()
            return await future
        except (ConnectionError, BrokenPipeError) as exc:
            raise self._death() from exc
        finally:
            self._calls.pop(number, None)

    async def close(self) -> None:
        """Ask it to end after its current step; kill it after a few seconds. What it wrote is whole or absent."""
        if self.alive:
            with contextlib.suppress(WorkerDied, WorkerRefused, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self.call("stop")
                    await self.call("close")
        await self.kill()

    async def kill(self) -> None:
        """End it now and wait for its end."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._take(line)
        except ValueError:
            log.error("worker_line_too_long", pid=self.pid, limit_bytes=LINE_BYTES)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # it still runs, and nobody hears it any more
        finally:
            self._end()

    def _take(self, line: bytes) -> None:
        message = _message(line)
        if message is None:
            log.error("worker_line_unreadable", pid=self.pid, line=line[:200].decode(errors="replace"))
            return
        if message.get("event") == "ready" and not self._ready.done():
            self._ready.set_result(message)
            return
        future, on_event = self._calls.get(message.get("id", 0), (None, None))
        if future is None or future.done():
            return
        if "event" in message:
            if on_event is not None:
                on_event(message)
        elif "error" in message:
            error = message["error"]
            future.set_exception(
                WorkerRefused(str(error.get("code", "FP-520")), str(error.get("message", "no reason given")))
            )
        else:
            future.set_result(message["ok"])

    def _end(self) -> None:
        """The pipe is closed: nobody will be answered any more."""
        for future, _ in self._calls.values():
            if not future.done():
                future.set_exception(self._death())
        if not self._ready.done():
            self._ready.set_exception(self._death())
            self._ready.exception()  # read, so that an abandoned start does not warn

    def _death(self) -> WorkerDied:
        tail = ""
        with contextlib.suppress(OSError):
            lines = (self._folder / "worker.log").read_text(errors="replace").strip().splitlines()
            tail = f": {lines[-1][:200]}" if lines else ""
        return WorkerDied(f"worker {self.pid} in {self._folder} ended{tail}")


def _message(line: bytes) -> Fields | None:
    """One line of a worker, if it is what the protocol allows: ready, or a numbered event, answer or error."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    numbered = isinstance(message.get("id"), int)
    answer = isinstance(message.get("ok"), dict) or isinstance(message.get("error"), dict)
    return message if message.get("event") == "ready" or (numbered and ("event" in message or answer)) else None
