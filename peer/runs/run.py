"""One run as this daemon knows it: its folder, its spec, its log, and the journal of what happened.

`Run` is shared by the leader and the member roles; `refresh` is the only way in which its `RunLog` grows.

IO: the run's folder, and the ledger replica through `Logs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog

from ledger.codec import decode, encode
from ledger.entries import Receipt
from peer.errors import RunError
from peer.files import write_atomic
from peer.ledger.logs import Logs
from peer.rounds.log import OpenRound, RunLog, SettledRound
from peer.rounds.plan import Plan

log = structlog.get_logger(__name__)

Event = dict[str, Any]
SPEC_BYTES = 16 * 1024
UPDATE_HEAD_BYTES = 1 << 16
"""An update has at most one fp32 value for each that the state has, and a header."""


class Journal:
    """What happened in a run, one JSON line each, for people: history on disk, news to whoever follows."""

    def __init__(self, path: Path) -> None:
        """Take up the journal at `path`; a half-written last line is dropped."""
        self._path = path
        self._events: list[Event] = []
        self._torn = False
        """Whether the last line could not be written, so that the next begins on one of its own."""
        self._news = asyncio.Condition()
        if path.exists():
            whole, _, half = path.read_bytes().rpartition(b"\n")
            if half:
                os.truncate(path, len(whole) + 1 if whole else 0)
            for line in whole.split(b"\n"):
                with contextlib.suppress(ValueError):
                    self._events.append(json.loads(line))

    @property
    def events(self) -> list[Event]:
        """All events, oldest first."""
        return list(self._events)

    def last(self, name: str) -> Event | None:
        """The newest event of that name."""
        return next((event for event in reversed(self._events) if event["event"] == name), None)

    async def add(self, what: str, /, **fields: object) -> None:
        """Note that `what` happened."""
        event = {"event": what, "time": round(time.time(), 3), **fields}
        self._events.append(event)
        try:
            with self._path.open("a") as file:
                file.write("\n" * self._torn + json.dumps(event) + "\n")
            self._torn = False
        except OSError as exc:
            self._torn = True  # a part of the line may be there
            log.error("journal_not_written", path=str(self._path), happened=what, reason=str(exc))
        async with self._news:
            self._news.notify_all()

    async def follow(self, *, until_closed: bool) -> AsyncIterator[Event]:
        """All events so far; then, if `until_closed`, the news until the run is closed."""
        at, closed = 0, False
        while True:
            for event in self._events[at:]:
                at += 1
                closed = closed or event["event"] == "closed"
                yield event
            if closed or not until_closed:
                return
            async with self._news:
                await self._news.wait_for(lambda seen=at: len(self._events) > seen)  # type: ignore[misc]


class Run:
    """A run that this daemon leads, takes part in, or took part in."""

    def __init__(self, *, run: str, folder: Path, logs: Logs, spec: dict[str, Any]) -> None:
        """Use `create` or `load`."""
        self.id = run
        self.folder = folder
        self.spec = spec
        self.log = RunLog()
        self.journal = Journal(folder / "events.jsonl")
        self.plan = plan_of(spec, run=run, network=logs.genesis.id)
        self.origin = logs.genesis.run_origin(run)
        self._logs = logs
        self._refreshing = asyncio.Lock()
        self._opened_at: dict[int, float] = {}
        self._paid = 0

    @classmethod
    def create(cls, *, run: str, home: Path, logs: Logs, spec: dict[str, Any]) -> Run:
        """Make the run's folder; the spec on disk is the promise to go on with the run after a restart."""
        folder = home / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "spec.json", encode(spec))
        return cls(run=run, folder=folder, logs=logs, spec=spec)

    @classmethod
    def load(cls, folder: Path, logs: Logs) -> Run:
        """Take up a run from its folder.

        Raises:
            RunError: the spec in it is damaged.
        """
        spec = decode((folder / "spec.json").read_bytes(), limit=SPEC_BYTES)
        if not isinstance(spec, dict):
            raise RunError("FP-405", f"{folder / 'spec.json'}: not an object; delete the folder to forget the run")
        return cls(run=folder.name, folder=folder, logs=logs, spec=spec)

    @property
    def name(self) -> str:
        """The submitter's name for it."""
        return str(self.spec["name"])

    @property
    def leaders(self) -> list[str]:
        """Accounts that may write the run's log."""
        return list(self.spec["leaders"])

    @property
    def blobs(self) -> dict[str, str]:
        """Blob ids by what they are: model, tokenizer, manifest, state."""
        return dict(self.spec["blobs"])

    @property
    def config(self) -> dict[str, Any]:
        """The canonical training config."""
        return dict(self.spec["config"])

    # ------------------------------------------------------------------ the log

    async def refresh(self) -> bool:
        """Take up what the certified log has beyond what we have seen; returns whether there was anything."""
        async with self._refreshing:  # both roles call this; no entry may be taken up twice
            return await self._refresh()

    async def _refresh(self) -> bool:
        entries = await self._logs.entries(self.origin, self.log.size)
        if not entries:
            return False
        told = (self.journal.last("opened") or {}).get("round", 0), (self.journal.last("settled") or {}).get("round", 0)
        for entry in entries:
            settled_before, open_before = self.log.round, self.log.open
            self.log.extend([entry])
            if self.log.open is not None and self.log.open is not open_before:
                await self._opened(self.log.open, quiet=self.log.open.round <= told[0])
            if self.log.round > settled_before:
                await self._settled(self.log.settled[-1], quiet=self.log.round <= told[1])
        if self.log.close is not None and self.journal.last("closed") is None:
            await self.journal.add(
                "closed", state=self.log.close.state, reason=self.log.close.reason, rounds=self.log.round
            )
        return True

    async def _opened(self, opened: OpenRound, *, quiet: bool) -> None:
        self._opened_at[opened.round] = time.monotonic()
        if not quiet:
            await self.journal.add(
                "opened", round=opened.round, members=[seat.account for seat in opened.roster], state=opened.state
            )

    async def _settled(self, settled: SettledRound, *, quiet: bool) -> None:
        seconds = time.monotonic() - self._opened_at.pop(settled.round, time.monotonic())
        tokens = sum(receipt.tokens for receipt in settled.receipts)
        self._paid += sum(self.plan.worth(receipt.slots[1]) for receipt in settled.receipts)
        if quiet:
            return
        fields: Event = {
            "round": settled.round,
            "state": settled.state,
            "loss": weighted_loss(settled.receipts),
            "members": len(settled.receipts),
            "accounts": [receipt.account for receipt in settled.receipts],
            "tokens": tokens,
            "tokens_per_s": round(tokens / seconds, 1) if seconds > 0.05 else 0.0,
            "seconds": round(seconds, 3),
            "credits": self._paid,
        }
        if settled.validation is not None:
            fields["validation"], fields["validation_round"] = settled.validation[1] / 1e6, settled.validation[0]
        await self.journal.add("settled", **fields)

    # ------------------------------------------------------------------ promises

    def promise(self, receipt: Receipt) -> None:
        """Keep a receipt on disk before it is sent: after a restart the same one is sent again, never another."""
        write_atomic(self.folder / "promise.json", receipt.encode())

    def promised(self) -> bytes | None:
        """The entry bytes of the last receipt that was promised."""
        path = self.folder / "promise.json"
        return path.read_bytes() if path.exists() else None

    # ------------------------------------------------------------------ for people

    def summary(self, *, role: str) -> dict[str, Any]:
        """What `forge-peer status` shows."""
        last, valid = self.journal.last("settled") or {}, self._last_validation()
        open_round = self.log.open
        phase = "closed" if self.log.close else "training" if open_round else "waiting"
        return {
            "run": self.id,
            "name": self.name,
            "role": role,
            "phase": phase,
            "reason": self.log.close.reason if self.log.close else "",
            "round": self.log.round,
            "rounds": self.plan.rounds,
            "members": [seat.account for seat in open_round.roster] if open_round else [],
            "loss": last.get("loss"),
            "validation": valid,
            "tokens": sum(receipt.tokens for done in self.log.settled for receipt in done.receipts),
            "tokens_per_s": last.get("tokens_per_s", 0.0),
            "credits": self._paid,
            "state": self.log.state,
            "submitter": self.spec["submitter"],
        }

    def _last_validation(self) -> float | None:
        figures = [done.validation[1] / 1e6 for done in self.log.settled if done.validation]
        return figures[-1] if figures else None


