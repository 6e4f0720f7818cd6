"""A run's worker with the run's files: opened when needed, opened again after its death, one change of state at a time.

Every operation names the state that it starts from; a worker that holds another one is given that state first. So a
crashed worker, a lost update or a leader that applied ahead of the log all mend themselves here.

IO: a worker process, the blob store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from ledger.entries import Receipt
from peer.blobs.store import BlobStore
from peer.errors import RunError, WorkerRefused
from peer.rounds.cut import Counted
from peer.rounds.messages import Trained
from peer.runs.files import RunFiles
from peer.runs.hardware import Hardware
from peer.runs.history import History
from peer.runs.keeping import Keeping
from peer.runs.process import RunProcess
from peer.runs.run import Run
from peer.supervisor import Fields, Worker

log = structlog.get_logger(__name__)

Counts = Receipt | Counted
"""What moves a state: an update and its tokens."""
UNSOUND = "FP-107"
"""The engine's code for an update that no honest member sends."""


class RunWorker(RunProcess):
    """The worker of one run whose members hold the whole model."""

    def __init__(
        self, *, run: Run, store: BlobStore, files: RunFiles, history: History, hardware: Hardware, folder: str = "work"
    ) -> None:
        """As any of a run."""
        super().__init__(run=run, store=store, files=files, history=history, hardware=hardware, folder=folder)
        self._micro_batch = 0
        """Sequences that went through the model at once when that was told last."""
        self._keeping = Keeping(store, run.id)

    def another(self, folder: str) -> RunWorker:
        """A second worker, with the same files and history; who asks for it closes it."""
        return RunWorker(
            run=self.run, store=self._store, files=self.files, history=self.history, hardware=self.hardware,
            folder=folder,
        )  # fmt: skip

    # ------------------------------------------------------------------ the process

    async def close(self) -> None:
        """End the process, after its newest state is kept."""
        await self._keeping.end()
        await super().close()

    async def fetch(self, blob: str, providers: Sequence[str] = ()) -> Path:
        """The file of a blob, fetched from the run's peers unless it is here, or about to be."""
        await self._keeping.done(blob)
        return await super().fetch(blob, providers)

    async def _ready(self, state: str) -> Worker:
        """A live worker that holds `state`. Call with `_turn` held."""
        if self._worker is None or not self._worker.alive:
            files = await self.files.all()
            path = await self.fetch(state)
            self.state = ""
            if self._worker is not None:
                await self._worker.kill()  # it may run on, although nobody hears it
            self._worker = await Worker.start(self._folder, threads=self.hardware.threads, device=self.hardware.device)
            try:
                answer = await self._worker.call(
                    "open", config=self.run.config, state=str(path), keep=self.hardware.keep,
                    memory_bytes=self.hardware.memory_bytes, **files,
                )  # fmt: skip
            except BaseException:
                await self._worker.kill()  # half opened it would refuse everything; the next attempt starts another
                raise
            self.state = str(answer["state"])
            await self._tell_micro_batch(answer.get("micro_batch", {}))
        elif self.state != state:
            path = await self.fetch(state)
            self.state = ""
            self.state = str((await self._worker.call("load", state=str(path)))["state"])
        if self.state != state:
            raise RunError(
                "FP-406", f"worker of run {self.run.id[:16]}: holds state {self.state[:16]}, wanted {state[:16]}"
            )
        return self._worker

    async def load(self, round_number: int, state: str) -> None:
        """Fetch the state after a round and hold it."""
        async with self._turn:
            await self._ready(state)
            await self.history.hold(round_number, state)

    async def train(
        self, *, round_number: int, state: str, start: int, quota: int, seconds: float, account: str
    ) -> Trained:
        """Train from `state` on our slots; the update is in the blob store when this returns.

        Args:
            round_number: the open round; all before it are in the log.
            state: id of the state it starts from.
            start: first slot.
            quota: most slots.
            seconds: time budget.
            account: ours, whose settled updates have left the error feedback.
        """
        async with self._turn:
            worker = await self._ready(state)
            self.progress = {}
            answer = await worker.call(
                "train",
                round=round_number, start=start, count=quota, seconds=seconds,
                settled=self.run.log.settled_of(account),
                on_event=self.progressed,
            )  # fmt: skip
        return await self.trained(round_number, answer)

    async def trained(self, round_number: int, answer: Fields) -> Trained:
        """What the worker answered, its update in the blob store."""
        await self._tell(round_number, answer)
        slots = int(answer["slots"])
        update = await self._store.add_file(Path(answer["update"])) if slots else ""
        return Trained(
            round=round_number,
            update=update,
            tokens=int(answer["tokens"]),
            slots=slots,
            loss=int(answer["loss"]),
            steps=int(answer["steps"]),
            leaves=str(answer["leaves"]),
            seconds=float(answer["seconds"]),
        )

    async def _tell(self, round_number: int, answer: Fields) -> None:
        """Note in the journal what the worker took up of the worker before it, and what it could not."""
        if "restored" in answer:
            await self.run.journal.add("restored", round=round_number, **answer["restored"])
        await self._tell_micro_batch({"sequences": answer.get("micro_batch", 0)})
        for note in answer.get("notes", []):
            await self.run.journal.add("not_carried", round=round_number, reason=str(note))

    async def _tell_micro_batch(self, chosen: Fields) -> None:
        """Note in the journal how many sequences go through the model at once, and why, when that changes."""
        if (sequences := int(chosen.get("sequences", 0))) not in (0, self._micro_batch):
            self._micro_batch = sequences
            await self.run.journal.add("micro_batch", **chosen)

    def progressed(self, event: Fields) -> None:
        """Take up what a training tells on its way."""
        self.progress = event

    async def stop(self) -> None:
        """Have a training under way end after its current step."""
        if self._worker is not None and self._worker.alive:
            await self._worker.call("stop")

    async def check(self, update: Path, state: str) -> tuple[tuple[str, str] | None, int | None]:
        """Strictly decode an update of `state` while training goes on: (code, reason) where refused, else its norm."""
        worker = self._worker
        if worker is None or not worker.alive:
            async with self._turn:
                worker = await self._ready(state)  # a leader that does not train has had no need of one yet
        try:
            answer = await worker.call("check", update=str(update))
        except WorkerRefused as exc:
            if exc.code != UNSOUND:
                raise  # our own worker's trouble (not open yet, no disk) says nothing of the update
            return (exc.code, exc.message), None
        return None, int(answer["norm_units"]) if "norm_units" in answer else None

    async def apply(self, *, round_number: int, state: str, receipts: Sequence[Counts], account: str) -> Fields:
        """Apply a round's updates to `state`; returns the worker's answer, with `state` and `seconds`.

        The new state is in the blob store a little later, before anything else needs it from there; if it cannot be
        kept, the next call says so.

        Args:
            round_number: the round that the receipts settle.
            state: id of the state that the round started from.
            receipts: in the order of the settle entry.
            account: ours, whose sent values leave the error feedback.
        """
        await self._keeping.done()
        await self.files.fetch_ahead([receipt.update for receipt in receipts])
        updates = [
            {
                "path": str(await self.fetch(receipt.update)),
                "tokens": receipt.tokens,
                "mine": int(receipt.account == account),
            }
            for receipt in receipts
        ]
        async with self._turn:
            worker = await self._ready(state)
            if not updates:
                await self.history.hold(round_number, state, [])
                return {"state": state, "seconds": {}}
            self.state = ""
            answer = await worker.call("apply", round=round_number, updates=updates)
            self.state = str(answer["state"])
        await self.history.hold(round_number, self.state, [receipt.update for receipt in receipts])
        self._keeping.begin(self.state, Path(answer["path"]))
        return answer

    async def evaluate(self, *, state: str, sequences: int) -> int:
        """Held-out loss of `state`, micro-nats a token."""
        async with self._turn:
            worker = await self._ready(state)
            return int((await worker.call("evaluate", sequences=sequences))["loss"])

    async def evaluate_held(self, *, state: str, sequences: int) -> int:
        """Held-out loss of `state`, micro-nats a token, if it is what the worker holds: nothing is loaded for it.

        Raises:
            RunError: the worker holds another state by now.
        """
        async with self._turn:
            if self._worker is None or not self._worker.alive or self.state != state:
                raise RunError("FP-406", f"worker of run {self.run.id[:16]}: holds {self.state[:16] or 'no state'}")
            return int((await self._worker.call("evaluate", sequences=sequences))["loss"])

    async def use(self, state: str, do: str, **params: Any) -> Fields:
        """Have the worker do something else with `state`: export, generate."""
        async with self._turn:
            return await (await self._ready(state)).call(do, **params)
