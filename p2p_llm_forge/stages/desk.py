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

from p2p_llm_forge import microbatch, model
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.errors import BlobError, DeviceError, RequestError, UpdateError
from p2p_llm_forge.memory import Room, check_fits
from p2p_llm_forge.stages import activations, anatomy, costs, fit, requests, start
from p2p_llm_forge.stages.held import Held, decode
from p2p_llm_forge.stages.replica import Replica
from p2p_llm_forge.stages.requests import Place, Tagged
from p2p_llm_forge.stages.split import build, layouts
from p2p_llm_forge.stages.step import Partner
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
        self, request: requests.StageOpen, folder: Path, device: torch.device, window: Window,
        waiting: Callable[[], int],
    ) -> None:  # fmt: skip
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
        if request.stage >= spec.pipeline.stages:
            raise RequestError(f"stage_open: stage {request.stage}, the run has {spec.pipeline.stages}, from 0")
        self._window, self._waiting, self._pace, self._device = window, waiting, Pace(), device
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
        cut, index, training = start.cut_of(self._spec), request.stage, self._spec.training
        known = anatomy.of(config, cut.stages())
        room = Room.on(device, request.memory_bytes)
        reckoned = costs.estimate(config, sequence_length=self._spec.data.sequence_length, known=known)
        check_fits(fit.of_stage(config, reckoned, cut, index, self._spec), room.main_bytes, room.gpu_bytes)
        self._layouts = layouts(config, cut, training.outer, known)
        held = Held(Path(request.state), self._layouts, index=index, spec=training, folder=folder / "states")
        return Replica(
            build(config, cut, index, known), self.part, held,
            device=device, keep_bytes=request.keep_bytes, keep_passes=request.keep_passes, folder=folder / "updates",
        )  # fmt: skip

    def opened(self) -> Reply:
        """The answer to `stage_open`."""
        held = self.replica.held
        return {
            "state": held.id, "parameters": held.layout.parameters, "tensor_bytes": self.part.tensor_bytes,
            "tied": int(held.partner is not None), "ties": int(Partner.of(self._layouts, 0) is not None),
        }  # fmt: skip

    def do(self, request: requests.StageRequest) -> Reply:
        """Answer one request. Raises EngineError."""
        try:
            return self._do(request)
        except (RuntimeError, MemoryError) as exc:
            if not microbatch.out_of_memory(exc):
                raise
            fault = exc
        self.replica.spare()
        microbatch.free_again(self._device)
        raise DeviceError("stage: out of memory; use a smaller pipeline.microbatch_size, or more stages") from fault

    def _do(self, request: requests.StageRequest) -> Reply:
        replica = self.replica
        match request:
            case requests.StageForward() | requests.StageBackward() | requests.StageUndo():
                return self._pass(request)
            case requests.StageRead():
                return self._read(request)
            case requests.StageEvaluate():
                return self._evaluate(request)
            case requests.StageLoad():
                replica.load(Path(request.state))
                return {"state": replica.held.id}
            case requests.StageBegin():
                replica.begin(request.round, request.start, request.microbatches, anew=bool(request.anew))
                return {"state": replica.held.id, "done": replica.manifest()}
            case requests.StageManifest():
                return {"round": replica.round, "state": replica.held.id, "done": replica.manifest()}
            case requests.StageApply():
                return self._apply(request)
            case requests.StageNorm():
                return {"norm": self._norm(request)}
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
        took = time.perf_counter() - began
        if found.kind == "done":
            self._pace.took(kind, took)
        told = self._told(found, getattr(self._pace, kind))
        return {**told, "took_us": round(took * 1e6), "bytes": written, "loss": found.loss}

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

    def _evaluate(self, request: requests.StageEvaluate) -> Reply:
        if request.state != self.replica.held.id:
            return self._told(Answer(kind="stale"), 0.0)
        part, targets = self._window.part(request.x), self._given(request.targets)
        data, loss, tokens = self.replica.work.evaluate(part, targets)
        written = self._window.put(request.reply, data)
        return {"answer": "done", "bytes": written, "loss": round(loss * 1e6), "tokens": tokens}

    def _read(self, request: requests.StageRead) -> Reply:
        tokens, targets, counted = self.microbatch(request.start, held_out=bool(request.held_out))
        read = self._window.put(request.reply, tokens)
        return {"bytes": read, "targets": self._window.put(request.targets, targets), "tokens": counted}

    def microbatch(self, first: int, *, held_out: bool = False) -> tuple[bytes, bytes, int]:
        """The microbatch that begins with this slot, or held-out sequence: tokens and targets as they travel, and how
        many targets there are; a held-out one that is short is filled up with sequences that have none.

        Raises:
            RequestError: opened without shards. BlobError: shards that are not the run's.
        """
        if self._shards is None:
            raise RequestError("this stage was opened without shards; open it with them to read")
        manifest, size = self._manifest, self.part.sequences
        sampler = Sampler(
            seed=self._spec.seed, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots
        )
        windows = sampler.held_out(first + size)[first:] if held_out else sampler.windows(first, size)
        read = torch.from_numpy(self._shards.read(windows))
        tokens = torch.zeros(size, self.part.length, dtype=torch.int64)
        targets = torch.full_like(tokens, activations.NO_TARGET)
        tokens[: len(read)], targets[: len(read)] = read[:, :-1], read[:, 1:]
        return activations.encode(tokens, "tokens"), activations.encode(targets, "tokens"), read[:, 1:].numel()

    def _norm(self, request: requests.StageNorm) -> str:
        held = self.replica.held
        if request.stage is None or request.stage == self.part.index:
            return held.norm(request.state, request.updates, request.tied)
        self._check_stage(request.stage)
        return held.norm_of(request.stage, request.updates, request.tied)

    def _check_stage(self, stage: int) -> None:
        if stage >= self.part.stages:
            raise RequestError(f"stage {stage}: the run has {self.part.stages}, from 0")

    def _apply(self, request: requests.StageApply) -> Reply:
        replica = self.replica
        if len(request.norms) != self.part.stages:
            raise RequestError(f"norms: {len(request.norms)} of them, the run has {self.part.stages} stages")
        path = replica.apply(request.state, request.round, request.updates, request.tied, request.norms)
        return {"state": replica.held.id, "path": str(path)}

    def check(self, request: requests.StageCheck) -> Reply:
        """Decode an update strictly; safe beside the rest."""
        self._check_stage(request.stage)
        found = decode(request.update, self._layouts[request.stage], self._spec.training)
        if not found.values.any():
            raise UpdateError(f"update {Path(request.update.path).name}: empty: all of its values are zero")
        return {"values": found.count}


def _tag(request: Tagged) -> Tag:
    return Tag(round=request.round, microbatch=request.microbatch, state=request.state, tokens=request.tokens)
