"""One run as this daemon knows it: its folder, its spec, its log, and the journal of what happened.

`Run` is shared by the leader and the member roles; its `RunLog` changes by `refresh`, and for what is not certified by
`follow` and `go_ahead`. The journal tells of rounds once they are certified.

IO: the run's folder, and the ledger replica through `Logs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from ledger.codec import decode, encode
from ledger.entries import Entry, Open, Receipt, Settle, parse
from ledger.store.store import Store
from p2p_llm_forge.settings import MOST_MEMBERS
from peer.errors import RunError
from peer.files import write_atomic
from peer.ledger.logs import Logs, certified_size
from peer.messages import Ahead
from peer.rounds.log import RunLog, SettledRound
from peer.rounds.plan import Plan
from peer.rounds.tail import why_wait
from peer.runs.journal import Event, Journal
from peer.runs.stopwatch import RoundTimes
from peer.runs.uncertified import Standing, Uncertified

log = structlog.get_logger(__name__)

SPEC_BYTES = 16 * 1024
UPDATE_HEAD_BYTES = 1 << 16
"""An update has at most one fp32 value for each that the state has, and a header."""


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
            if isinstance(entry, Open) and entry.round > told[0]:
                members = [seat.account for seat in entry.roster]
                await self.journal.add("opened", round=entry.round, members=members, state=entry.state)
            elif isinstance(entry, Settle):
                await self._settled(self.log.settled[entry.round - 1], quiet=entry.round <= told[1])
        await self._changed(before)
        if self.log.close is not None and self.journal.last("closed") is None:
            await self.journal.add(
                "closed", state=self.log.close.state, reason=self.log.close.reason, rounds=self.log.round
            )

    async def _settled(self, settled: SettledRound, *, quiet: bool) -> None:
        seconds = self._times.take(settled.round)
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
        checkpoints = config.get("checkpoints", {})
        return Plan(
            network=network,
            run=run,
            rounds=int(spec["rounds"]),
            quota=int(training["inner_steps"]) * int(training["batch_size"]),
            batch_size=int(training["batch_size"]),
            tokens_per_slot=int(spec["tokens_per_slot"]),
            price=int(spec["price"]),
            min_members=int(members["min"]),
            max_members=min(int(members["max"]), MOST_MEMBERS),
            evaluate_every=int(evaluation["every"]),
            time_budget_s=float(training["time_budget_s"]),
            max_uncertified=int(training.get("max_uncertified_rounds", 2)),
            max_tokens=int(training.get("max_tokens", 0)),
            target_loss=round(float(training.get("target_loss", 0)) * 1e6),
            patience=int(evaluation.get("patience", 0)),
            keep_last=max(1, int(checkpoints.get("keep_last", 3))),
            checkpoint_every=max(0, int(checkpoints.get("every", 0))),
            clipped=str(training.get("clip_updates", "true")) != "false",
            overlap=training.get("overlap", "false") == "true",
            most_update_bytes=int(spec["blobs"]["state"].rpartition("-")[2]) + UPDATE_HEAD_BYTES,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise RunError("FP-405", f"spec of run {run[:16]}: {type(exc).__name__} {exc}") from exc
