"""Serves a worker's requests about its piece of a run with experts: the trunk, or one group's shard.

IO: blobs, the worker's folder, the memory shared with the daemon.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2p_llm_forge import microbatch, model
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import DeviceError, RequestError
from p2p_llm_forge.stages import activations, requests
from p2p_llm_forge.stages.experts.requests import Evaluation
from p2p_llm_forge.stages.experts.start import Placed
from p2p_llm_forge.stages.held import Held, decode
from p2p_llm_forge.stages.tags import Written
from p2p_llm_forge.stages.window import Window

_SMOOTH = 0.2
"""Weight of the newest pass in the mean time of passes."""

Reply = dict[str, Any]
Report = Callable[[Reply], None]


class PieceDesk(ABC):
    """What trunk and shards have in common. All methods but `busy` and `check` belong to the main thread."""

    def __init__(self, request: requests.StageOpen, folder: Path, window: Window, waiting: Callable[[], int]) -> None:
        """Read what the piece is of. Raises EngineError: the first blob that does not fit the others."""
        spec = RunSpec.from_canonical(request.config)
        if spec.experts is None:
            raise RequestError("stage_open: the run places no experts")
        self.config = model.config_from_blob(read_blob(Path(request.model), model.LIMIT_BYTES, "model blob"))
        self.spec, self.placed, self.index = spec, Placed.of(spec, self.config), request.stage
        self.kind, self.window = spec.experts.activations, window
        layouts = [piece.layout for piece in self.placed.pieces]
        if not 0 <= request.stage < len(layouts):
            raise RequestError(f"stage_open: stage {request.stage}, the run has {len(layouts)}, from 0")
        self._layouts, self._waiting = layouts, waiting
        self.held = Held(
            Path(request.state), layouts, index=request.stage, spec=spec.training, folder=folder / "states"
        )
        self.round = self.start = self.microbatches = 0
        self._service_s = 0.0

    @property
    def sequences(self) -> int:
        """Of a microbatch."""
        assert self.spec.experts is not None
        return self.spec.experts.microbatch_size

    @property
    def side_by_side(self) -> int:
        """Passes that are under way just now, which share the time."""
        return 1

    def opened(self) -> Reply:
        """The answer to `stage_open`."""
        pairs, hidden = self.placed.most_pairs(self.spec), self.placed.fused[0].hidden
        apart = activations.encoded_bytes(self.kind, (1, hidden)) * self.placed.groups.count
        return {
            "state": self.held.id, "parameters": self.held.layout.parameters, "tied": 0, "ties": 0,
            "tensor_bytes": activations.encoded_bytes(self.kind, (pairs, hidden)) + apart,
            "layers": len(self.placed.fused),
        }  # fmt: skip

    def do(self, request: requests.StageRequest) -> Reply:
        """Answer one request. Raises EngineError."""
        try:
            return self._do(request)
        except (RuntimeError, MemoryError) as exc:
            if not microbatch.out_of_memory(exc):
                raise
            fault = exc
        raise DeviceError("experts: out of memory; use a smaller experts.microbatch_size, or more groups") from fault

    def _do(self, request: requests.StageRequest) -> Reply:
        match request:
            case requests.StageLoad():
                self._load(Path(request.state))
                return {"state": self.held.id}
            case requests.StageBegin():
                self.round, self.start, self.microbatches = request.round, request.start, request.microbatches
                self._begin(anew=bool(request.anew))
                return {"state": self.held.id, "done": self.done()}
            case requests.StageManifest():
                return {"round": self.round, "state": self.held.id, "done": self.done()}
            case requests.StageNorm():
                index = self.index if request.stage is None else request.stage
                self._check_stage(index)
                return {"norm": self._norm(request, index)}
            case requests.StageApply():
                path = self._apply(request)
                self.round = 0
                return {"state": self.held.id, "path": str(path)}
            case requests.StageFreeze():
                return self._current(request.round) or {"answer": "done", "lacking": self._freeze(request.manifest)}
            case requests.StageWrite():
                return self._current(request.round) or self._write(request)
            case Evaluation():
                return self._evaluate(request) if request.state == self.held.id else self._told("stale")
            case requests.Tagged():
                return self._tagged(request)
        raise RequestError(f"{type(request).__name__}: not in a run with experts on several peers")

    def _norm(self, request: requests.StageNorm, index: int) -> str:
        held = self.held
        if index == self.index:
            return held.norm(request.state, request.updates, request.tied, request.whole)
        return held.norm_of(index, request.updates, request.tied, request.whole)

    def _check_stage(self, stage: int) -> None:
        if stage >= len(self._layouts):
            raise RequestError(f"stage {stage}: the run has {len(self._layouts)}, from 0")

    def _write(self, request: requests.StageWrite) -> Reply:
        if lacking := self._freeze(request.manifest):
            raise RequestError(f"write: microbatch {lacking[0]} is not done")
        found = self._written(request.manifest)
        return {
            "answer": "done", "update": str(found.path), "tokens": found.tokens, "loss": found.loss,
            "leaves": found.leaves, "slots": len(set(request.manifest)) * self.sequences,
        }  # fmt: skip

    def check(self, request: requests.StageCheck) -> Reply:
        """Decode an update strictly; safe beside the rest. A group whose experts nobody chose may send zeros."""
        self._check_stage(request.stage)
        return {"values": decode(request.update, self._layouts[request.stage], self.spec.training).count}

    # ------------------------------------------------------------------ passes

    def _tagged(self, request: requests.Tagged) -> Reply:
        stale = self._current(request.round)
        if stale is not None or request.state != self.held.id:
            return stale or self._told("stale")
        if not request.microbatch < self.microbatches:
            raise RequestError(f"microbatch {request.microbatch}: round {self.round} has {self.microbatches}, from 0")
        began = time.perf_counter()
        answer, fields = self._pass(request)
        took = (time.perf_counter() - began) / self.side_by_side
        self._service_s = took if not self._service_s else self._service_s + _SMOOTH * (took - self._service_s)
        return {**self._told(answer), "took_us": round(took * 1e6), "bytes": 0, "loss": 0, **fields}

    def _current(self, round_number: int) -> Reply | None:
        return None if round_number == self.round else self._told("stale")

    def _told(self, answer: str) -> Reply:
        told: Reply = {"answer": answer, "queue": self._waiting(), "service_us": round(self._service_s * 1e6)}
        return told | ({"round": self.round, "state": self.held.id} if answer == "stale" else {})

    def busy(self, waiting: int) -> Reply:
        """The answer to a pass for which too many wait already; for any thread."""
        return {"answer": "busy", "queue": waiting, "service_us": 0, "wait_s": round(self._service_s * waiting, 6)}

    # ------------------------------------------------------------------ of each piece

    @abstractmethod
    def done(self) -> list[int]:
        """The microbatches that count."""

    @abstractmethod
    def _pass(self, request: requests.Tagged) -> tuple[str, Reply]: ...

    @abstractmethod
    def _evaluate(self, request: Evaluation) -> Reply: ...

    @abstractmethod
    def _load(self, path: Path) -> None: ...

    @abstractmethod
    def _begin(self, *, anew: bool) -> None: ...

    @abstractmethod
    def _freeze(self, manifest: list[int]) -> list[int]: ...

    @abstractmethod
    def _written(self, manifest: list[int]) -> Written: ...

    @abstractmethod
    def _apply(self, request: requests.StageApply) -> Path: ...
