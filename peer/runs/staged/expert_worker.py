"""The worker of a run with experts on several peers: it holds the trunk and drives it, or holds one group's experts.

While it drives, the trunk asks for the experts of each layer; whoever asked it to drive brings the answers.

IO: as `worker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ledger.entries import StageReceipt
from peer.blobs.store import BlobStore
from peer.errors import WorkerError
from peer.runs.files import RunFiles
from peer.runs.hardware import Hardware
from peer.runs.history import History
from peer.runs.run import Run
from peer.runs.staged.expert_messages import Asked, Counted
from peer.runs.staged.passed import Passed, Seen
from peer.runs.staged.worker import SLOTS, StageWorker
from peer.stages.messages import Kind
from peer.supervisor import Fields, Worker
from peer.tensors import Slot

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

Ask = Callable[[Kind, Sequence[Asked]], Awaitable[Sequence[bytes]]]
"""Has the holders of one layer make their passes, at once; their replies, each as long as its tokens."""


FAULT = "FP-453"
SPARE = 2
"""Slots beside those of the microbatches under way."""


class HolderLost(WorkerError):
    """A holder of experts does not serve a microbatch."""

    def __init__(self, account: str, code: str, reason: str) -> None:
        super().__init__(f"experts of {account[:16]}: {reason}")
        self.account, self.why = account, code


class ExpertWorker(StageWorker):
    """One piece in one process."""

    def __init__(
        self, *, run: Run, store: BlobStore, files: RunFiles, history: History, hardware: Hardware, folder: str = "work"
    ) -> None:
        """As `RunProcess`."""
        super().__init__(run=run, store=store, files=files, history=history, hardware=hardware, folder=folder)
        assert run.staged is not None
        self._slots = max(SLOTS, run.staged.in_flight + SPARE)
        self.masked: dict[str, int] = {}
        """What experts that nobody serves cost the round's microbatches so far, where they cost anything."""

    async def begin(self, round_number: int, start: int, microbatches: int) -> None:
        """Begin a round with nothing done."""
        self.masked = {}
        await super().begin(round_number, start, microbatches)

    async def drive(
        self, *, round_number: int, microbatch: int, tokens: int, holders: Sequence[str], ask: Ask
    ) -> Passed:
        """A microbatch through the trunk. Raises HolderLost, WorkerRefused, WorkerDied."""
        answer = await self._through(
            "trunk_drive", ask, "x", "gradient", round=round_number, microbatch=microbatch, state=self.state,
            tokens=tokens, holders=list(holders),
        )  # fmt: skip
        for name, figure in answer.get("lost", {}).items():
            self.masked[name] = self.masked.get(name, 0) + int(figure)
        return self._took(answer, b"", Kind.BACKWARD)

    async def evaluate(self, state: str, start: int, holders: Sequence[str], ask: Ask) -> Seen | None:
        """The loss of held-out samples from this one on, if `state` is what the trunk holds. Raises as `drive`."""
        answer = await self._through("trunk_evaluate", ask, "x", state=state, start=start, holders=list(holders))
        if answer["answer"] != "done":
            return None
        return Seen(data=b"", loss=int(answer["loss"]), tokens=int(answer["tokens"]))

    async def _through(self, do: str, ask: Ask, *places: str, **params: Any) -> Fields:
        """What the trunk answers once it has asked for all that it needs, in these places. Raises HolderLost."""
        worker, answering, lost = self._live(), set[asyncio.Task[None]](), list[HolderLost]()
        async with self._shared().slot() as slot:

            def on_event(event: Fields) -> None:
                if event.get("event") == "ask":
                    task = asyncio.create_task(_answer(worker, slot, event, ask, lost))
                    answering.add(task)
                    task.add_done_callback(answering.discard)

            try:
                answer = await slot.call(worker, do, {}, *places, "reply", on_event=on_event, **params)
            finally:
                for task in answering:
                    task.cancel()
        if answer["answer"] == "failed":
            raise lost[0] if lost else HolderLost(str(answer["holder"]), FAULT, str(answer["why"]))
        return answer

    async def outputs(self, state: str, asked: Asked) -> Seen | None:
        """A layer's outputs, of no round, if `state` is what is held. Raises WorkerRefused, WorkerDied."""
        async with self._shared().slot() as slot:
            answer = await slot.call(
                self._live(), "expert_evaluate", {"x": asked.x}, "reply", state=state, layer=asked.layer,
                experts=asked.experts, counts=asked.counts,
            )  # fmt: skip
            return Seen(data=bytes(slot.reply())) if answer["answer"] == "done" else None

    async def expert(
        self, kind: Kind, *, round_number: int, microbatch: int, tokens: int, asked: Asked
    ) -> Passed:
        """A pass of one layer's experts. Raises WorkerRefused, WorkerDied."""
        given: dict[str, Buffer] = {"x": asked.x}
        if kind is Kind.BACKWARD:
            given["gradient"] = asked.gradient
        async with self._shared().slot() as slot:
            answer = await slot.call(
                self._live(), f"expert_{kind.value}", given, "reply", round=round_number, microbatch=microbatch,
                state=self.state, tokens=tokens, layer=asked.layer, experts=asked.experts, counts=asked.counts,
            )  # fmt: skip
            data = bytes(slot.reply()) if answer["answer"] == "done" else b""
        return self._took(answer, data, kind)

    async def count(self, *, round_number: int, microbatch: int, tokens: int, calls: Sequence[Counted]) -> Passed:
        """A microbatch is made of these calls. Raises WorkerRefused, WorkerDied."""
        answer = await self._live().call(
            "expert_count", round=round_number, microbatch=microbatch, state=self.state, tokens=tokens,
            calls=[call.body() for call in calls],
        )  # fmt: skip
        return self._took(answer, b"", None)

    async def _settled(self, receipts: Sequence[StageReceipt], stage: int, account: str) -> Fields:
        """Groups that served less than the round divide by all of its tokens."""
        whole = sum(receipt.tokens for receipt in receipts if receipt.stage == 0)
        return {**await super()._settled(receipts, stage, account), "whole": whole}

    def _took(self, answer: Fields, data: bytes, kind: Kind | None) -> Passed:
        each_s, took_s = int(answer["service_us"]) / 1e6, int(answer.get("took_us", 0)) / 1e6
        self._busy_s += took_s
        if answer["answer"] == "done" and kind is not None:
            self.pace_s[kind] = each_s
        return Passed(
            kind=str(answer["answer"]), data=data, service_s=took_s, queue_s=int(answer["queue"]) * each_s,
            wait_s=float(answer.get("wait_s", 0.0)),
        )  # fmt: skip


async def _answer(worker: Worker, slot: Slot, event: Fields, ask: Ask, lost: list[HolderLost]) -> None:
    """Bring a trunk what it asked for, or who failed."""
    kind, x, gradient = Kind(event["kind"]), slot.part("x"), slot.part("gradient")
    calls, at = [], 0
    for call in event["calls"]:
        end = at + int(call["bytes"])
        calls.append(
            Asked(
                holder=call["holder"], layer=call["layer"], experts=call["experts"], counts=call["counts"],
                x=bytes(x[at:end]), gradient=bytes(gradient[at:end]) if kind is Kind.BACKWARD else b"",
            )
        )  # fmt: skip
        at = end
    failed = calls[0].holder  # unless it goes well: the worker waits for an answer in any case
    try:
        replies, at = await ask(kind, calls), 0
        into = slot.part("reply")
        for data in replies:
            into[at : at + len(data)] = data
            at += len(data)
        failed = ""
    except HolderLost as exc:
        lost.append(exc)
        failed = exc.account
    finally:
        await worker.call("trunk_answer", ask=event["ask"], failed=failed)
