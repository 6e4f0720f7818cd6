"""The stage commands of a worker without a model: tensors are hashes, a state is a hash chain over updates and norms.

So replicas of a stage agree on a state id only if they applied the same updates in the same order with the same norms.

IO: small files in the worker's folder, the memory shared with the daemon.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from peer.blobs.chunks import id_of
from peer.errors import WorkerDied, WorkerRefused
from peer.supervisor import Fields

TENSOR_BYTES = 64
HEAD = b"a tensor of no shape"
TOKENS_PER_SLOT = 16
STATE_BYTES = 2000


def tensor(*parts: object) -> bytes:
    """A tensor that stands for these."""
    return (HEAD + sha256(repr(parts).encode()).digest()).ljust(TENSOR_BYTES, b".")


def stage_states(pipeline: Fields) -> list[bytes]:
    """The initial states of the stages."""
    return [f"stage {stage}".encode().ljust(STATE_BYTES, b".") for stage in range(int(pipeline["stages"]))]


def read_stage_update(path: Path) -> Fields:
    """What is in an update, strictly."""
    try:
        value: Fields = json.loads(path.read_bytes())
        if len(value["done"]) == 0:
            raise ValueError("empty")
    except (ValueError, KeyError) as exc:
        raise WorkerRefused("FP-107", f"update: {exc}") from exc
    return value


class FakeStage:
    """One stage. `wait` holds a round's backward passes back as long as a test wants."""

    forgets = False
    """Whether it keeps no input for the backward pass."""

    def __init__(self, folder: Path, tensors: int | None, write: Callable[[str, bytes], Path]) -> None:
        self._folder, self._write = folder, write
        self._descriptor = os.dup(tensors) if tensors is not None else -1
        self.stage, self.stages, self.state = -1, 0, b""
        self.round, self.start, self.done = 0, 0, set[int]()
        self.inputs: dict[int, bytes] = {}

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def do(self, name: str, wait: Callable[[int], Any], fields: Fields) -> Fields:
        """Answer one request."""
        await asyncio.sleep(0)
        if name == "backward":
            await wait(fields["round"])
        if self._descriptor < 0 and name in ("forward", "backward", "read"):
            raise WorkerDied(f"fake worker: killed in stage_{name}")
        answer: Fields = getattr(self, f"_{name}")(**fields)
        return answer

    # ------------------------------------------------------------------ memory

    def _get(self, place: Fields) -> bytes:
        with mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size) as memory:
            return memory[place["at"] : place["at"] + place["bytes"]]

    def _put(self, place: Fields, data: bytes) -> int:
        with mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size) as memory:
            memory[place["at"] : place["at"] + len(data)] = data
        return len(data)

    # ------------------------------------------------------------------ commands

    def _open(self, *, config: Fields, stage: int, state: str, **files: Any) -> Fields:
        assert bool(files["shards"]) == (stage == 0), "only drivers read the data"
        self.stage, self.stages = stage, int(config["pipeline"]["stages"])
        self.state = Path(state).read_bytes()
        return {"state": id_of(self.state), "parameters": 10, "tensor_bytes": TENSOR_BYTES, "tied": 0, "ties": 0}

    def _load(self, *, state: str) -> Fields:
        self.state, self.round = Path(state).read_bytes(), 0
        return {"state": id_of(self.state)}

    def _begin(self, *, round: int, start: int, microbatches: int, anew: int) -> Fields:
        self.round, self.start, self.done, self.inputs = round, start, set(), {}
        return {"state": id_of(self.state), "done": []}

    def _read(self, *, start: int, held_out: int, reply: Fields, targets: Fields) -> Fields:
        size = self._put(reply, tensor("tokens", start))
        told = self._put(targets, tensor("targets", start))
        return {"bytes": size, "targets": told, "tokens": 0 if held_out and start >= 3 else 2 * TOKENS_PER_SLOT}

    def _evaluate(self, *, state: str, x: Fields, reply: Fields, targets: Fields | None = None) -> Fields:
        if state != id_of(self.state):
            return self._told("stale")
        assert (targets is not None) == (self.stage == self.stages - 1)
        out = tensor("look", self.stage, self._given(x))
        size = 0 if targets is not None else self._put(reply, out)
        return {"answer": "done", "bytes": size, "loss": 4_000_000 if targets is not None else 0, "tokens": 32}

    def _told(self, answer: str, **fields: Any) -> Fields:
        return {"answer": answer, "queue": 0, "service_us": 1000, "took_us": 1000, "bytes": 0, "loss": 0, **fields}

    def _stale(self, fields: Fields) -> bool:
        return (fields["round"], fields["state"]) != (self.round, id_of(self.state))

    def _given(self, place: Fields) -> bytes:
        data = self._get(place)
        if not data.startswith(HEAD) or len(data) != TENSOR_BYTES:
            raise WorkerRefused("FP-113", "input: not a tensor of the right shape")
        return data

    def _forward(self, *, x: Fields, reply: Fields, **tag: Any) -> Fields:
        if self._stale(tag):
            return self._told("stale")
        given = self._given(x)
        if not self.forgets:
            self.inputs[tag["microbatch"]] = given
        out = tensor("forward", self.stage, tag["round"], tag["microbatch"], given)
        return self._told("done", bytes=self._put(reply, out))

    def _backward(self, *, gradient: Fields, reply: Fields, x: Fields | None = None, **tag: Any) -> Fields:
        if self._stale(tag):
            return self._told("stale")
        if x is None and tag["microbatch"] not in self.inputs:
            return self._told("missing")
        given = self._given(x) if x is not None else self.inputs[tag["microbatch"]]
        self.done.add(tag["microbatch"])
        if not self.stage:
            return self._told("done")
        out = tensor("backward", self.stage, tag["round"], tag["microbatch"], given, self._given(gradient))
        return self._told("done", bytes=self._put(reply, out), loss=5_000_000)

    def _freeze(self, *, round: int, manifest: list[int]) -> Fields:
        self.done &= set(manifest)
        return {"answer": "done", "lacking": sorted(set(manifest) - self.done)}

    def _undo(self, *, round: int, microbatch: int, state: str, tokens: int) -> Fields:
        assert round == self.round
        if self.forgets:
            return {"answer": "missing"}
        self.done.discard(microbatch)
        return {"answer": "done"}

    def _write_update(self, *, round: int, manifest: list[int]) -> Fields:
        assert self.done == set(manifest)
        body = {"stage": self.stage, "round": round, "done": sorted(self.done), "from": str(self._folder)}
        path = self._write(f"update-{round}", json.dumps(body).encode())
        last = self.stage == self.stages - 1
        return {
            "answer": "done", "update": str(path), "tokens": 2 * len(manifest) * TOKENS_PER_SLOT,
            "loss": (5_000_000 - round * 1000) if last else 0, "slots": 2 * len(manifest),
            "leaves": sha256(f"{round} {manifest}".encode()).hexdigest(),
        }  # fmt: skip

    def _norm(self, *, state: str, updates: list[Fields], tied: list[Fields], stage: int) -> Fields:
        assert not tied
        assert {read_stage_update(Path(one["path"]))["stage"] for one in updates} == {stage}
        return {"norm": struct.pack(">d", float(sum(one["tokens"] for one in updates))).hex()}

    def _apply(self, *, state: str, round: int, updates: list[Fields], tied: list[Fields], norms: list[str]) -> Fields:
        if state != id_of(self.state):
            raise WorkerRefused("FP-105", "holds another state; load it")
        assert len(norms) == self.stages
        parts = [self.state, *(Path(one["path"]).read_bytes() for one in updates), *map(str.encode, norms)]
        self.state, self.round = sha256(b"".join(parts)).hexdigest().encode().ljust(STATE_BYTES, b"."), 0
        return {"state": id_of(self.state), "path": str(self._write(f"state-{round}", self.state))}

    def _check(self, *, stage: int, update: Fields) -> Fields:
        if read_stage_update(Path(update["path"]))["stage"] != stage:
            raise WorkerRefused("FP-107", "update: of another stage")
        return {"values": 10}
