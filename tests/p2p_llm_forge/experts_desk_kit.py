"""A trunk and two groups behind the requests of a worker, in one process: the daemon between them is the test.

IO: blobs, memory shared within the process.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.prepare import Prepared, prepare
from p2p_llm_forge.protocol import parse
from p2p_llm_forge.stages import requests
from p2p_llm_forge.stages.experts import requests as experts
from p2p_llm_forge.stages.experts.shard_desk import digest
from p2p_llm_forge.stages.front import Front

from .conftest import corpus_text, spec_fields

PART = 1 << 16
LANES = 2
"""So many requests may be under way at once; one in lane n has the parts from 3 n on, and the id n."""
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


class Piece:
    """One worker's front, and the memory that it shares."""

    def __init__(self, run: Prepared, folder: Path, stage: int) -> None:
        self.memory = os.memfd_create("test")
        os.ftruncate(self.memory, 3 * LANES * PART)
        self.front = Front(folder / f"work {stage}", torch.device("cpu"), self.memory, lambda: 0, self.event)
        self.holders: dict[str, Piece] = {}
        self.turns = threading.Lock()
        self.numbers: dict[int, int] = {}
        """By lane: the microbatch that is driven; -1: an evaluation."""
        self.before: Callable[[dict[str, Any]], None] = lambda event: None
        """Looks at an ask before it is answered."""
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

    def __call__(self, do: str, *, lane: int = 0, **more: Any) -> dict[str, Any]:
        """Make a request."""
        line = json.dumps({"id": lane, "do": do, **more}).encode()
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
        self.before(event)
        with self.turns:
            self._event(event)

    def _event(self, event: dict[str, Any]) -> None:
        failed, at, lane = "", 0, 3 * event["id"]
        number = self.numbers[event["id"]]
        for call in event["calls"]:
            size, holder = call["bytes"], self.holders.get(call["holder"])
            if holder is None:
                failed = call["holder"]
                break
            for part in (0, 1):
                holder.write(part, 0, self.read(lane + part, at, size))
            told = {"layer": call["layer"], "experts": call["experts"], "counts": call["counts"]}
            more = {"gradient": place(1, size)} if event["kind"] == "backward" else {}
            places = {"x": place(0, size), "reply": place(2, PART), **more}
            if number < 0:
                answer = holder("expert_evaluate", state=holder.state, **told, **places)
            else:
                answer = holder.passing(f"expert_{event['kind']}", number, **told, **places)
            assert (answer["answer"], answer["bytes"]) == ("done", size)
            if more:
                parts = [memoryview(self.read(lane + part, at, size)) for part in (0, 1)]
                told["bytes"] = [bytes(part) for part in parts]
                numbers = {key: told[key] for key in ("layer", "experts", "counts")}
                kind = experts.ExpertBackward.model_construct(**numbers)
                self.asked.append((call["holder"], told, digest(kind, *parts)))
            reply = holder.read(2, 0, size)
            if call["holder"] == "b" and self.garbage is not None:
                reply = (reply[: size - len(self.garbage)] if len(self.garbage) == 4 else b"") + self.garbage
            self.write(lane + 2, at, reply.ljust(size, b"\0"))
            at += size
        self.front.answered(experts.TrunkAnswer(id=2, do="trunk_answer", ask=event["ask"], failed=failed))

    def drive(self, number: int, *holders: str, lane: int = 0) -> dict[str, Any]:
        """A microbatch through the trunk."""
        self.numbers[lane], self.asked = number, []
        places = {name: place(3 * lane + part, PART) for part, name in enumerate(("x", "gradient", "reply"))}
        return self.passing("trunk_drive", number, lane=lane, holders=list(holders), **places)

    def evaluate(self, start: int, *holders: str) -> dict[str, Any]:
        """A microbatch of held-out sequences."""
        self.numbers[0] = -1
        places = {"x": place(0, PART), "reply": place(2, PART)}
        return self("trunk_evaluate", state=self.state, start=start, holders=list(holders), **places)


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
