"""One run as this daemon knows it: its folder, its spec, its log, and the journal of what happened.

`Run` is shared by the leader and the member roles; its `RunLog` changes by `refresh`, and for what is not certified by
`follow` and `go_ahead`. The journal tells of rounds once they are certified.

IO: the run's folder, and the ledger replica through `Logs`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from ledger.codec import decode, encode
from ledger.entries import Entry, Open, Receipt, Settle, StageOpen, StageSettle, parse
from ledger.store.store import Store
from peer.errors import RunError
from peer.files import write_atomic
from peer.ledger.logs import Logs, certified_size
from peer.messages import Ahead
from peer.rounds.log import RunLog, SettledRound
from peer.rounds.tail import earned, why_wait
from peer.runs.figures import plan_of, stage_plan_of, telling, weighted_loss
from peer.runs.journal import Event, Journal
from peer.runs.stopwatch import RoundTimes
from peer.runs.uncertified import Standing, Uncertified

log = structlog.get_logger(__name__)

SPEC_BYTES = 16 * 1024


class Run:
    """A run that this daemon leads, takes part in, or took part in."""

    def __init__(self, *, run: str, folder: Path, logs: Logs, spec: dict[str, Any]) -> None:
        """Use `create` or `load`."""
        self.id = run
        self.folder = folder
        self.spec = spec
        self.log = RunLog()
        self.journal = Journal(folder / "events.jsonl")
        self.uncertified = Uncertified(self.journal)
        self.plan = plan_of(spec, run=run, network=logs.genesis.id)
        self.staged = stage_plan_of(spec, self.plan)
        """How its model is cut into stages, if it is."""
        self.origin = logs.genesis.run_origin(run)
        self._logs = logs
        self._refreshing = asyncio.Lock()
        self.ahead_of = ""
        """The leader whose tail our log has."""
        self.leads = False
        """Whether we lead it: then nobody else's tail counts. Written only by the leader role."""
        self._times = RoundTimes()
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
        entries = await self._logs.entries(self.origin, self.log.certified)
        await self._take(entries)
        return bool(entries)

    async def _take(self, entries: Sequence[Entry]) -> None:
        """Take up certified entries, and tell of them."""
        told = (self.journal.last("opened") or {}).get("round", 0), (self.journal.last("settled") or {}).get("round", 0)
        before = Standing.of(self.log)
        self.log.extend(entries)
        self._times.see(entries)
        for entry in entries:
            if isinstance(entry, Open | StageOpen) and entry.round > told[0]:
                members = [seat[0] for seat in entry.roster]
                await self.journal.add("opened", round=entry.round, members=members, state=entry.state)
            elif isinstance(entry, Settle | StageSettle):
                await self._settled(self.log.settled[entry.round - 1], quiet=entry.round <= told[1])
        await self._changed(before)
        if self.log.close is not None and self.journal.last("closed") is None:
            await self.journal.add(
                "closed", state=self.log.close.state, reason=self.log.close.reason, rounds=self.log.round
            )

    async def _settled(self, settled: SettledRound, *, quiet: bool) -> None:
        seconds = self._times.take(settled.round)
        accounts = [receipt.account for receipt in (*settled.receipts, *settled.staged)]
        tokens = settled.tokens
        self._paid += earned(self.plan, self.log, settled)
        if quiet:
            return
        fields: Event = {
            "round": settled.round,
            "state": settled.state,
            "loss": weighted_loss(telling(settled, self.log.stages)),
            "members": len(accounts),
            "accounts": accounts,
            "tokens": tokens,
            "tokens_per_s": round(tokens / seconds, 1) if seconds > 0.05 else 0.0,
            "seconds": round(seconds, 3),
            "credits": self._paid,
        }
        if self.staged is not None:
            serving = Counter(receipt.stage for receipt in settled.staged)
            fields["stages"] = [serving[stage] for stage in range(self.staged.stages)]
        if settled.validation is not None:
            fields["validation"], fields["validation_round"] = settled.validation[1] / 1e6, settled.validation[0]
        await self.journal.add("settled", **fields)

    # ------------------------------------------------------------------ the tail

    async def follow(self, ahead: Ahead, leader: str) -> None:
        """Go on with what this leader signed beyond what is certified, or, where that is nothing, with nobody's.

        Raises:
            LedgerError: it does not follow from what is certified here; RunError: members must not go by it.
        """
        data, head = [entry.encode() for entry in ahead.entries], ahead.head.encode()

        def look(store: Store) -> tuple[int, list[bytes]]:
            size = certified_size(store, self.origin)
            if data:
                store.check_tail(self.origin, ahead.start, data, head, leader)
            return size, store.entries(self.origin, self.log.certified, size)

        async with self._refreshing:
            size, fresh = await self._logs.on_store(look)
            tail = [parse(entry) for entry in data[size - ahead.start :]]
            if why := why_wait(self.plan, tail):
                raise RunError("FP-442", f"tail of run {self.id[:16]} from {leader[:16]}: {why}")
            await self._take([parse(entry) for entry in fresh])
            if not self.leads:
                await self._follow(tail, leader)

    async def go_ahead(self, leader: str) -> bool:
        """Go on with what we, who lead, signed beyond what is certified; False if members must wait with it."""

        def look(store: Store) -> tuple[list[bytes], list[bytes]]:
            size = certified_size(store, self.origin)
            fresh = store.entries(self.origin, self.log.certified, size)
            return fresh, store.entries(self.origin, size, store.size(self.origin))

        async with self._refreshing:
            fresh, signed = await self._logs.on_store(look)
            await self._take([parse(entry) for entry in fresh])
            tail = [parse(entry) for entry in signed]
            if why_wait(self.plan, tail):
                return False
            await self._follow(tail, leader)
            return True

    async def _follow(self, tail: Sequence[Entry], leader: str) -> None:
        here, same = self.log.tail, min(len(tail), len(self.log.tail))
        if leader == self.ahead_of and here[:same] != tuple(tail[:same]):
            raise RunError("FP-444", f"tail of run {self.id[:16]}: {leader[:16]} signed another one before")
        if leader == self.ahead_of and len(tail) <= len(here):
            return  # it has signed more since
        before = Standing.of(self.log)
        self.log.follow(tail)
        self.ahead_of = leader
        self._times.see(tail)
        await self._changed(before)

    async def _changed(self, before: Standing) -> None:
        if self.log.drops > before.drops:
            self._times.forget()
        await self.uncertified.changed(self.log, before)

    # ------------------------------------------------------------------ promises

    def promise(self, receipt: Receipt) -> None:
        """Keep a receipt on disk before it is sent: after a restart the same one is sent again, never another.

        Those of the rounds before are kept as long as the log may go back to them.
        """
        earlier = [known for known in self.promised() if known.round < receipt.round]
        kept = [*earlier, receipt][-1 - self.plan.max_uncertified :]
        write_atomic(self.folder / "promise.json", b"\n".join(known.encode() for known in kept))

    def promised(self) -> list[Receipt]:
        """The last receipts that were promised, oldest first."""
        path = self.folder / "promise.json"
        found = [parse(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        return [receipt for receipt in found if isinstance(receipt, Receipt)]

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
            "uncertified": self.log.uncertified,
            "members": [seat.account for seat in open_round.roster] if open_round else [],
            "loss": last.get("loss"),
            "validation": valid,
            "tokens": self.log.tokens,
            "tokens_per_s": last.get("tokens_per_s", 0.0),
            "credits": self._paid,
            "state": self.log.state,
            "submitter": self.spec["submitter"],
        }

    def _last_validation(self) -> float | None:
        figures = [done.validation[1] / 1e6 for done in self.log.settled if done.validation]
        return figures[-1] if figures else None
