"""A driver's trunk behind a worker's requests: microbatches are driven, several at once, and experts asked for.

The thread of a microbatch waits for the experts of each layer; `answered` brings them from the thread that reads
requests. What is driven cannot be undone: where less is to count, nothing is, and the driver takes its microbatches
through again.

IO: as `desk`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.errors import ActivationError, BlobError, HolderError, RequestError
from p2p_llm_forge.stages import requests
from p2p_llm_forge.stages.experts import wire
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.desk import PieceDesk, Reply, Report
from p2p_llm_forge.stages.experts.gate import Lost
from p2p_llm_forge.stages.experts.groups import Serving
from p2p_llm_forge.stages.experts.remote import Exchange, Passage
from p2p_llm_forge.stages.experts.requests import Evaluation, TrunkAnswer, TrunkDrive, TrunkEvaluate
from p2p_llm_forge.stages.experts.trunk import Trunk
from p2p_llm_forge.stages.requests import Place
from p2p_llm_forge.stages.seeds import stage_seed
from p2p_llm_forge.stages.shrink import draws
from p2p_llm_forge.stages.tags import Written
from p2p_llm_forge.stages.window import Window

_MOST_NATS = 1e6


class TrunkDesk(PieceDesk):
    """The trunk in this worker."""

    def __init__(
        self, request: requests.StageOpen, folder: Path, device: torch.device, window: Window,
        waiting: Callable[[], int], report: Report,
    ) -> None:  # fmt: skip
        """Build the trunk and load its state.

        Args:
            report: sends events.

        Raises:
            EngineError: the first blob that does not fit the others.
        """
        super().__init__(request, folder, window, waiting)
        manifest = load_manifest(Path(request.manifest))
        if manifest.sequence_length != self.spec.data.sequence_length:
            found = manifest.sequence_length
            raise BlobError(f"manifest: sequence_length is {found}, the spec says {self.spec.data.sequence_length}")
        if not request.shards:
            raise RequestError("stage_open: the trunk reads the data; open it with the shards")
        self._shards = Shards(manifest, [Path(path) for path in request.shards])
        self._sampler = Sampler(
            seed=self.spec.seed, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots
        )
        self._report, self._numbers = report, count(1)
        self._asked: dict[int, queue.SimpleQueue[TrunkAnswer]] = {}
        """By number of the ask: where its answer is waited for."""
        self._under_way: dict[int, TrunkDrive | TrunkEvaluate] = {}
        """By microbatch; that of an evaluation, which is alone, is -1."""
        self._beginning = threading.Lock()
        self._replies: dict[int, Reply] = {}
        """Of what was driven in this round."""
        self.trunk = Trunk(
            config=self.config, held=self.held, exchange=Exchange(self._forward, self._backward), device=device,
            folder=folder / "updates",
        )  # fmt: skip

    def answered(self, answer: TrunkAnswer) -> None:
        """An ask is answered; for any thread."""
        if (waiting := self._asked.get(answer.ask)) is not None:
            waiting.put(answer)

    @property
    def at_once(self) -> int:
        """Microbatches that may be driven at a time: one where dropout is to repeat, whose seed all threads share."""
        assert self.spec.experts is not None
        return 1 if draws(self.config) else self.spec.experts.in_flight

    @property
    def side_by_side(self) -> int:
        """Microbatches that are driven just now."""
        return max(1, len(self._under_way))

    def done(self) -> list[int]:
        """The microbatches that count."""
        return self.trunk.manifest()

    # ------------------------------------------------------------------ driving

    def _pass(self, request: requests.Tagged) -> tuple[str, Reply]:
        if not isinstance(request, TrunkDrive):
            raise RequestError(f"{type(request).__name__}: this worker holds the trunk")
        number, serving = request.microbatch, self._serving(request)
        with self._beginning:
            if number in self._replies:
                return "done", self._replies[number]
            if number in self._under_way:
                return "busy", {"wait_s": round(self._service_s, 6)}
            self._under_way[number] = request
        try:
            return self._drive(number, serving)
        finally:
            del self._under_way[number]

    def _drive(self, number: int, serving: Serving) -> tuple[str, Reply]:
        first = self.start + number * self.sequences
        tokens_BL = torch.from_numpy(self._shards.read(self._sampler.windows(first, self.sequences)))
        try:
            driven = self.trunk.drive(
                number, first, tokens_BL, serving, stage_seed(self.spec.seed, self.round, number, 0)
            )
        except HolderError as exc:
            return "failed", {"holder": exc.holder or "", "why": exc.message}
        lost = sum(driven.lost.values(), Lost())
        self._replies[number] = {
            "loss": round(sum(driven.losses) / len(driven.losses)),
            "lost": {"tokens": lost.tokens, "weakened": lost.weakened, "silenced": lost.silenced},
        }
        return "done", self._replies[number]

    def _serving(self, request: TrunkDrive | TrunkEvaluate) -> Serving:
        groups = self.placed.groups
        if len(request.holders) != groups.count:
            raise RequestError(f"{request.do}: {len(request.holders)} holders for {groups.count} groups")
        return Serving.of(groups, [holder or None for holder in request.holders], layers=len(self.placed.fused))

    def _evaluate(self, request: Evaluation) -> Reply:
        if not isinstance(request, TrunkEvaluate):
            raise RequestError(f"{type(request).__name__}: this worker holds the trunk")
        windows = self._sampler.held_out(request.start + self.sequences)[request.start :]
        if not len(windows):
            return {"answer": "done", "loss": 0, "tokens": 0, "bytes": 0}
        tokens_BL = torch.from_numpy(self._shards.read(windows))
        serving = self._serving(request)
        self._under_way[-1] = request
        try:
            losses_B = self.trunk.evaluate(tokens_BL, serving)
        except HolderError as exc:
            return {"answer": "failed", "holder": exc.holder or "", "why": exc.message}
        finally:
            del self._under_way[-1]
        loss = float(losses_B.mean())
        if not 0.0 <= loss < _MOST_NATS:
            raise ActivationError(f"evaluate: the loss of this state is {loss}")
        return {"answer": "done", "loss": round(loss * 1e6), "tokens": tokens_BL[:, 1:].numel(), "bytes": 0}

    def _forward(self, passage: Passage, calls: Sequence[Call]) -> list[Tensor]:
        return self._ask("forward", passage, calls, ())

    def _backward(self, passage: Passage, calls: Sequence[Call], gradients: Sequence[Tensor]) -> list[Tensor]:
        return self._ask("backward", passage, calls, gradients)

    def _ask(
        self, kind: str, passage: Passage, calls: Sequence[Call], gradients: Sequence[Tensor]
    ) -> list[Tensor]:
        request, number = self._under_way[passage.microbatch], next(self._numbers)
        told, at, places = [], 0, []
        for index, call in enumerate(calls):
            numbers, data = wire.encode(call, self.kind)
            self.window.put(_within(request.x, at, len(data)), data)
            if isinstance(request, TrunkDrive) and gradients:
                like = Call(
                    layer=call.layer, holder="", experts=call.experts, counts=call.counts, tokens_SD=gradients[index]
                )
                self.window.put(_within(request.gradient, at, len(data)), wire.encode(like, self.kind)[1])
            told.append({**numbers, "holder": call.holder, "bytes": len(data)})
            places.append(_within(request.reply, at, len(data)))
            at += len(data)
        self._asked[number] = queue.SimpleQueue[TrunkAnswer]()
        self._report({"id": request.id, "event": "ask", "ask": number, "kind": kind, "calls": told})
        answer = self._asked[number].get()
        del self._asked[number]
        if answer.failed:
            raise HolderError(f"{answer.failed[:16]}: does not serve its experts", holder=answer.failed)
        return [self._reply(call, place) for call, place in zip(calls, places, strict=True)]

    def _reply(self, call: Call, place: Place) -> Tensor:
        try:
            return wire.decode_like(call, self.window.part(place), self.kind, f"answer of {call.holder[:16]}")
        except ActivationError as exc:
            raise HolderError(exc.message, holder=call.holder) from exc

    # ------------------------------------------------------------------ rounds

    def _anew(self) -> None:
        self.trunk.begin()
        self._replies.clear()

    def _load(self, path: Path) -> None:
        self.trunk.load(path)
        self.round = 0
        self._replies.clear()

    def _begin(self, *, anew: bool) -> None:
        if anew:
            self._anew()

    def _freeze(self, manifest: list[int]) -> list[int]:
        if not set(self.done()) <= set(manifest):
            self._anew()
        return sorted(set(manifest) - set(self.done()))

    def _written(self, manifest: list[int]) -> Written:
        return self.trunk.write()

    def _apply(self, request: requests.StageApply) -> Path:
        path = self.trunk.apply(request.state, request.round, request.updates, request.norms, request.whole)
        self._replies.clear()
        return path


def _within(place: Place, at: int, size: int) -> Place:
    if at + size > place.bytes:
        raise RequestError(f"ask: {at + size} bytes, its place has room for {place.bytes}")
    return Place(at=place.at + at, bytes=size)
