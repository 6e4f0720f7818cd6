"""The leader's part in a run with stages: carries out what its machine asks for, and hears how the members stand.

Every update is fetched and strictly decoded before it counts, by the worker that serves our own stage: it knows the
layouts of all of them. Nobody here computes the whole model: replicas of a stage say what came of their step.

IO: the run's log, members' blobs and messages over the network, the run's worker.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from random import Random

import structlog

from ledger.entries import StageReceipt
from ledger.errors import LedgerError
from peer.errors import ForgeError, NetworkError, Refused
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.messages import Beat, HeldOutLoss
from peer.network.network import Network
from peer.rounds import messages as rounds
from peer.runs.bulletin import Bulletin
from peer.runs.checking import Checking
from peer.runs.leading import Body, Leading
from peer.runs.run import Run
from peer.runs.staged.bodies import HeldOutQuery
from peer.runs.staged.loads import Load, stages_of
from peer.runs.staged.messages import Standing, on_the_wire
from peer.runs.staged.worker import StageWorker
from peer.stages.lead import Phase, StageLeader
from peer.stages.messages import CheckUpdate, StageLeaderEffect, StageLeaderMessage, Tell

log = structlog.get_logger(__name__)

LOOK_S = 120.0
MOST_MAKERS = 4096
COPIED = "FP-107"
"""As an update that no honest member sends: gradients of different microbatches are never the same."""


class StagedLeader(Leading):
    """Leads one run until it is closed; `serve` is its life."""

    def __init__(
        self, *, run: Run, worker: StageWorker, logs: Logs, replication: Replication, network: Network, account: str,
        life: int,
    ) -> None:  # fmt: skip
        """Take over the run where its log stands.

        Args:
            run: the run, whose log we may write and whose model is cut.
            worker: the run's worker, shared with our member role.
            logs: the ledger replica.
            replication: sends members what is new in it.
            network: libp2p.
            account: ours.
            life: grows whenever we begin to lead.
        """
        super().__init__(run=run, logs=logs, replication=replication, network=network, account=account)
        assert run.staged is not None
        self._plan = run.staged
        self._life = life
        self._machine: StageLeader | None = None
        self._bulletin = Bulletin()
        """Stays empty: updates are of use to one stage only, which is told of them by name."""
        self.loads: dict[str, Load] = {}
        """How busy members are, by account, as they said last."""
        self._makers: dict[str, str] = {}
        """By update: the account that delivered it first."""
        self._unsound: set[str] = set()
        """Signatures of receipts whose updates were refused for what they hold, in this round."""
        self._sound: set[str] = set()
        """Signatures that were verified in this round."""
        self._checking = Checking(
            run=run, fetch=worker.fetch, decode=worker.check, joined=self._joined, push=self._push, disk=self._disk,
            rng=Random(),
        )  # fmt: skip

    # ------------------------------------------------------------------ the machine

    def _begin(self, balance: int, now: float) -> None:
        name = f"{self._account}/{self._life}"
        self._machine = StageLeader(name=name, plan=self._plan, log=self.run.log, balance=balance, now=now)

    @property
    def _over(self) -> bool:
        return self._machine is not None and self._machine.phase is Phase.CLOSED

    def _alive(self) -> frozenset[str]:
        return frozenset(member.account for member in self._machine.roll.alive()) if self._machine else frozenset()

    def _tick(self, now: float) -> None:
        assert self._machine is not None
        self._start(map(self._do, self._machine.tick(now)))

    def _told(self, message: rounds.Cancel | rounds.Left | rounds.Logged) -> None:
        self._tell(message)

    def _tell(self, message: StageLeaderMessage) -> None:
        if self._machine is None:
            raise self._starting()
        if not self.offer.overtaken:  # the next tick ends our leading
            self._start(map(self._do, self._machine.receive(message, time.monotonic())))

    # ------------------------------------------------------------------ members' calls

    async def on_beat(self, caller: str, body: Body) -> Body:
        """`run.beat`: answer with what the member may not know; that it lives it says with its status."""
        beat, log = Beat.read(body), self.run.log
        self._joined.account_of(caller)
        news = self._bulletin.news(beat, caller=caller, size=log.certified, signed=log.size, peers=self.peers())
        return news.body()

    async def on_receipt(self, caller: str, body: Body) -> Body:
        """`run.receipt`: not in this run."""
        raise Refused("FP-416", f"run {self.run.id[:16]}: its model is cut into stages, receipts come with statuses")

    async def on_status(self, caller: str, body: Body) -> Body:
        """`stage.status`: how a member stands."""
        account = self._joined.account_of(caller)
        try:
            told = Standing.read(body)
            status = told.status(account, self.run.log.open)
            for receipt in (*([status.receipt] if status.receipt is not None else []), *status.cut):
                self._verify(receipt)
            self._tell(status)
        except Refused:
            raise
        except (ForgeError, LedgerError) as exc:
            await self._verdicts.refuse(account, exc)
            raise Refused(exc.code, exc.message) from exc
        self.loads[account] = Load(
            stage=status.stage, queue=told.queue, busy=told.busy / 1000, microbatch_s=status.microbatch_s
        )
        return {}

    def _verify(self, receipt: StageReceipt) -> None:
        """Raises LedgerError unless its account signed it; what was verified is not verified again."""
        text = receipt.encode().decode()
        if text not in self._sound:
            receipt.verify()
            self._sound.add(text)

    # ------------------------------------------------------------------ effects

    async def _do(self, effect: StageLeaderEffect) -> None:
        match effect:
            case Tell():
                await self._order(effect)
            case CheckUpdate():
                await self._check(effect.receipt)
            case rounds.Evaluate():
                self._tell(await self._evaluate(effect))
            case rounds.Log():
                self._sound.clear()
                self._unsound.clear()
                alive = self._alive()
                self.loads = {account: load for account, load in self.loads.items() if account in alive}
                await self._log(effect)
                if self.run.log.open is not None:
                    await self.run.journal.add("stages", stages=stages_of(self.run, self.loads))
            case rounds.Report():
                self._verdicts.note(effect.event, effect.fields)
                await self.run.journal.add(effect.event, **effect.fields)

    async def _evaluate(self, effect: rounds.Evaluate) -> rounds.Evaluated | rounds.Unevaluated:
        """Have a driver measure the held-out loss: who is named, else any that can."""
        assert self._machine is not None
        seats = [seat.account for seat in self.run.log.last_roster if seat.stage == 0]
        drivers = [effect.account] if effect.account else random.sample(seats, len(seats))
        body = HeldOutQuery(run=self.run.id, states=list(self._machine.states_of(effect.round))).body()
        for account in drivers:
            try:
                if (peer := self._joined.peer_of(account)) is not None:
                    answer = await self._network.call(peer, "stage.held_out", body, timeout_s=LOOK_S)
                    loss = HeldOutLoss.read(answer).loss
                    return rounds.Evaluated(round=effect.round, loss=loss, account=effect.account)
            except NetworkError as exc:
                log.info("not_evaluated", run=self.run.id[:16], account=account, reason=str(exc))
        return rounds.Unevaluated(round=effect.round, account=effect.account)

    async def _order(self, effect: Tell) -> None:
        peer = self._joined.peer_of(effect.account)
        if peer is not None:
            method, body = on_the_wire(self.run.id, effect.order)
            await self._push.send(peer, method, body.body())

    async def _check(self, receipt: StageReceipt) -> None:
        assert self._tasks is not None
        if receipt.signature in self._unsound:
            return  # it comes with every status, and counts as one offence
        if len(self._makers) > MOST_MAKERS:
            self._makers.clear()
        if (maker := self._makers.setdefault(receipt.update, receipt.account)) != receipt.account:
            refusal = (COPIED, f"update {receipt.update[:16]}: is that of {maker[:16]}, who delivered it first")
            checked = rounds.Checked(account=receipt.account, update=receipt.update, refusal=refusal)
        else:
            members = self._interested(receipt)  # who are all told: there are no heartbeats that would tell them later
            checked = await self._checking.check(receipt, members, self._tasks, most=len(members))
        if checked.unsound:
            self._unsound.add(receipt.signature)
        self._tell(checked)

    def _interested(self, receipt: StageReceipt) -> Sequence[str]:
        """PeerIDs of those who will sum the update: its stage's, and of the ends, which may share a tensor."""
        opened, last = self.run.log.open, self._plan.stages - 1
        stages = {0, last} if receipt.stage in (0, last) else {receipt.stage}
        seats = opened.roster if opened is not None else ()
        return self._joined.peers(frozenset(seat.account for seat in seats if seat.stage in stages))
