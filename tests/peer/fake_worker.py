"""A worker without a process or a model: the engine's commands on small JSON files, so that whole runs take moments.

States and updates are real files with real ids; applying is a hash chain, so two peers agree on a state id only if they
applied the same updates in the same order. A test tells an `Engine` when to wait, to die or to err.

IO: small files in the worker's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ledger.stages import run_state
from peer.blobs.chunks import id_of
from peer.errors import WorkerDied, WorkerRefused
from peer.supervisor import Fields, OnEvent, Worker
from tests.peer.fake_stage import FakeStage, stage_states

TOKENS_PER_SLOT = 16
STATE_BYTES = 2000


def spec_fields(**changes: Any) -> Fields:
    """A canonical config as the engine's `prepare` would give it; `changes` go into `training`, `members`, …"""
    config: Fields = {
        "name": "fake",
        "training": {"rounds": 3, "inner_steps": 2, "batch_size": 2, "time_budget_s": "5.0"},
        "members": {"min": 2, "max": 4},
        "evaluation": {"every": 0, "sequences": 4},
        "checkpoints": {"keep_last": 3, "every": 100},
        "credits": {"price": 1_000_000},
    }
    for place, fields in changes.items():
        config[place] = {**config.get(place, {}), **fields} if isinstance(fields, dict) else fields
    return config


class Engine:
    """What the fake workers of one peer do. Written by tests."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        """Training of these rounds waits until the event is set, or until it is stopped."""
        self.dies_in: set[str] = set()
        """Commands in which the worker dies, once each."""
        self.errs_in: dict[str, str] = {}
        """Commands that are refused with this code, once each."""
        self.stopped_at = 0
        """So many slots are done when a training that waits is stopped."""
        self.lies = 0
        """So many of the next states that `apply` gives are wrong."""
        self.did: dict[str, int] = defaultdict(int)
        """How often each command was carried out."""
        self.trained: list[tuple[int, int, int]] = []
        """(round, start, count) of every training that was begun."""
        self.workers: list[FakeWorker] = []

    def hold(self, round_number: int) -> asyncio.Event:
        """Let this round's training wait; set the event to let it go on."""
        return self.gates.setdefault(round_number, asyncio.Event())


