"""Serves a worker's requests about its stage: opens the replica, hands it tensors, answers in JSON.

IO: blobs, the worker's folder, the memory shared with the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from p2p_llm_forge import model
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.errors import BlobError, RequestError, UpdateError
from p2p_llm_forge.stages import activations, requests
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.stages.held import Held, decode
from p2p_llm_forge.stages.replica import Replica
from p2p_llm_forge.stages.requests import Place, Tagged
from p2p_llm_forge.stages.split import build, layouts
from p2p_llm_forge.stages.step import Tie
from p2p_llm_forge.stages.tags import Answer, Part, Tag
from p2p_llm_forge.stages.window import Window

_SMOOTH = 0.2
"""Weight of the newest pass in the mean time of passes."""

Reply = dict[str, Any]


@dataclass
class Pace:
    """Mean time that passes take."""

    forward_s: float = 0.0
    backward_s: float = 0.0

    def took(self, kind: str, seconds: float) -> None:
        """Take another pass into the mean."""
        before = getattr(self, kind)
        setattr(self, kind, seconds if before == 0.0 else before + _SMOOTH * (seconds - before))


class Desk:
    """The stage of one worker. All methods but `busy` and `check` belong to the main thread."""

    def __init__(
        self, request: requests.StageOpen, folder: Path, device: torch.device, window: Window, waiting: Callable[[], int]
    ) -> None:
        """Build the stage and load its state.

        Args:
            window: where tensors come and go.
            waiting: how many requests wait.

        Raises:
            EngineError: the first blob that does not fit the others.
        """
        spec = RunSpec.from_canonical(request.config)
        if spec.pipeline is None:
            raise RequestError("stage_open: the run has no pipeline; send open")
        if not request.stage < len(request.layers) == spec.pipeline.stages or min(request.layers) < 1:
            raise RequestError(
                f"stage_open: stage {request.stage} of layers {request.layers}, the run has {spec.pipeline.stages} stages"
            )
        self._window, self._waiting, self._pace = window, waiting, Pace()
        config = model.config_from_blob(read_blob(Path(request.model), model.LIMIT_BYTES, "model blob"))
        self._manifest = load_manifest(Path(request.manifest))
        if self._manifest.sequence_length != spec.data.sequence_length:
            found = self._manifest.sequence_length
            raise BlobError(f"manifest: sequence_length is {found}, the spec says {spec.data.sequence_length}")
        self._shards = Shards(self._manifest, [Path(path) for path in request.shards]) if request.shards else None
        self._spec = spec
        self.part = Part(
            index=request.stage, stages=spec.pipeline.stages, sequences=spec.pipeline.microbatch_size,
            length=spec.data.sequence_length, width=model.width(config), vocabulary=model.vocabulary(config),
            activations=spec.pipeline.activations, seed=spec.seed,
        )  # fmt: skip
        self.replica = self._open(request, config, folder, device)

    def _open(self, request: requests.StageOpen, config: Any, folder: Path, device: torch.device) -> Replica:
        cut, index, training = Cut.of_counts(request.layers), request.stage, self._spec.training
        self._layouts = layouts(config, cut, training.outer)
        other = {0: -1, cut.stages() - 1: 0}.get(index)
        own = self._layouts[index]
        tie = None if other is None else Tie.of(own, self._layouts[other], first=index == 0)
        held = Held(Path(request.state), own, index=index, tie=tie, spec=training, folder=folder / "states")
        return Replica(
            build(config, cut, index), self.part, held,
            device=device, keep_bytes=request.keep_bytes, folder=folder / "updates",
        )  # fmt: skip

    def opened(self) -> Reply:
        """The answer to `stage_open`."""
        held = self.replica.held
        return {
            "state": held.id, "parameters": held.layout.parameters, "tensor_bytes": self.part.tensor_bytes,
            "tied": int(held.tie is not None),
        }  # fmt: skip

    def do(self, request: requests.StageRequest) -> Reply:
        """Answer one request. Raises EngineError."""
        replica = self.replica
        match request:
            case requests.StageForward() | requests.StageBackward() | requests.StageUndo():
                return self._pass(request)
            case requests.StageRead():
                return self._read(request)
            case requests.StageLoad():
                replica.load(Path(request.state))
                return {"state": replica.held.id}
            case requests.StageBegin():
                replica.begin(request.round, request.start, request.microbatches)
                return {"state": replica.held.id, "done": replica.manifest()}
            case requests.StageManifest():
                return {"round": replica.round, "state": replica.held.id, "done": replica.manifest()}
            case requests.StageApply():
                return self._apply(request)
            case requests.StageNorm():
                return {"norm": replica.held.norm(request.state, request.updates, request.tied)}
        return self._end(request)

    def _end(self, request: requests.StageRequest) -> Reply:
        """What belongs to the round under way."""
        assert isinstance(request, requests.StageConfirm | requests.StageFreeze | requests.StageWrite)
        replica = self.replica
        if request.round != replica.round:
            return self._told(Answer(kind="stale"), 0.0)
        if isinstance(request, requests.StageConfirm):
            replica.confirm(request.microbatches)
            return {"answer": "done"}
        beyond = [number for number in request.manifest if not 0 <= number < replica.microbatches]
        if beyond:
            raise RequestError(f"manifest: microbatch {beyond[0]}, round {replica.round} has {replica.microbatches}")
        if isinstance(request, requests.StageFreeze):
            return {"answer": "done", "lacking": replica.freeze(request.manifest)}
        found = replica.write(request.manifest)
        return {
            "answer": "done", "update": str(found.path), "tokens": found.tokens, "loss": found.loss,
            "leaves": found.leaves, "slots": len(set(request.manifest)) * self.part.sequences,
        }  # fmt: skip

    def _pass(self, request: requests.StageForward | requests.StageBackward | requests.StageUndo) -> Reply:
        began = time.perf_counter()
        tag = _tag(request)
        match request:
            case requests.StageForward():
                found = self.replica.forward(tag, self._window.part(request.x))
            case requests.StageBackward():
                found = self.replica.backward(tag, self._given(request.x), self._window.part(request.gradient))
            case requests.StageUndo():
                found = self.replica.undo(tag, self._given(request.x), self._given(request.gradient))
        written = 0 if isinstance(request, requests.StageUndo) else self._window.put(request.reply, found.data)
        kind = "forward_s" if isinstance(request, requests.StageForward) else "backward_s"
        if found.kind == "done":
            self._pace.took(kind, time.perf_counter() - began)
        return {**self._told(found, getattr(self._pace, kind)), "bytes": written, "loss": found.loss}

    def _given(self, place: Place | None) -> memoryview | None:
        return None if place is None else self._window.part(place)

    def _told(self, found: Answer, service_s: float) -> Reply:
        waiting = self._waiting()
        told: Reply = {"answer": found.kind, "queue": waiting, "service_us": round(service_s * 1e6)}
        if found.kind == "stale":
            told |= {"round": self.replica.round, "state": self.replica.held.id}
        if found.kind == "busy":
            told["wait_s"] = self._wait_s(waiting)
        return told

    def _wait_s(self, waiting: int) -> float:
        return round((waiting + 1) * (self._pace.forward_s + self._pace.backward_s), 6)

    def busy(self, waiting: int) -> Reply:
        """The answer to a pass for which too many wait already; for any thread."""
        return {"answer": "busy", "queue": waiting, "service_us": 0, "wait_s": self._wait_s(waiting)}

    def _read(self, request: requests.StageRead) -> Reply:
        if self._shards is None:
            raise RequestError("this stage was opened without shards; open it with them to read")
        manifest = self._manifest
        sampler = Sampler(
            seed=self._spec.seed, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots
        )
        tokens = torch.from_numpy(self._shards.read(sampler.windows(request.start, self.part.sequences)))
        inputs = self._window.put(request.reply, activations.encode(tokens[:, :-1], "tokens"))
        targets = self._window.put(request.targets, activations.encode(tokens[:, 1:], "tokens"))
        return {"bytes": inputs, "targets": targets, "tokens": self.part.sequences * self.part.length}

    def _apply(self, request: requests.StageApply) -> Reply:
        replica = self.replica
        if len(request.norms) != self.part.stages:
            raise RequestError(f"norms: {len(request.norms)} of them, the run has {self.part.stages} stages")
        path = replica.apply(request.state, request.round, request.updates, request.tied, request.norms)
        return {"state": replica.held.id, "path": str(path)}

    def check(self, request: requests.StageCheck) -> Reply:
        """Decode an update strictly; safe beside the rest."""
        if request.stage >= len(self._layouts):
            raise RequestError(f"stage_check: stage {request.stage}, the run has {len(self._layouts)}")
        found = decode(request.update, self._layouts[request.stage], self._spec.training)
        if not found.values.any():
            raise UpdateError(f"update {Path(request.update.path).name}: empty: all of its values are zero")
        return {"values": found.count}


def _tag(request: Tagged) -> Tag:
    return Tag(round=request.round, microbatch=request.microbatch, state=request.state, tokens=request.tokens)
