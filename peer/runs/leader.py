"""The leader's part in a run whose members hold the whole model: carries out what its round machine asks for.

The leader's own worker decodes every update before it counts and computes the next state; if this daemon trains too,
the member role shares that worker, but not in runs with overlap: there the member trains while a round is settled.
Only this role writes the run's log.

IO: the run's log, members' blobs and messages over the network, the run's worker.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

from ledger.entries import Receipt, parse
from ledger.errors import LedgerError
from peer.errors import ForgeError, Refused, RoundError
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.messages import Beat, CountedUpdate, CutNews, Delivery
from peer.network.network import Network
from peer.rounds import messages as rounds
from peer.rounds.lead import LeaderMachine, Phase
from peer.rounds.messages import ApplyRound, Check, Evaluate, LeaderEffect, LeaderMessage, Log, Report
from peer.runs import evaluating
from peer.runs.checking import Checking
from peer.runs.leading import Body, Leading
from peer.runs.member import Member
from peer.runs.run import Run
from peer.runs.worker import RunWorker

FIND_S = 8.0  # how long members may take to find a new leader


class Leader(Leading):
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
            worker: the run's worker.
            logs: the ledger replica.
            replication: sends members what is new in it.
            network: libp2p.
            account: ours.
            member: our own member role, if it shares the worker; else this role alone keeps it going.
            after_another: whether another one led before, whose members have to find us first.
        """
        super().__init__(run=run, logs=logs, replication=replication, network=network, account=account)
        self._worker = worker
        self._member = member
        self._grace_s = FIND_S if after_another else None
        self._machine: LeaderMachine | None = None
        self._applied = ""
        """Id of the state after the open round, once our worker has it; the log names it a little later."""
        self._checking = Checking(
            run=run, fetch=worker.fetch, decode=lambda path, receipt: worker.check(path, receipt.state_in),
            joined=self._joined, push=self._push, disk=self._disk, rng=Random(),
        )  # fmt: skip

    # ------------------------------------------------------------------ the machine

    def _begin(self, balance: int, now: float) -> None:
        self._machine = LeaderMachine(
            plan=self.run.plan, log=self.run.log, balance=balance, now=now, grace_s=self._grace_s
        )

    @property
    def _over(self) -> bool:
        return self._machine is not None and self._machine.phase is Phase.CLOSED

    def _alive(self) -> frozenset[str]:
        return frozenset(member.account for member in self._machine.roll.alive()) if self._machine else frozenset()

    def _tick(self, now: float) -> None:
        assert self._machine is not None
        self._carry_out(self._machine.tick(now))

    def _told(self, message: rounds.Cancel | rounds.Left | rounds.Logged) -> None:
        self._tell(message)

    def _tell(self, message: LeaderMessage) -> None:
        if self._machine is None:
            raise self._starting()
        if not self.offer.overtaken:  # the next tick ends our leading
            self._carry_out(self._machine.receive(message, time.monotonic()))

    # ------------------------------------------------------------------ members' calls

    async def on_beat(self, caller: str, body: Body) -> Body:
        """`run.beat`: note that the member lives, answer with what it may not know."""
        beat = Beat.read(body)
        self._tell(rounds.Beat(account=self._joined.account_of(caller), state=beat.state))
        log = self.run.log
        bulletin = self._checking.bulletin
        return bulletin.news(beat, caller=caller, size=log.certified, signed=log.size, peers=self.peers()).body()

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

    # ------------------------------------------------------------------ effects

    def _carry_out(self, effects: Sequence[LeaderEffect]) -> None:
        self._start(map(self._do, effects))

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

    async def _check(self, receipt: Receipt) -> None:
        assert self._tasks is not None
        checked = await self._checking.check(receipt, self.peers(), self._tasks)
        self._watch.mark("checked")
        self._tell(checked)

    async def _apply(self, effect: ApplyRound) -> LeaderMessage:
        open_round = self.run.log.open
        assert open_round is not None
        self._watch.mark("cut")
        self._tell_cut(effect)
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

    def _tell_cut(self, effect: ApplyRound) -> None:
        """Members that do not train on may apply it while we do."""
        if self.run.plan.overlap or self._tasks is None or not effect.receipts:
            return
        counted = [CountedUpdate(account=r.account, update=r.update, tokens=r.tokens) for r in effect.receipts]
        self._push.cut(self._tasks, self.peers(), CutNews(run=self.run.id, round=effect.round, counted=counted))

    async def _evaluate(self, effect: Evaluate) -> LeaderMessage:
        state = self._applied if self.run.log.round < effect.round else self.run.log.state_after(effect.round)
        if effect.account not in ("", self._account):
            peer = self._joined.peer_of(effect.account)
            return await evaluating.ask(self.run, self._network, peer, effect, state)
        loss = await self._worker.evaluate(state=state, sequences=int(self.run.config["evaluation"]["sequences"]))
        return rounds.Evaluated(round=effect.round, loss=loss)
