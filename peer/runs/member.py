"""A member's part in a run: carries out what its round machine asks for.

IO: heartbeats, receipts and blobs over the network; training in the run's worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from random import Random

import structlog

from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from peer.blobs.chunks import BlobName
from peer.errors import ForgeError, WorkerRefused
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.messages import CutNews
from peer.network.network import Network
from peer.rounds import ahead as rounds_ahead
from peer.rounds.cut import ApplyCut, Counted, Cut
from peer.rounds.delivery import Promise
from peer.rounds.follow import MemberMachine
from peer.rounds.messages import (
    Broke,
    Deliver,
    Finish,
    Holds,
    Load,
    LogGrew,
    MemberEffect,
    MemberMessage,
    Paused,
    Redeliver,
    Replay,
    Stop,
    ThrowAway,
    Train,
    TrainAhead,
    Welcomed,
)
from peer.runs import ahead, wish
from peer.runs.disk import Disk
from peer.runs.following import Following
from peer.runs.heart import Heart
from peer.runs.lag import Lag
from peer.runs.prefetch import Prefetcher
from peer.runs.receipts import Receipts
from peer.runs.roletasks import RoleTasks
from peer.runs.run import Run
from peer.runs.standing import Standing
from peer.runs.unfit import unless_unfit
from peer.runs.whereabouts import Whereabouts
from peer.runs.worker import Counts, RunWorker
from peer.supervisor import Fields

log = structlog.get_logger(__name__)

TICK_S = 0.25
FAREWELL_S = 15.0
"""Who pauses has so long for the end of a step and the delivery of what was trained."""


class Member:
    """Takes part in one run until it is closed; `serve` is its life."""

    def __init__(
        self,
        *,
        run: Run,
        worker: RunWorker,
        logs: Logs,
        replication: Replication,
        network: Network,
        key: PrivateKey,
        advert: Callable[[], str],
        leader: Whereabouts,
    ) -> None:
        """Take up the run where the home folder stands.

        Args:
            run: the run.
            worker: its worker, shared with the leader role if we lead it.
            logs: the ledger replica.
            replication: fetches what we lack of it.
            network: libp2p.
            key: our account, which signs receipts.
            advert: our signed peer advert, which binds our PeerID to our account.
            leader: where the leader is.
        """
        self.run = run
        self.leader = leader
        """Where the leader is."""
        self._key = key
        self.machine = self._machine(None)
        self.prefetcher = Prefetcher(
            worker.fetch, round_number=lambda: run.log.round, most_bytes=run.plan.most_update_bytes,
            budget_bytes=worker.prefetch_bytes, rng=Random(),
        )  # fmt: skip
        self.following = Following(run=run, logs=logs, replication=replication, leader=leader, grew=self._grew)
        self.heart = Heart(
            run=run,
            network=network,
            replication=replication,
            advert=advert,
            leader=leader,
            state=lambda: self.machine.state,
            on_update=self.prefetcher.want,
            on_ahead=self.following.go_ahead,
            on_joined=lambda: self.tell(Welcomed()),
        )
        self._worker = worker
        self._tasks: RoleTasks | None = None
        self._finished = asyncio.Event()
        self._quiet = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._lag = Lag(run)
        self._disk = Disk(run, key.public)
        self.standing = Standing(run=run, account=key.public, leader=leader, call=self.heart.call)
        self._receipts = Receipts(run=run, key=key, leader=leader, call=self.heart.call, taken=self.standing.taken)

    def _machine(self, held: tuple[int, str] | None) -> MemberMachine:
        return MemberMachine(
            account=self._key.public,
            log=self.run.log,
            state_bytes=int(self.run.blobs["state"].rpartition("-")[2]),
            held=held,
            promised=[Promise(r.round, r.state_in, *r.slots) for r in self.run.promised()],
            ahead=rounds_ahead.Ahead(account=self._key.public, plan=self.run.plan) if self.run.plan.overlap else None,
        )

    # ------------------------------------------------------------------ life

    async def serve(self) -> None:
        """Take part until the run is closed and its final state is here.

        The worker is warm before the first heartbeat: nobody rosters a member that still loads its libraries.
        """
        held = self._worker.newest_state()
        if held is not None:
            self._lag.fell(held[0], empty=self.machine.held is None)
            try:
                await self._worker.load(*held)
            except WorkerRefused as exc:
                await unless_unfit(exc, self.run, self.heart.ask)
                raise
        self.machine = self._machine(held)
        works = [self.heart.serve(), self.prefetcher.serve(), self.following.follow()]
        works += [self._ticks(), self.standing.serve()]
        if self.run.spec["submitter"] == self._key.public:
            works.append(wish.insist(self.run, self.heart.ask))
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = RoleTasks(tasks)
                helpers = [tasks.create_task(work) for work in works]
                self._beating = helpers[0]
                self.tell(LogGrew())
                await self._finished.wait()
                for helper in helpers:
                    helper.cancel()
        finally:
            self._tasks = None

    async def leave(self, reason: str) -> None:
        """Say goodbye at once, end the training with its current step, and deliver what there is, if it is in time."""
        if self._tasks is None or self._beating is None:
            return  # nobody has heard of us
        self._beating.cancel()  # a heartbeat after the goodbye would take it back
        self._quiet.clear()
        self.tell(Paused())
        await self.heart.say_goodbye(reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._quiet.wait()

    def tell(self, message: MemberMessage) -> None:
        """Give the machine a message and start what it asks for; while we do not serve, it is asked nothing."""
        if self._tasks is not None:
            self._carry_out(self.machine.receive(message, time.monotonic()))

    async def evaluate(self, state: str) -> int:
        """Held-out loss of `state` in micro-nats, between two trainings.

        Raises:
            ForgeError: the worker holds another state by then, or cannot measure.
        """
        return await self._worker.evaluate_held(state=state, sequences=int(self.run.config["evaluation"]["sequences"]))

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._carry_out(self.machine.tick(time.monotonic()))
            await self.run.uncertified.tell(self.run.log, time.monotonic())

    def hear_cut(self, news: CutNews) -> None:
        """Our leader says what the open round is cut with."""
        counted = tuple(Counted(account=one.account, update=one.update, tokens=one.tokens) for one in news.counted)
        if all(BlobName.parse(one.update).length <= self.run.plan.most_update_bytes for one in counted):
            self.tell(Cut(round=news.round, counted=counted))

    async def _grew(self) -> None:
        await self.standing.look(self.machine.state)
        self.tell(LogGrew())

    # ------------------------------------------------------------------ effects

    def _carry_out(self, effects: Sequence[MemberEffect]) -> None:
        if self._tasks is None or self._finished.is_set():
            return
        for effect in effects:
            self._tasks.start(self._try(effect))
        if self.machine.quiet:
            self._quiet.set()
        if self.machine.finished and self.machine.busy is None:
            self._finished.set()

    async def _try(self, effect: MemberEffect) -> None:
        try:
            answer = await self._do(effect)
        except (ForgeError, LedgerError, OSError) as exc:
            await unless_unfit(exc, self.run, self.heart.ask)
            await self._disk.failed(exc)
            if not isinstance(effect, Stop):
                log.warning("effect_broke", run=self.run.id[:16], effect=type(effect).__name__.lower(), reason=str(exc))
                self.tell(Broke(effect=effect, reason=str(exc)))
            return
        if answer is not None:
            self.tell(answer)

    def finish(self) -> None:
        """Take part no more, though the run is not over; what is trained just now is not waited for."""
        self._carry_out([Stop()])
        self._finished.set()

    async def _do(self, effect: MemberEffect) -> MemberMessage | None:
        match effect:
            case Load():
                return await self._load(effect)
            case Replay():
                return await self._replay(effect)
            case ApplyCut(open=opened):
                answer = await self._apply(opened.round, opened.state, effect.counted)
                return Holds(round=opened.round, state=str(answer["state"]))
            case Train():
                await self.run.journal.add("training", round=effect.open.round, slots=[effect.start, effect.quota])
                return await self._worker.train(
                    round_number=effect.open.round,
                    state=effect.open.state,
                    start=effect.start,
                    quota=effect.quota,
                    seconds=self.run.plan.time_budget_s,
                    account=self._key.public,
                )
            case TrainAhead():
                basis = effect.basis
                await self.run.journal.add("training", round=basis.round, slots=[basis.start, effect.quota], ahead=1)
                return await ahead.train(self._worker, effect)
            case Finish():
                return await ahead.finish(self._worker, effect, self._key.public)
            case ThrowAway():
                fields = {"round": effect.round, "slots": effect.slots, "reason": effect.reason}
                await self.run.journal.add("thrown_away", **fields)
                return None
            case Stop():
                await self._worker.stop()
                return None
            case Deliver():
                return await self._receipts.deliver(effect)
            case Redeliver():
                return await self._receipts.deliver_again(effect.round)

    async def _load(self, effect: Load) -> MemberMessage:
        self._lag.fell(effect.round, empty=self.machine.held is None)
        await self._worker.load(effect.round, effect.state)
        self._lag.loaded()
        await self._lag.reached(effect.round)
        return Holds(round=effect.round, state=effect.state)

    async def _replay(self, effect: Replay) -> MemberMessage:
        settled = effect.settled
        self._lag.fell(settled.round, empty=self.machine.held is None)
        answer = await self._apply(settled.round, settled.state_in, settled.receipts)
        if answer["state"] != settled.state:
            log.error("state_differs", round=settled.round, got=answer["state"], wanted=settled.state)
        await self._lag.reached(settled.round)
        return Holds(round=settled.round, state=str(answer["state"]))

    async def _apply(self, round_number: int, state: str, counted: Sequence[Counts]) -> Fields:
        return await self._worker.apply(
            round_number=round_number, state=state, receipts=counted, account=self._key.public
        )