def weighted_loss(receipts: tuple[Receipt, ...]) -> float | None:
    """Mean training loss of a round in nats a token, weighted by tokens; None without receipts."""
    tokens = sum(receipt.tokens for receipt in receipts)
    return sum(receipt.loss * receipt.tokens for receipt in receipts) / tokens / 1e6 if tokens else None


def plan_of(spec: dict[str, Any], *, run: str, network: str) -> Plan:
    """The figures that the round machines need, from a run's spec.

    Raises:
        RunError: the spec lacks one, or it is out of range.
    """
    try:
        config = spec["config"]
        training, members, evaluation = config["training"], config["members"], config["evaluation"]
        return Plan(
            network=network,
            run=run,
            rounds=int(spec["rounds"]),
            quota=int(training["inner_steps"]) * int(training["batch_size"]),
            batch_size=int(training["batch_size"]),
            tokens_per_slot=int(spec["tokens_per_slot"]),
            price=int(spec["price"]),
            min_members=int(members["min"]),
            max_members=int(members["max"]),
            evaluate_every=int(evaluation["every"]),
            time_budget_s=float(training["time_budget_s"]),
            max_tokens=int(training.get("max_tokens", 0)),
            target_loss=round(float(training.get("target_loss", 0)) * 1e6),
            patience=int(evaluation.get("patience", 0)),
            clipped=bool(training.get("clip_updates", True)),
            most_update_bytes=int(spec["blobs"]["state"].rpartition("-")[2]) + UPDATE_HEAD_BYTES,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise RunError("FP-405", f"spec of run {run[:16]}: {type(exc).__name__} {exc}") from exc