class FakeWorker(Worker):
    """Looks like a `Worker` to the daemon."""

    def __init__(self, folder: Path, engine: Engine, tensors: int | None = None) -> None:
        self._folder, self._engine = folder, engine
        self._stage = FakeStage(folder, tensors, self._write)
        self._state = b""
        self._work: tuple[int, int, Fields] | None = None
        self._stopped = asyncio.Event()
        self._dead = asyncio.Event()
        self.facts = {"event": "ready"}
        engine.workers.append(self)

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def alive(self) -> bool:
        return not self._dead.is_set()

    async def close(self) -> None:
        await self.kill()

    async def kill(self) -> None:
        self._dead.set()
        self._stage.close()

    async def call(self, do: str, *, on_event: OnEvent | None = None, **params: Any) -> Fields:
        if self._dead.is_set():
            raise WorkerDied("fake worker: it is dead")
        engine = self._engine
        if do in engine.dies_in:
            engine.dies_in.remove(do)
            self._dead.set()
            raise WorkerDied(f"fake worker: died in {do}")
        if do in ("load", "train", "finish", "check", "apply", "evaluate") and not self._state:
            raise WorkerRefused("FP-109", "no run is open; send open first")
        if code := engine.errs_in.pop(do, ""):
            raise WorkerRefused(code, f"fake worker: {do} does not work")
        engine.did[do] += 1
        await asyncio.sleep(0)
        if do.startswith("stage_"):
            name = {"stage_write": "write_update"}.get(do, do.removeprefix("stage_"))
            answer = await self._stage.do(name, self._held_back, params)
        else:
            answer = await getattr(self, f"_{do}")(on_event or (lambda event: None), **params)
        if self._dead.is_set():
            raise WorkerDied(f"fake worker: killed in {do}")
        return answer

    async def _held_back(self, round_number: int) -> None:
        if (gate := self._engine.gates.get(round_number)) is not None:
            self._stopped.clear()
            await self._wait_for(gate)

    def _write(self, name: str, data: bytes) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        path.unlink(missing_ok=True)  # the blob store may hold a link to an older file of that name
        path.write_bytes(data)
        return path

    # ------------------------------------------------------------------ commands

    async def _prepare(self, tell: OnEvent, *, spec: Fields, out: str, **more: Any) -> Fields:
        tell({"event": "progress", "phase": "tokenize", "done": 1, "total": 1})
        shard = self._write("shard", os.urandom(64))
        files = {
            "model": self._write("model", b"model"),
            "tokenizer": self._write("tokenizer", b"tokenizer"),
            "manifest": self._write("manifest", json.dumps({"shards": [id_of(shard.read_bytes())]}).encode()),
            "state": self._write("state", state_bytes("start")),
        }
        cut: Fields = {}
        if "pipeline" in spec:
            del files["state"]
            states = stage_states(spec["pipeline"])
            files |= {f"state.{stage}": self._write(f"state.{stage}", data) for stage, data in enumerate(states)}
            ids = [id_of(data) for data in states]
            shares = [1_000_000 // len(ids)] * len(ids)
            shares[0] += 1_000_000 - sum(shares)
            cut = {"stages": {"shares": shares, "states": ids, "microbatch": spec["pipeline"]["microbatch_size"]}}
            cut["needs_bytes"] = [len(data) for data in states]
        return {
            **cut,
            "config": spec,
            "slots_per_epoch": 1000,
            "tokens_per_slot": TOKENS_PER_SLOT,
            "parameters": 1000,
            "blobs": {**{name: str(path) for name, path in files.items()}, "shards": [str(shard)]},
            "ids": {**{name: id_of(path.read_bytes()) for name, path in files.items()},
                    **({"state": run_state(cut["stages"]["states"])} if cut else {}),
                    "shards": [id_of(shard.read_bytes())]},
        }  # fmt: skip

    async def _open(self, tell: OnEvent, *, state: str, **files: Any) -> Fields:
        for name in ("model", "tokenizer", "manifest"):
            assert Path(files[name]).exists()
        return await self._load(tell, state=state)

    async def _load(self, tell: OnEvent, *, state: str) -> Fields:
        self._state = Path(state).read_bytes()
        return {"state": id_of(self._state)}

    async def _train(
        self, tell: OnEvent, *, round: int, start: int, count: int, seconds: float,
        settled: list[Fields] | None = None, ahead: Fields | None = None,
    ) -> Fields:  # fmt: skip
        self._work = None
        if ahead is not None:
            assert id_of(Path(ahead["path"]).read_bytes()) == ahead["state"]
            read_update(Path(ahead["update"]))
        assert (settled is None) == (ahead is not None)
        assert all(item["round"] < round for item in settled or [])
        self._engine.trained.append((round, start, count))
        self._stopped.clear()
        tell({"event": "progress", "step": 0, "steps": 2, "tokens": 0})
        if (gate := self._engine.gates.get(round)) is not None and not await self._wait_for(gate):
            count = min(count, self._engine.stopped_at)
        if not count:
            return {"slots": 0, "tokens": 0, "loss": 0, "steps": 0, "leaves": "0" * 64, "update": "", "seconds": 0.0}
        path = "" if ahead is not None else str(self._write(f"update-{round}", update_bytes(start)))
        reply: Fields = {
            "update": path, "slots": count, "tokens": count * TOKENS_PER_SLOT, "loss": 5_000_000 - round * 1000,
            "steps": 2, "seconds": 0.25, "leaves": sha256(f"{round} {start}".encode()).hexdigest(),
        }  # fmt: skip
        self._work = (round, start, reply) if ahead is not None else None
        return reply

    async def _finish(self, tell: OnEvent, *, round: int, settled: list[Fields]) -> Fields:
        work, self._work = self._work, None
        if work is None or work[0] != round:
            raise WorkerRefused("FP-109", f"finish: nothing was trained ahead of round {round}; train it")
        assert all(item["round"] < round for item in settled)
        return {**work[2], "update": str(self._write(f"update-{round}", update_bytes(work[1])))}

    async def _wait_for(self, gate: asyncio.Event) -> bool:
        """True when the gate opened, False when training was stopped; the worker's death ends it too."""
        waits = [asyncio.ensure_future(event.wait()) for event in (gate, self._stopped, self._dead)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return gate.is_set() and not self._stopped.is_set()

    async def _stop(self, tell: OnEvent) -> Fields:
        self._stopped.set()
        return {}

    async def _check(self, tell: OnEvent, *, update: str) -> Fields:
        value = abs(json.loads(read_update(Path(update)))["value"])
        if value == 0:
            raise WorkerRefused("FP-107", "update: empty: all of its values are zero")
        return {"norm_units": round(value * 1e6)}

    async def _apply(self, tell: OnEvent, *, round: int, updates: list[Fields]) -> Fields:
        parts = [self._state, *(read_update(Path(one["path"])) for one in updates)]
        if self._engine.lies:
            self._engine.lies -= 1
            parts.append(os.urandom(8))
        self._state = state_bytes(sha256(b"".join(parts)).hexdigest())
        path = self._write(f"state-{round}", self._state)
        return {"state": id_of(self._state), "path": str(path), "seconds": {"aggregate": 0.0}}

    async def _evaluate(self, tell: OnEvent, *, sequences: int) -> Fields:
        return {"loss": 4_000_000, "tokens": sequences * TOKENS_PER_SLOT}

    async def _export(self, tell: OnEvent, *, to: str) -> Fields:
        (Path(to) / "provenance").mkdir(parents=True)
        (Path(to) / "model.safetensors").write_bytes(self._state)
        return {"folder": to, "files": ["model.safetensors"]}

    async def _generate(self, tell: OnEvent, **options: Any) -> Fields:
        return {"text": f"{options['prompt']} of {id_of(self._state)[:8]}"}

    async def _measure(self, tell: OnEvent) -> Fields:
        return {"tflops": 0.001}


def state_bytes(text: str) -> bytes:
    """A state file that stands for a text."""
    return text.encode().ljust(STATE_BYTES, b".")


def update_bytes(start: int, value: float = 1.0) -> bytes:
    """An update file; `start` makes it one of its own."""
    return json.dumps({"start": start, "value": value}).encode().ljust(200, b" ")


def read_update(path: Path) -> bytes:
    """The update's bytes, strictly decoded, as the engine does before it believes one."""
    data = path.read_bytes()
    try:
        if len(data) != 200:
            raise ValueError(f"{len(data)} bytes, expected 200")
        if abs(json.loads(data)["value"]) == float("inf"):
            raise ValueError("not finite")
    except (ValueError, KeyError) as exc:
        raise WorkerRefused("FP-107", f"update: {exc}") from exc
    return data


@contextmanager
def fake_workers(patch: pytest.MonkeyPatch, engine_of: Callable[[Path], Engine]) -> Iterator[None]:
    """Every worker that is started is a fake one, with the engine of the home folder it lives in."""

    async def start(folder: Path, **options: Any) -> FakeWorker:
        engine = engine_of(folder)
        if "start" in engine.dies_in:
            engine.dies_in.remove("start")
            raise WorkerDied(f"worker in {folder}: not ready")
        return FakeWorker(folder, engine, options.get("tensors"))

    with patch.context() as local:
        local.setattr(Worker, "start", start)
        yield
