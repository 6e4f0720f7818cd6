"""A group's shard behind a worker's requests: calls in, replies out, and which of them count.

A driver's call for a layer takes the place of an earlier one for it, so a microbatch may be driven again. It counts
once the driver has said which calls it is made of.

IO: as `desk`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from p2p_llm_forge.errors import RequestError
from p2p_llm_forge.stages import activations, requests
from p2p_llm_forge.stages.experts import wire
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.desk import PieceDesk, Reply
from p2p_llm_forge.stages.experts.manifest import Asked
from p2p_llm_forge.stages.experts.requests import (
    Evaluation,
    ExpertBackward,
    ExpertCount,
    ExpertEvaluate,
    ExpertForward,
    ExpertPass,
)
from p2p_llm_forge.stages.experts.shard import ExpertShard
from p2p_llm_forge.stages.tags import Tag, Written
from p2p_llm_forge.stages.window import Window


class ShardDesk(PieceDesk):
    """One group's experts in this worker."""

    def __init__(
        self, request: requests.StageOpen, folder: Path, device: torch.device, window: Window,
        waiting: Callable[[], int],
    ) -> None:  # fmt: skip
        """Load the shard. Raises EngineError."""
        super().__init__(request, folder, window, waiting)
        if self.index < 1:
            raise RequestError("stage_open: stage 0 is the trunk")
        self.shard = ExpertShard(
            held=self.held, span=self.placed.groups.span(self.index - 1), fused=self.placed.fused,
            sequences=self.sequences, keep_bytes=request.keep_bytes, device=device, folder=folder / "updates",
        )  # fmt: skip
        self._sums: dict[tuple[int, int], str] = {}
        """By microbatch and layer, of the newest backward call that was done."""
        self._counted: dict[int, Asked] = {}

    def done(self) -> list[int]:
        """The microbatches that count."""
        return sorted(self._counted)

    def _pass(self, request: requests.Tagged) -> tuple[str, Reply]:
        if isinstance(request, ExpertCount):
            return self._count(request), {}
        if not isinstance(request, ExpertForward | ExpertBackward):
            raise RequestError(f"{type(request).__name__}: this worker holds experts")
        return self._serve(request)

    def _serve(self, request: ExpertForward | ExpertBackward) -> tuple[str, Reply]:
        x = self.window.part(request.x)
        call, tag = self._call(request), _tag(request)
        if isinstance(request, ExpertForward):
            reply = self.shard.forward(tag, call)
        else:
            gradient = self.window.part(request.gradient)
            gradient_SD = wire.decode_like(call, gradient, self.kind, "gradients")
            found, key = digest(request, x, gradient), (request.microbatch, request.layer)
            layers = self.shard.manifest().get(request.microbatch, frozenset())
            if request.layer in layers and self._sums.get(key) != found:
                self._counted.pop(request.microbatch, None)
                if not self.shard.keep(request.microbatch, layers - {request.layer}):
                    return "missing", {}
            reply = self.shard.backward(tag, call, gradient_SD)
            self._sums[key] = found
        assert reply.values_SD is not None  # round and state were looked at
        return "done", {"bytes": self.window.put(request.reply, activations.encode(reply.values_SD, self.kind))}

    def _call(self, request: ExpertPass | ExpertEvaluate) -> Call:
        return wire.decode(
            {"layer": request.layer, "experts": request.experts, "counts": request.counts},
            self.window.part(request.x), self.kind, hidden=self.placed.fused[0].hidden,
            most_pairs=self.placed.most_pairs(self.spec), holder="",
        )  # fmt: skip

    def _evaluate(self, request: Evaluation) -> Reply:
        if not isinstance(request, ExpertEvaluate):
            raise RequestError(f"{type(request).__name__}: this worker holds experts")
        outputs_SD = self.shard.evaluate(self._call(request))
        return {
            "answer": "done", "bytes": self.window.put(request.reply, activations.encode(outputs_SD, self.kind)),
        }  # fmt: skip

    def _count(self, request: ExpertCount) -> str:
        number, wanted = request.microbatch, {call.layer for call in request.calls}
        here = self.shard.manifest().get(number, frozenset())
        same = all(self._sums.get((number, call.layer)) == call.sum for call in request.calls)
        if not wanted <= here or not same or not self.shard.keep(number, frozenset(wanted)):
            self._counted.pop(number, None)
            return "missing"
        self._counted[number] = Asked(layers=frozenset(wanted), tokens=request.tokens)
        return "done"

    # ------------------------------------------------------------------ rounds

    def _forget(self) -> None:
        self._sums.clear()
        self._counted.clear()

    def _load(self, path: Path) -> None:
        self.shard.load(path)
        self.round = 0
        self._forget()

    def _begin(self, *, anew: bool) -> None:
        before = self.shard.round
        self.shard.begin(self.round, self.start, self.microbatches, anew=anew)
        if anew or before != self.round:
            self._forget()

    def _freeze(self, manifest: list[int]) -> list[int]:
        wanted = {number: self._counted[number] for number in manifest if number in self._counted}
        lost = set(self.shard.freeze(wanted))
        self._counted = {number: asked for number, asked in wanted.items() if number not in lost}
        return sorted(set(manifest) - self._counted.keys())

    def _written(self, manifest: list[int]) -> Written:
        return self.shard.write({number: self._counted[number] for number in manifest})

    def _apply(self, request: requests.StageApply) -> Path:
        path = self.shard.apply(request.state, request.round, request.updates, request.norms, request.whole)
        self._forget()
        return path


def digest(request: ExpertPass, x: memoryview, gradient: memoryview) -> str:
    """What a daemon reckons too: of what was asked, as it travelled."""
    found = hashlib.sha256(repr((request.layer, list(request.experts), list(request.counts))).encode())
    found.update(x)
    found.update(gradient)
    return found.hexdigest()


def _tag(request: requests.Tagged) -> Tag:
    return Tag(round=request.round, microbatch=request.microbatch, state=request.state, tokens=request.tokens)
