"""Computes a run's states again from its log and the updates in a home, for `forge-ledger verify --replay RUN`.

A worker starts from the initial state of the spec and applies the updates of every settled round in the order of the
settle entry; each state id is held against the log's. A blob counts only if its bytes hash to its name. Where one is
missing, the rounds up to the next state that is in the home are left out. The home is only read; its daemon may run.

IO: reads a home's blobs; a worker process and its files in a temporary folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from ledger.entries import parse
from ledger.errors import LedgerError
from ledger.live import ReplayReport
from peer.blobs.chunks import blob_id
from peer.blobs.store import hash_file
from peer.errors import ForgeError, WorkerRefused
from peer.identity import Home
from peer.rounds.log import RunLog, SettledRound
from peer.supervisor import Fields, Worker

NOTHING_BEGUN = "FP-404"
UNFIT = "FP-438"
FILES = ("model", "tokenizer", "manifest")

Progress = Callable[[int, int], None]


class RunReplay:
    """The plug-in `replay` of `forge-ledger`; see `ledger.live.Replay`."""

    def replay(self, home: Path, run_id: str, entries: Sequence[bytes], progress: Progress | None) -> ReplayReport:
        """Recompute the states of a run from the blobs in a home, by its certified entries.

        Raises:
            LedgerError: the log has not begun, or the worker does not work.
        """
        if not structlog.is_configured():  # the worker's coming and going is no output of an audit
            quiet = structlog.make_filtering_bound_logger(logging.WARNING)
            structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        log = RunLog()
        try:
            log.extend([parse(data) for data in entries])
            if not log.spec:
                raise ForgeError(NOTHING_BEGUN, f"run {run_id[:16]}: its certified log is empty: nothing to replay")
            if log.stages is not None:
                got = f"its model is cut into {len(log.stages.shares)} stages"
                raise ForgeError(UNFIT, f"run {run_id[:16]}: {got}: only runs of whole models can be replayed so far")
            with tempfile.TemporaryDirectory(prefix="forge-replay-") as folder:
                return asyncio.run(_Replaying(Home(home), log, Path(folder)).work(progress))
        except ForgeError as exc:
            raise LedgerError(exc.code, exc.message) from exc


class _Replaying:
    """One replay under way."""

    def __init__(self, home: Home, log: RunLog, folder: Path) -> None:
        self._home, self._log, self._folder = home, log, folder
        self._sound: dict[str, Path | None] = {}  # blobs that were looked at
        self._missing: dict[str, str] = {}  # in order, with what is wrong
        self._left_out: list[int] = []
        self._mismatches: list[str] = []
        self._compared = 0
        self._held = ""  # the state that the worker holds
        self._worker: Worker | None = None

    async def work(self, progress: Progress | None) -> ReplayReport:
        """Go through all settled rounds."""
        total = len(self._log.settled)
        try:
            for done, settled in enumerate(self._log.settled, 1):
                if not await self._round(settled):
                    self._left_out.append(settled.round)
                if progress is not None:
                    progress(done, total)
        finally:
            if self._worker is not None:
                await self._worker.close()
        return ReplayReport(
            rounds=total - len(self._left_out), compared=self._compared, mismatches=tuple(self._mismatches),
            missing=tuple(f"{blob}{what}" for blob, what in self._missing.items()), left_out=tuple(self._left_out),
        )  # fmt: skip

    async def _round(self, settled: SettledRound) -> bool:
        """Replay one round; False where something for it is missing."""
        updates = [await self._blob(receipt.update) for receipt in settled.receipts]
        if None in updates or not await self._holds(settled.state_in):
            self._held = ""
            return False
        assert self._worker is not None
        got = settled.state_in
        contributions = [
            {"path": str(path), "tokens": receipt.tokens, "mine": 0}
            for path, receipt in zip(updates, settled.receipts, strict=True)
        ]
        try:
            if contributions:
                answer = await self._worker.call("apply", round=settled.round, updates=contributions)
                got = str(answer["state"])
                Path(answer["path"]).unlink(missing_ok=True)
        except WorkerRefused as exc:
            self._mismatches.append(f"round {settled.round}: the updates cannot be applied: {exc.code} {exc.message}")
            self._held = ""
            return True
        self._held = got
        self._compared += 1
        if got != settled.state:
            self._mismatches.append(f"round {settled.round}: state is {got}, wanted {settled.state}, that of the log")
        return True

    async def _holds(self, state: str) -> bool:
        """Have the worker hold this state: the one it holds, or one from the home."""
        if self._worker is not None and self._held == state:
            return True
        first = state == self._log.state_after(0)
        path, files = await self._blob(state, needed=first), await self._files()
        if path is None or files is None:
            return False
        if self._worker is None:
            self._worker = await Worker.start(self._folder / "work", threads=os.cpu_count() or 1, device="cpu")
            config = self._log.spec["config"]
            answer = await self._worker.call("open", config=config, shards=[], state=str(path), **files)
        else:
            answer = await self._worker.call("load", state=str(path))
        self._held = str(answer["state"])
        return self._held == state

    async def _files(self) -> Fields | None:
        """What the worker needs besides the state."""
        blobs = self._log.spec["blobs"]
        assert isinstance(blobs, dict)
        paths = {name: await self._blob(blobs[name]) for name in FILES}
        return None if None in paths.values() else {name: str(path) for name, path in paths.items()}

    async def _blob(self, blob: str, *, needed: bool = True) -> Path | None:
        """The file of a blob, if it is here and is what its name says; a state may be computed instead."""
        if blob not in self._sound:
            path = self._home.blobs / blob[:2] / blob
            try:
                found = blob_id(await asyncio.to_thread(hash_file, path), path.stat().st_size)
                what = "" if found == blob else " (damaged: its bytes are not those that its id names)"
            except OSError as exc:
                found, what = "", "" if isinstance(exc, FileNotFoundError) else f" (cannot be read: {exc.strerror})"
            self._sound[blob] = path if found == blob else None
            if found != blob and needed:
                self._missing[blob] = what
        return self._sound[blob]
