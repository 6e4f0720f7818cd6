"""A run's worker with the run's files: opened when needed, opened again after its death, one change of state at a time.

Every operation names the state that it starts from; a worker that holds another one is given that state first. So a
crashed worker, a lost update or a leader that applied ahead of the log all mend themselves here.

IO: a worker process, the blob store.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from ledger.entries import Receipt
from p2p_llm_forge.protocol import MOST_ROUNDS_AWAY
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.errors import BlobMissing, RunError, WorkerRefused
from peer.rounds.messages import Trained
from peer.runs.run import Run
from peer.supervisor import Fields, Worker

log = structlog.get_logger(__name__)

KEEP_STATES = 3
KEEP_UPDATES = 64
UNSOUND = "FP-107"
"""The engine's code for an update that no honest member sends."""
MANIFEST_BYTES = 64 << 20

Providers = Callable[[], Sequence[str]]
"""PeerIDs that may have the run's blobs just now."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the volunteer lends to a worker."""

    threads: int
    device: str
    """auto, cpu or cuda"""
    keep: bool = True
    """Whether residuals and optimizer states may be kept on disk."""


class RunWorker:
    """The worker of one run. `state` is the id of the state it holds."""

    def __init__(
        self, *, run: Run, store: BlobStore, fetcher: BlobFetcher, providers: Providers, hardware: Hardware
    ) -> None:
        """No process is started before the first operation."""
        self.run = run
        self.state = ""
        self.progress: Fields = {}
        """The newest progress event of the training under way."""
        self._store = store
        self._fetcher = fetcher
        self._providers = providers
        self._hardware = hardware
        self._worker: Worker | None = None
        self._turn = asyncio.Lock()
        self._files: Fields | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._worker.pid if self._worker is not None and self._worker.alive else None

    async def close(self) -> None:
        """End the process; of a run that is closed nothing is kept for another worker."""
        if self._worker is not None:
            await self._worker.close()
            self._worker, self.state = None, ""
        if self.run.log.close is not None:
            await asyncio.to_thread(shutil.rmtree, self.run.folder / "work" / "kept", ignore_errors=True)

    # ------------------------------------------------------------------ blobs

    async def fetch(self, blob: str, providers: Sequence[str] = ()) -> Path:
        """The file of a blob, fetched from the run's peers unless it is here."""
        if self._store.has(blob):
            return self._store.path(blob)
        return await self._fetcher.fetch(blob, [*providers, *self._providers()])

    async def _fetch_files(self) -> Fields:
        """Everything that training needs besides the state; fetched once."""
        if self._files is None:
            blobs = self.run.blobs
            await self._store.pin([blobs["model"], blobs["tokenizer"], blobs["manifest"]], f"{self.run.id}/files")
            paths = {name: await self.fetch(blobs[name]) for name in ("model", "tokenizer", "manifest")}
            shards = _shards(paths["manifest"])
            await self._store.pin(shards, f"{self.run.id}/shards")
            files = {name: str(path) for name, path in paths.items()}
            self._files = {**files, "shards": [str(await self.fetch(shard)) for shard in shards]}
        return self._files

    async def keep_state(self, round_number: int, path: Path) -> str:
        """Put a state file into the blob store, pinned until three newer ones are there; returns its id."""
        state = await self._store.add_file(path)
        await self._store.pin([state], f"{self.run.id}/state/{round_number}")
        await self._store.unpin(f"{self.run.id}/state/{round_number - KEEP_STATES}")
        return state

    async def keep_updates(self, round_number: int, updates: Sequence[str]) -> None:
        """Pin the settled updates of a round, so that others can replay it; old rounds are unpinned."""
        await self._store.pin(list(updates), f"{self.run.id}/updates/{round_number}")
        await self._store.unpin(f"{self.run.id}/updates/{round_number - KEEP_UPDATES}")

    def newest_state(self) -> tuple[int, str] | None:
        """(round, id) of the newest state in the log that is in our blob store."""
        log = self.run.log
        for round_number in range(log.round, -1, -1):
            if (state := log.state_after(round_number)) and self._store.has(state):
                return round_number, state
        return None

    # ------------------------------------------------------------------ the process

    async def _ready(self, state: str) -> Worker:
        """A live worker that holds `state`. Call with `_turn` held."""
        if self._worker is None or not self._worker.alive:
            files = await self._fetch_files()
            path = await self.fetch(state)
            self.state = ""
            if self._worker is not None:
                await self._worker.kill()  # it may run on, although nobody hears it
            self._worker = await Worker.start(
                self.run.folder / "work", threads=self._hardware.threads, device=self._hardware.device
            )
            try:
                keep = self._hardware.keep
                answer = await self._worker.call("open", config=self.run.config, state=str(path), keep=keep, **files)
            except BaseException:
                await self._worker.kill()  # half opened it would refuse everything; the next attempt starts another
                raise
            self.state = str(answer["state"])
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
            await self._store.pin([state], f"{self.run.id}/state/{round_number}")

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
                round=round_number,
                start=start,
                count=quota,
                seconds=seconds,
                settled=self._settled_of(account),
                on_event=self._progressed,
            )
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
        )

    def _settled_of(self, account: str) -> list[Fields]:
        """This account's updates that the log settled of late."""
        return [
            {"round": done.round, "update": receipt.update}
            for done in self.run.log.settled[-MOST_ROUNDS_AWAY:]
            for receipt in done.receipts
            if receipt.account == account
        ]

    async def _tell(self, round_number: int, answer: Fields) -> None:
        """Note in the journal what the worker took up of the worker before it, and what it could not."""
        if "restored" in answer:
            await self.run.journal.add("restored", round=round_number, **answer["restored"])
        for note in answer.get("notes", []):
            await self.run.journal.add("not_carried", round=round_number, reason=str(note))

    def _progressed(self, event: Fields) -> None:
        self.progress = event

    async def stop(self) -> None:
        """Have a training under way end after its current step."""
        if self._worker is not None and self._worker.alive:
            await self._worker.call("stop")

    async def check(self, update: Path) -> tuple[tuple[str, str] | None, int | None]:
        """Strictly decode an update while training goes on: (code, reason) where it is refused, else its norm."""
        worker = self._worker
        if worker is None or not worker.alive:
            raise BlobMissing(f"run {self.run.id[:16]}: no worker to decode {update.name[:16]} with yet")
        try:
            answer = await worker.call("check", update=str(update))
        except WorkerRefused as exc:
            if exc.code != UNSOUND:
                raise  # our own worker's trouble (not open yet, no disk) says nothing of the update
            return (exc.code, exc.message), None
        return None, int(answer["norm_units"]) if "norm_units" in answer else None

    async def apply(self, *, round_number: int, state: str, receipts: Sequence[Receipt], account: str) -> Fields:
        """Apply a round's updates to `state`; returns the worker's answer, with `state` and `seconds`.

        Args:
            round_number: the round that the receipts settle.
            state: id of the state that the round started from.
            receipts: in the order of the settle entry.
            account: ours, whose sent values leave the error feedback.
        """
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
                return {"state": state, "seconds": {}}
            self.state = ""
            answer = await worker.call("apply", round=round_number, updates=updates)
            self.state = str(answer["state"])
        kept = await self.keep_state(round_number, Path(answer["path"]))
        if kept != self.state:
            raise RunError(
                "FP-406", f"worker of run {self.run.id[:16]}: wrote state {kept[:16]}, named {self.state[:16]}"
            )
        await self.keep_updates(round_number, [receipt.update for receipt in receipts])
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


def _shards(manifest: Path) -> list[str]:
    """The shards' blob ids that a manifest names; the worker checks the rest of it."""
    if manifest.stat().st_size > MANIFEST_BYTES:
        raise RunError("FP-407", f"manifest of {manifest.stat().st_size} bytes, at most {MANIFEST_BYTES} are read")
    try:
        shards = json.loads(manifest.read_bytes())["shards"]
        return [str(shard["id"]) if isinstance(shard, dict) else str(shard) for shard in shards]
    except (ValueError, KeyError, TypeError) as exc:
        raise RunError("FP-407", f"manifest {manifest.name[:16]}: names no shards ({exc})") from exc
