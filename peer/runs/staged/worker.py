"""The worker of a run with stages: holds one stage, serves its microbatches, takes its steps.

What the worker is told comes to it in the order of the calls. Tensors go through the memory that both share.

IO: a worker process and the memory shared with it, the blob store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.entries import StageReceipt
from peer.blobs.store import BlobStore
from peer.errors import RunError, WorkerDied, WorkerRefused
from peer.files import write_atomic
from peer.runs.files import RunFiles
from peer.runs.hardware import Hardware
from peer.runs.history import History
from peer.runs.process import RunProcess
from peer.runs.run import Run
from peer.runs.staged.passed import Passed, Seen
from peer.stages.holding import Held
from peer.stages.messages import Kind
from peer.supervisor import Fields, Worker
from peer.tensors import Tensors

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

SLOTS = 8
"""Passes that wait at the worker or are made by it."""
UNSOUND = "FP-107"
"""The engine's code for an update that no honest member sends."""


class StageWorker(RunProcess):
    """One stage in one process. `stage` is the one it holds, `state` its state's id; -1 and empty: none."""

    def __init__(
        self, *, run: Run, store: BlobStore, files: RunFiles, history: History, hardware: Hardware, folder: str = "work"
    ) -> None:
        """As `RunProcess`."""
        super().__init__(run=run, store=store, files=files, history=history, hardware=hardware, folder=folder)
        self.stage = -1
        self.tensor_bytes = 0
        """The longest tensor that it takes or gives; 0 before it held a stage."""
        self.pace_s: dict[Kind, float] = {}
        """What a pass takes it, by kind."""
        self._slots = SLOTS
        self._tied = False
        self._round_at, self._busy_s = 0.0, 0.0
        """When the round began, and how long passes took since."""
        self._tensors: Tensors | None = None
        self._lost = False

    async def close(self) -> None:
        """End the process."""
        await super().close()
        self.stage = -1
        if self._tensors is not None:
            self._tensors.close()
            self._tensors = None

    # ------------------------------------------------------------------ what is here

    def served(self) -> int | None:
        """The stage that this peer served last in the run, also before a restart; None if none."""
        path = self.run.folder / "stage"
        number = int(path.read_text()) if path.exists() else -1
        return number if self.run.staged is not None and 0 <= number < self.run.staged.stages else None

    def newest_held(self) -> Held | None:
        """The newest certified state of that stage which is in our blob store."""
        stage, log = self.served(), self.run.log
        for number in range(log.certified_round, -1, -1) if stage is not None else ():
            states = log.states_after(number)
            if stage is not None and states and self._store.has(states[stage]):
                return number, stage, states[stage]
        return None

    def newest_state(self) -> tuple[int, str] | None:
        """(round, id) of the newest certified state of the run whose stage that we serve is here."""
        held = self.newest_held()
        return (held[0], self.run.log.state_after(held[0])) if held is not None else None

    def lost(self) -> bool:
        """Whether the process ended by itself since this was asked last."""
        if self._worker is not None and not self._worker.alive:
            self._worker, self.stage, self.state, self._lost = None, -1, "", True
        lost, self._lost = self._lost, False
        return lost

    # ------------------------------------------------------------------ the process

    async def load(self, stage: int, state: str) -> None:
        """Fetch a stage's state and hold it."""
        path = await self.fetch(state)
        async with self._turn:
            if self._worker is not None and self._worker.alive and self.stage == stage:
                self.state = str((await self._worker.call("stage_load", state=str(path)))["state"])
            else:
                await self._open(stage, path)
            if self.state != state:
                raise RunError("FP-406", f"worker of run {self.run.id[:16]}: holds {self.state[:16]}, not {state[:16]}")
        write_atomic(self.run.folder / "stage", str(stage).encode())

    async def _open(self, stage: int, path: Path) -> None:
        """A live worker with this stage. Call with `_turn` held."""
        base = await (self.files.base() if stage else self.files.all())  # drivers read the data
        files = {"shards": [], **{name: found for name, found in base.items() if name != "tokenizer"}}
        if self._tensors is None:
            self._tensors = Tensors(self._slots)
        if self._worker is None or not self._worker.alive:
            if self._worker is not None:
                await self._worker.kill()
            self._worker = await Worker.start(
                self._folder, threads=self.hardware.threads, device=self.hardware.device,
                tensors=self._tensors.descriptor,
            )  # fmt: skip
        self.stage, self.state = -1, ""
        answer = await self._worker.call(
            "stage_open",
            config=self.run.config,
            stage=stage,
            state=str(path),
            memory_bytes=self.hardware.memory_bytes,
            **files,
        )
        self._tensors.hold(int(answer["tensor_bytes"]))
        self.tensor_bytes, self._tied = int(answer["tensor_bytes"]), bool(answer["ties"])
        self.stage, self.state = stage, str(answer["state"])

    def _live(self) -> Worker:
        if self._worker is None or not self._worker.alive or self.stage < 0:
            raise WorkerDied(f"worker of run {self.run.id[:16]}: holds no stage")
        return self._worker

    @property
    def busy(self) -> float:
        """The share of the time since the round began that passes took."""
        return min(1.0, self._busy_s / max(time.monotonic() - self._round_at, 1e-3))

    # ------------------------------------------------------------------ a round

    async def begin(self, round_number: int, start: int, microbatches: int) -> None:
        """Begin a round with nothing done."""
        self._round_at, self._busy_s = time.monotonic(), 0.0
        await self._live().call("stage_begin", round=round_number, start=start, microbatches=microbatches, anew=1)

    async def read(self, start: int, *, held_out: bool = False) -> tuple[bytes, bytes, int]:
        """Tokens and targets of the microbatch that begins at this slot or held-out sample; how many targets."""
        worker = self._live()
        async with self._shared().slot() as slot:
            told = await slot.call(worker, "stage_read", {}, "reply", "targets", start=start, held_out=int(held_out))
            return bytes(slot.reply()), bytes(slot.reply("targets")), int(told["tokens"])

    async def look(self, state: str, x: Buffer, targets: Buffer | None) -> Seen | None:
        """The output without dropout, if `state` is what is held; of the last stage the loss."""
        given: dict[str, Buffer] = {"x": x} if targets is None else {"x": x, "targets": targets}
        async with self._shared().slot() as slot:
            told = await slot.call(self._live(), "stage_evaluate", given, "reply", state=state)
            if told["answer"] != "done":
                return None
            return Seen(data=bytes(slot.reply()), loss=int(told["loss"]), tokens=int(told["tokens"]))

    async def make(
        self, kind: Kind, *, round_number: int, microbatch: int, tokens: int, x: Buffer | None, gradient: Buffer | None
    ) -> Passed:
        """A pass from the state that is held. Raises WorkerRefused, WorkerDied."""
        worker, state, began = self._live(), self.state, time.monotonic()
        given: dict[str, Buffer] = {} if x is None else {"x": x}
        if kind is Kind.BACKWARD:
            given["gradient"] = gradient if gradient is not None else b""
        async with self._shared().slot() as slot:
            answer = await slot.call(
                worker, f"stage_{kind.value}", given, "reply",
                round=round_number, microbatch=microbatch, state=state, tokens=tokens,
            )  # fmt: skip
            data = bytes(slot.reply()) if answer["answer"] == "done" else b""
        each_s, took_s = int(answer["service_us"]) / 1e6, int(answer.get("took_us", 0)) / 1e6
        self._busy_s += took_s
        if answer["answer"] == "done":
            self.pace_s[kind] = each_s
        return Passed(
            kind=str(answer["answer"]), data=data, service_s=took_s,
            waited_s=max(0.0, time.monotonic() - began - took_s), queue_s=int(answer["queue"]) * each_s,
            wait_s=float(answer.get("wait_s", 0.0)),
        )  # fmt: skip

    def _shared(self) -> Tensors:
        assert self._tensors is not None  # a stage is open
        return self._tensors

    async def keep_only(self, round_number: int, microbatches: Sequence[int]) -> None:
        """Undo all but these. Raises RunError if that lost some of them."""
        answer = await self._live().call("stage_freeze", round=round_number, manifest=list(microbatches))
        if answer["answer"] != "done" or answer["lacking"]:
            raise RunError("FP-406", f"worker of run {self.run.id[:16]}: could not undo: {answer}")

    async def take_out(self, round_number: int, microbatch: int, tokens: int) -> bool:
        """Undo this one and nothing else; whether that could be done: its input and gradient have to be kept still."""
        answer = await self._live().call(
            "stage_undo", round=round_number, microbatch=microbatch, state=self.state, tokens=tokens
        )
        return bool(answer["answer"] == "done")

    async def write(self, round_number: int, microbatches: Sequence[int]) -> tuple[str, Fields]:
        """Write the update over exactly these: its id, and what the worker says of it."""
        answer = await self._live().call("stage_write", round=round_number, manifest=list(microbatches))
        if answer["answer"] != "done":
            raise RunError("FP-406", f"worker of run {self.run.id[:16]}: could not write: {answer}")
        return await self._store.add_file(Path(answer["update"])), answer

    # ------------------------------------------------------------------ the step

    async def norm(self, receipts: Sequence[StageReceipt], account: str, stage: int | None = None) -> str:
        """Norm of the mean gradient of our stage, or of this one, over the updates of these receipts."""
        number = self.stage if stage is None else stage
        settled = await self._settled(receipts, number, account)
        answer = await self._live().call("stage_norm", state=self.state, stage=number, **settled)
        return str(answer["norm"])

    async def apply(
        self, round_number: int, receipts: Sequence[StageReceipt], norms: Sequence[str], account: str
    ) -> str:
        """Take the round's step; returns the id of the stage's new state, which is in the blob store."""
        settled = await self._settled(receipts, self.stage, account)
        async with self._turn:
            answer = await self._live().call(
                "stage_apply", state=self.state, round=round_number, norms=list(norms), **settled
            )
            self.state = str(answer["state"])
            updates = [receipt.update for receipt in receipts if receipt.stage in self._involved(self.stage)]
            await self.history.hold(round_number, self.state, updates)
            kept = await self._store.add_file(Path(answer["path"]))
        if kept != self.state:
            raise RunError("FP-406", f"worker of run {self.run.id[:16]}: wrote {kept[:16]}, named {self.state[:16]}")
        return self.state

    def _involved(self, stage: int) -> list[int]:
        """Itself, and the stage that shares a tensor with it."""
        assert self.run.staged is not None
        last = self.run.staged.stages - 1
        return [stage, last - stage] if self._tied and stage in (0, last) else [stage]

    async def _settled(self, receipts: Sequence[StageReceipt], stage: int, account: str) -> Fields:
        """The updates that a stage's step is made of, as files."""
        involved = self._involved(stage)
        await self.files.fetch_ahead([receipt.update for receipt in receipts if receipt.stage in involved])
        found: list[list[dict[str, Any]]] = [[], []]
        for receipt in receipts:
            if receipt.stage in involved:
                path, mine = str(await self.fetch(receipt.update)), int(receipt.account == account)
                found[receipt.stage != stage].append({"path": path, "tokens": receipt.tokens, "mine": mine})
        return {"updates": found[0], "tied": found[1]}

    async def check(self, update: Path, receipt: StageReceipt) -> tuple[tuple[str, str] | None, int | None]:
        """Strictly decode an update of any stage while passes go on: (code, reason) where refused.

        A leader that serves no stage opens the smallest one for it.
        """
        if self._worker is None or not self._worker.alive or self.stage < 0:
            await self._smallest()
        try:
            item = {"path": str(update), "tokens": receipt.tokens, "mine": 0}
            await self._live().call("stage_check", stage=receipt.stage, update=item)
        except WorkerRefused as exc:
            if exc.code != UNSOUND:
                raise  # our own worker's trouble says nothing of the update
            return (exc.code, exc.message), None
        return None, None

    async def _smallest(self) -> None:
        states = self.run.spec["stages"]["states"]
        stage = min(range(1, len(states)), key=lambda number: int(states[number].rpartition("-")[2]))
        path = await self.fetch(states[stage])
        async with self._turn:
            if self._worker is None or not self._worker.alive or self.stage < 0:
                await self._open(stage, path)
