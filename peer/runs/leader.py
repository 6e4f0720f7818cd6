"""The leader's part in a run: carries out what its round machine asks for, and answers the members.

The leader's own worker decodes every update before it counts and computes the next state; if this daemon trains too,
the member role shares that worker, but not in runs with overlap: there the member trains while a round is settled.
Only this role writes the run's log.

IO: the run's log, members' blobs and messages over the network, the run's worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import structlog

from ledger.entries import Receipt, parse
from ledger.errors import LedgerError
from peer.errors import ForgeError, Refused, RoundError
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.messages import AheadQuery, Beat, Cancellation, Delivery, Goodbye
from peer.network.network import Network
from peer.rounds import messages as rounds
from peer.rounds.lead import LeaderMachine, Phase
from peer.rounds.messages import ApplyRound, Check, Evaluate, LeaderEffect, LeaderMessage, Log, Report
from peer.runs import evaluating, wish
from peer.runs.checking import Checking
from peer.runs.disk import Disk
from peer.runs.joined import Joined
from peer.runs.member import Member
from peer.runs.offer import Offer
from peer.runs.push import LeaderTasks, Push
from peer.runs.run import Run
from peer.runs.stopwatch import Stopwatch
from peer.runs.verdicts import Verdicts
from peer.runs.wish import CANCELLED_BY_SUBMITTER
from peer.runs.worker import RunWorker

log = structlog.get_logger(__name__)

TICK_S = 0.1
RETRY_S = 1.0
FIND_S = 8.0  # how long members may take to find a new leader

Body = dict[str, Any]


class Leader:
    """Leads one run until it is closed; `serve` is its life."""

    def __init__(
        self,
        *,
        run: Run,
        worker: RunWorker,
        logs: Logs,
        replication: Replication,
        network: Network,
        account: str,
        member: Member | None,
        after_another: bool = False,
    ) -> None:
        """Take over the run where its log stands.

        Args:
            run: the run, whose log we may write.
            logs: the ledger replica.
            replication: sends members what is new in it.
            member: our own member role, if it shares the worker; else this role alone keeps it going.
            after_another: whether another one led before, whose members have to find us first.
        """
        self.run = run
        self._worker = worker
        self._logs = logs
        self._network = network
        self._push = Push(origin=run.origin, network=network, replication=replication)
        self._account = account
        self._member = member
        self._grace_s = FIND_S if after_another else None
        self._joined = Joined(run.id)
        self._machine: LeaderMachine | None = None
        self._tasks: LeaderTasks | None = None
        self.offer = Offer(run=run, logs=logs, account=account, push=self._push, peers=self.peers)
        self._closed = asyncio.Event()
        self._applied = ""
        """Id of the state after the open round, once our worker has it; the log names it a little later."""
        self._disk = Disk(run, account)
        self._checking = Checking(
            run=run, worker=worker, joined=self._joined, push=self._push, disk=self._disk, rng=Random()
        )
        self._watch = Stopwatch()
        self._verdicts = Verdicts(run)

    # ------------------------------------------------------------------ life

    async def serve(self) -> None:
        """Lead until the run is closed. Raises TermOver once another one does."""
        await self.offer.begin()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = LeaderTasks(tasks)
            balance = await self.offer.balance()
            self._machine = LeaderMachine(
                plan=self.run.plan, log=self.run.log, balance=balance, now=time.monotonic(), grace_s=self._grace_s
            )
            working = [tasks.create_task(work) for work in (self._ticks(), self.offer.serve(self._tasks))]
            if reason := wish.kept(self.run):
                self._tell(rounds.Cancel(reason=reason))
            if self._machine.phase is not Phase.CLOSED:
                await self._closed.wait()
            for work in working:
                work.cancel()

    def cancel(self, reason: str) -> None:
        """End the run: what was delivered is settled, the rest of its credits goes back. A restart does not undo it."""
        wish.keep(self.run, reason)
        self._tell(rounds.Cancel(reason=reason))

    def peers(self) -> list[str]:
        """PeerIDs of the members whose heartbeats arrive."""
        return self._joined.peers(self._alive())

    def account_of(self, peer: str) -> str:
        """Account of a peer that joined, or ""."""
        return self._joined.account(peer)

    def _alive(self) -> frozenset[str]:
        return frozenset(member.account for member in self._machine.roll.alive()) if self._machine else frozenset()

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            assert self._machine is not None
            self.offer.check()
            self._carry_out(self._machine.tick(time.monotonic()))

    def _tell(self, message: LeaderMessage) -> None:
        if self._machine is None:
            raise Refused("FP-421", f"run {self.run.id[:16]}: the leader is still starting, try again")
        if not self.offer.overtaken:  # the next tick ends our leading
            self._carry_out(self._machine.receive(message, time.monotonic()))

    # ------------------------------------------------------------------ members' calls

    async def on_join(self, caller: str, body: Body) -> Body:
        """`run.join`: bind the caller's PeerID to its account by its advert."""
        self._joined.join(caller, body, self._alive())
        return {}

    async def on_beat(self, caller: str, body: Body) -> Body:
        """`run.beat`: note that the member lives, answer with what it may not know."""
        beat = Beat.read(body)
        self._tell(rounds.Beat(account=self._joined.account_of(caller), state=beat.state))
        log = self.run.log
        bulletin = self._checking.bulletin
        return bulletin.news(beat, caller=caller, size=log.certified, signed=log.size, peers=self.peers()).body()

    async def on_tail(self, caller: str, body: Body) -> Body:
        """`run.tail`: hand out what is signed and not certified yet."""
        AheadQuery.read(body)
        self._joined.account_of(caller)
        return self.offer.ahead().body()

    async def on_receipt(self, caller: str, body: Body) -> Body:
        """`run.receipt`: take a receipt, or refuse it by name."""
        account = self._joined.account_of(caller)
        try:
            delivery = Delivery.read(body)
            receipt = parse(delivery.receipt.encode())
            if not isinstance(receipt, Receipt):
                raise Refused("FP-416", f"delivery of {account[:16]}: a {receipt.type} entry, wanted a receipt")
            if receipt.account != account:
                raise Refused("FP-416", f"receipt of {receipt.account[:16]}: delivered by {account[:16]}")
            receipt.verify()
            known = self._machine is not None and receipt.account in self._machine.delivered
            self._tell(rounds.Delivered(receipt=receipt, took_s=delivery.took_ms / 1000))
        except RoundError as exc:
            told = self._verdicts.late(receipt, exc)
            await self._verdicts.refuse(account, told)
            raise Refused(told.code, told.message) from exc
        except (ForgeError, LedgerError) as exc:
            await self._verdicts.refuse(account, exc)
            raise Refused(exc.code, exc.message) from exc
        if not known:
            self._watch.mark("last_receipt")
        return {}

    async def on_cancel(self, caller: str, body: Body) -> Body:
        """`run.cancel`: the run's submitter wants it to end."""
        Cancellation.read(body)
        account = self._joined.account_of(caller)
        if account != self.run.spec["submitter"]:
            raise Refused("FP-433", f"run {self.run.id[:16]}: {account[:16]} did not submit it")
        self.cancel(CANCELLED_BY_SUBMITTER)
        return {}

    async def on_leave(self, caller: str, body: Body) -> Body:
        """`run.leave`: the member goes; nobody waits for it."""
        goodbye, account = Goodbye.read(body), self._joined.account_of(caller)
        if self.run.log.open is None or self.run.log.open.seat(account) is None:
            await self._verdicts.left(account, goodbye.reason)
        self._tell(rounds.Left(account=account, reason=goodbye.reason))
        return {}

    # ------------------------------------------------------------------ effects

    def _carry_out(self, effects: Sequence[LeaderEffect]) -> None:
        if self._tasks is None:
            return
        for effect in effects:
            self._tasks.start(self._do(effect))
        if self._machine is not None and self._machine.phase is Phase.CLOSED:
            self._closed.set()

    async def _do(self, effect: LeaderEffect) -> None:
        match effect:
            case Check():
                await self._check(effect.receipt)
            case ApplyRound():
                self._tell(await self._until_done(lambda: self._apply(effect)))
            case Evaluate():
                self._tell(await self._until_done(lambda: self._evaluate(effect)))
            case Log():
                await self._log(effect)
            case Report():
                self._verdicts.note(effect.event, effect.fields)
                await self.run.journal.add(effect.event, **effect.fields)

    async def _until_done(self, work: Callable[[], Any]) -> Any:
        """Our own worker may die; what the run needs of it is done again until it works."""
        while True:
            try:
                return await work()
            except (ForgeError, OSError) as exc:
                log.error("leader_effect_broke", run=self.run.id[:16], reason=str(exc))
                await self._disk.failed(exc)
                await asyncio.sleep(RETRY_S)

    async def _check(self, receipt: Receipt) -> None:
        assert self._tasks is not None
        checked = await self._checking.check(receipt, self.peers(), self._tasks)
        self._watch.mark("checked")
        self._tell(checked)

    async def _apply(self, effect: ApplyRound) -> LeaderMessage:
        open_round = self.run.log.open
        assert open_round is not None
        self._watch.mark("cut")
        await self._worker.stop()
        answer = await self._worker.apply(
            round_number=effect.round, state=open_round.state, receipts=effect.receipts, account=self._account
        )
        self._watch.note({f"apply_{part}": seconds for part, seconds in answer["seconds"].items()})
        self._watch.mark("applied")
        self._applied = str(answer["state"])
        if self._member is not None:
            self._member.tell(rounds.Holds(round=effect.round, state=self._applied))
        return rounds.Applied(round=effect.round, state=self._applied)

    async def _evaluate(self, effect: Evaluate) -> LeaderMessage:
        state = self._applied if self.run.log.round < effect.round else self.run.log.state_after(effect.round)
        if effect.account not in ("", self._account):
            peer = self._joined.peer_of(effect.account)
            return await evaluating.ask(self.run, self._network, peer, effect, state)
        loss = await self._worker.evaluate(state=state, sequences=int(self.run.config["evaluation"]["sequences"]))
        return rounds.Evaluated(round=effect.round, loss=loss)

    # ------------------------------------------------------------------ the log

    async def _log(self, effect: Log) -> None:
        assert self._tasks is not None
        self._watch.mark("appending")
        await self.offer.append(effect.entries, self._tasks)
        self._watch.mark("signed")
        if parts := self._watch.lap():
            await self.run.journal.add("timing", round=self.run.log.round, **parts)
        self._tell(rounds.Logged(balance=await self.offer.balance()))
