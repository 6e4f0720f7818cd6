"""A member's part in a run with stages: a replica of one stage, and of the first one a driver.

It carries out what its machine asks for, tells the leader how it stands, and serves other drivers' passes.

IO: statuses, passes and blobs over the network; a stage in the run's worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random

import structlog

from ledger.entries import StageReceipt
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from peer.errors import ForgeError, NetworkError, WorkerDied, WorkerRefused
from peer.files import write_atomic
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.network.network import Network
from peer.rounds.messages import LogGrew
from peer.runs import wish
from peer.runs.disk import Disk
from peer.runs.following import Following
from peer.runs.heart import BEAT_S, BEAT_TIMEOUT_S, Heart
from peer.runs.prefetch import Prefetcher
from peer.runs.roletasks import RoleTasks
from peer.runs.run import Run
from peer.runs.staged import promises
from peer.runs.staged.driving import Driving
from peer.runs.staged.expert_driving import ExpertDriving
from peer.runs.staged.expert_looking import ExpertLooking
from peer.runs.staged.expert_serving import ExpertServing
from peer.runs.staged.loads import Load
from peer.runs.staged.looking import Looking
from peer.runs.staged.messages import Standing as StandingBody
from peer.runs.staged.serving import Serving
from peer.runs.staged.steps import Steps
from peer.runs.staged.worker import StageWorker
from peer.runs.standing import Standing
from peer.runs.unfit import unless_unfit
from peer.runs.whereabouts import Whereabouts
from peer.stages import tasks
from peer.stages.routing import Router
from peer.stages.serve import ReplicaMachine

log = structlog.get_logger(__name__)

TICK_S = 0.25


class StagedMember:
    """Takes part in one run until it is closed; `serve` is its life."""

    def __init__(
        self, *, run: Run, worker: StageWorker, logs: Logs, replication: Replication, network: Network,
        key: PrivateKey, advert: Callable[[], str], leader: Whereabouts, account_of: Callable[[str], str],
        peer_of: Callable[[str], str | None],
    ) -> None:  # fmt: skip
        """Take up the run where the home folder stands.

        Args:
            run: the run, whose model is cut.
            worker: its worker, shared with the leader role if we lead it.
            logs: the ledger replica.
            replication: fetches what we lack of it.
            network: libp2p.
            key: our account, which signs receipts.
            advert: our signed peer advert, which binds our PeerID to our account.
            leader: where the leader is.
            account_of: the account of a PeerID, or empty.
            peer_of: where an account's peer is, if that is known.
        """
        assert run.staged is not None
        self.run, self.leader = run, leader
        self._plan = run.staged
        self._key, self._worker = key, worker
        self.machine = self._machine(None)
        self.prefetcher = Prefetcher(
            worker.fetch, round_number=lambda: run.log.round, most_bytes=run.plan.most_update_bytes,
            budget_bytes=worker.prefetch_bytes, rng=Random(),
        )  # fmt: skip
        self.following = Following(run=run, logs=logs, replication=replication, leader=leader, grew=self._grew)
        self.heart = Heart(
            run=run, network=network, replication=replication, advert=advert, leader=leader,
            state=lambda: self.machine.holding.state, on_update=self.prefetcher.want, on_ahead=self.following.go_ahead,
            on_joined=self._say_now,
        )  # fmt: skip
        self.standing = Standing(run=run, account=key.public, leader=leader, call=self.heart.call)
        experts = bool(run.staged.experts)
        self.serving = (ExpertServing if experts else Serving)(
            machine=lambda: self.machine, worker=worker, tell=self.tell, account_of=account_of
        )
        self._driving = (ExpertDriving if experts else Driving)(
            run=run, account=key.public, network=network, worker=worker, serving=self.serving, peer_of=peer_of
        )
        self.looking = (ExpertLooking if experts else Looking)(run=run, network=network, worker=worker, peer_of=peer_of)
        self._steps = Steps(run=run, worker=worker, key=key)
        self._tasks: RoleTasks | None = None
        self._finished = asyncio.Event()
        self._say = asyncio.Event()
        self._beating: list[asyncio.Task[None]] = []
        self._disk = Disk(run, key.public)

    def _machine(self, held: tuple[int, int, str] | None) -> ReplicaMachine:
        hardware, path = self._worker.hardware, self.run.folder / "life"
        life = int(path.read_text()) + 1 if path.exists() else 1
        write_atomic(path, str(life).encode())
        return ReplicaMachine(
            account=self._key.public, life=life, log=self.run.log, plan=self._plan, router=Router(Random()),
            held=held, stage=self._worker.served(), promised=self._promised(),
            memory_bytes=hardware.memory_bytes or hardware.machine_bytes,
        )  # fmt: skip

    def _promised(self) -> list[StageReceipt]:
        """What we signed before a restart, where the update is still here."""
        here = self._worker.files.store.has
        return [receipt for receipt in promises.kept(self.run) if here(receipt.update)]

    # ------------------------------------------------------------------ life

    async def serve(self) -> None:
        """Take part until the run is closed and its final state is here.

        The stage is loaded before the first heartbeat, so that a new leader hears at once what is held.
        """
        held = self._worker.newest_held()
        if held is not None:
            try:
                await self._worker.load(held[1], held[2])
            except WorkerRefused as exc:
                await unless_unfit(exc, self.run, self.heart.ask)
                raise
        self.machine = self._machine(held)
        works = [self.heart.serve(), self._statuses(), self.prefetcher.serve(), self.following.follow(), self._ticks()]
        if self.run.spec["submitter"] == self._key.public:
            works.append(wish.insist(self.run, self.heart.ask))
        try:
            async with asyncio.TaskGroup() as tasks_:
                self._tasks = RoleTasks(tasks_)
                helpers = [tasks_.create_task(work) for work in [*works, self.standing.serve()]]
                self._beating = helpers[:2]
                self.tell(LogGrew())
                await self._finished.wait()
                await self._keep_final()
                for helper in helpers:
                    helper.cancel()
        finally:
            self._tasks = None

    async def _keep_final(self) -> None:
        """Who submitted the run has all of its final model, as long as somebody has it."""
        if self.run.spec["submitter"] != self._key.public or self.run.log.close is None:
            return
        for stage, state in enumerate(self.run.log.states_after(self.run.log.round)):
            try:
                await self._worker.fetch(state)
            except (ForgeError, OSError) as exc:
                log.warning("final_state_missing", run=self.run.id[:16], stage=stage, reason=str(exc))

    async def leave(self, reason: str) -> None:
        """Say goodbye at once: what we served of the open round is replayed by others."""
        for beating in self._beating:
            beating.cancel()  # a heartbeat after the goodbye would take it back
        if self._tasks is not None:
            await self.heart.say_goodbye(reason)

    def finish(self) -> None:
        """Take part no more, though the run is not over."""
        self._finished.set()

    def tell(self, message: tasks.ReplicaMessage) -> None:
        """Give the machine a message and start what it asks for; while we do not serve, it is asked nothing."""
        if self._tasks is not None:
            self._carry_out(self.machine.receive(message, time.monotonic()))

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._worker.lost():
                self.tell(tasks.WorkerLost())
            self._carry_out(self.machine.tick(time.monotonic()))
            await self.run.uncertified.tell(self.run.log, time.monotonic())

    def load(self) -> Load:
        """What we serve, and how busy that keeps us."""
        work = self.machine.work
        return Load(
            stage=self.machine.holding.serves, queue=work.under_way if work is not None else 0,
            busy=self._worker.busy, microbatch_s=self.machine.microbatch_s,
        )  # fmt: skip

    # ------------------------------------------------------------------ the leader

    def _say_now(self) -> None:
        self._say.set()

    async def _statuses(self) -> None:
        """Tell the leader how we stand: once a second, and at once when it should know."""
        heard = True
        while True:
            self._say.clear()
            load = self.load()
            body = StandingBody.of(
                self.run.id, self.machine.status(), self.run.log.open, queue=load.queue, busy=load.busy
            )
            try:
                await self.heart.ask("stage.status", body.body(), BEAT_TIMEOUT_S)
                heard = True
            except (NetworkError, LedgerError) as exc:
                if heard:
                    log.warning("status_not_heard", run=self.run.id[:16], reason=str(exc))
                heard = False
                await asyncio.sleep(BEAT_S / 4)
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._say.wait()
            except TimeoutError:
                continue

    async def _grew(self) -> None:
        await self.standing.look(self.machine.holding.state)
        self.tell(LogGrew())

    # ------------------------------------------------------------------ effects

    def _carry_out(self, effects: Sequence[tasks.ReplicaEffect]) -> None:
        if self._tasks is None or self._finished.is_set():
            return
        for effect in effects:
            self._tasks.start(self._try(effect))
        machine = self.machine
        through = machine.finished or (self.run.log.close is not None and machine.holding.stage is None)
        if through and machine.busy is None:
            self._finished.set()

    async def _try(self, effect: tasks.ReplicaEffect) -> None:
        try:
            answer = await self._do(effect)
        except (ForgeError, LedgerError, OSError) as exc:
            await unless_unfit(exc, self.run, self.heart.ask)
            await self._disk.failed(exc)
            name = type(effect).__name__.lower()
            log.warning("effect_broke", run=self.run.id[:16], effect=name, reason=str(exc))
            if isinstance(exc, WorkerDied) and self._worker.lost():
                self.tell(tasks.WorkerLost())
            self.tell(tasks.StageBroke(effect=effect, reason=str(exc)))
            return
        if answer is not None:
            self.tell(answer)

    async def _do(self, effect: tasks.ReplicaEffect) -> tasks.ReplicaMessage | None:
        steps, machine = self._steps, self.machine
        match effect:
            case tasks.Say():
                self._say.set()
            case tasks.Call():
                return await self._driving.call(effect)
            case tasks.OpenStage():
                await steps.begin(effect, machine.work)
            case tasks.LoadStage():
                return await steps.load(effect)
            case tasks.Undo():
                return await steps.undo(effect, machine.work)
            case tasks.WriteUpdate():
                return await steps.write(effect)
            case tasks.SumUpdates():
                return await steps.norm(effect)
            case tasks.ApplyStage():
                assert machine.holding.held is not None  # it applies to what it holds
                return await steps.apply(effect, machine.holding.held)
        return None
