"""The runs that one daemon hosts: which it takes part in, in which roles, from joining to the last claim.

Composition of roles, no protocol of its own: a run is hosted by a member role, and by a leader role if its spec says
that we lead it; both share one worker, unless members train while a round is settled.

IO: through the parts it is given.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path

import structlog

from ledger.entries import Begin
from ledger.errors import LedgerError, SelfFork
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.directory import Directory
from peer.errors import ForgeError, Unfit
from peer.ledger.credits import Credits
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.network.network import Network
from peer.runs import past
from peer.runs.calls import Calls
from peer.runs.candidate import Candidate, being_cancelled, first_of
from peer.runs.departures import Departures
from peer.runs.hardware import Hardware
from peer.runs.matcher import choose
from peer.runs.presence import Attendance, Presence
from peer.runs.roles import AnyLeader, AnyMember, AnyWorker, Roles
from peer.runs.run import Run
from peer.runs.submission import begin
from peer.supervisor import Keeper

log = structlog.get_logger(__name__)

LOOK_S = 2.0
WHOLE_S = 10.0
"""Pause before a run whose log we must not write to is served again."""
LATE_ROUNDS = 64
"""Members of so many last rounds are asked for blobs."""
JOIN_AGAIN_S = 30.0
"""Pause before a peer whose run could not be joined is believed again."""


class Host:
    """All runs of one daemon. Written only by the daemon's own tasks."""

    def __init__(
        self,
        *,
        home: Path,
        network: Network,
        logs: Logs,
        replication: Replication,
        credits: Credits,
        store: BlobStore,
        directory: Directory,
        hardware: Hardware,
        max_runs: int,
    ) -> None:
        """Serve `run.*` on the network; work on `max_runs` runs at once, at most, and on none while paused."""
        self._home = home
        self._network = network
        self._logs = logs
        self._replication = replication
        self._directory = directory
        self._roles = Roles(
            logs=logs, replication=replication, network=network, store=store, fetcher=BlobFetcher(store, network),
            directory=directory, hardware=hardware,
        )  # fmt: skip
        self._keeper: Keeper | None = None
        self._max_runs = max_runs
        self._credits = credits
        self.presence = Presence.of(home)
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, AnyWorker] = {}
        self.members: dict[str, AnyMember] = {}
        self.leaders: dict[str, AnyLeader] = {}
        self._candidates: dict[str, Candidate] = {}
        self._not_before: dict[str, float] = {}
        self._departures = Departures(logs=logs, members=self.members, may_lead=self._may_lead)
        Calls(network=network, logs=logs, members=self.members, leaders=self.leaders)

    # ------------------------------------------------------------------ life

    def start(self, keeper: Keeper) -> None:
        """From now on runs can be hosted, by tasks of `keeper`."""
        self._keeper = keeper

    @property
    def busy(self) -> int:
        """How many runs we work on."""
        return sum(run.log.close is None and run.id not in self._departures.left for run in self.runs.values())

    def led(self) -> list[Run]:
        """The runs that we lead just now."""
        return [self.runs[run] for run in self.leaders]

    async def resume(self) -> None:
        """Take up the runs in the home folder; those that are not closed go on."""
        runs = self._home / "runs"
        for unfinished in [*runs.glob(".prepare-*"), *runs.glob(f"*/{past.FOLDER}*")]:
            await asyncio.to_thread(shutil.rmtree, unfinished, True)
        for folder in sorted(path.parent for path in runs.glob("[0-9a-f]*/spec.json")):
            run = Run.load(folder, self._logs)
            await run.refresh()
            self.runs[run.id] = run
            await self.worker(run).history.take_up()  # of all runs, before anything is fetched for any
        for run in list(self.runs.values()):
            if not await self._over(run):
                self.host(run)

    async def _over(self, run: Run) -> bool:
        """Whether a run is closed, its last state is here if we worked on it, and all is claimed."""
        if run.log.close is None:
            return False
        worked = run.journal.last("training") is not None or self._may_lead(run)
        here = self.worker(run).newest_state() == (run.log.round, run.log.state)
        return (here or not worked) and run.origin not in await self._credits.owed()

    async def look(self) -> None:
        """Again and again: join runs that are advertised."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.presence.back()
            adverts = self._directory.runs()
            now = time.monotonic()
            adverts = [advert for advert in adverts if self._not_before.get(advert.peer_id, now) <= now]
            await self._departures.leave_the_accused()
            idle = self._departures.idle()
            for advert in choose(adverts, taken=self.runs.keys(), busy=self.busy - len(idle), max_runs=self._max_runs):
                if self.busy >= self._max_runs and idle:
                    await self._departures.leave(idle.pop(), "its leader has no use for us, another run may")
                if advert.run not in self.runs:
                    await self._join(advert.run, advert.peer_id)

    async def _join(self, run_id: str, leader: str) -> None:
        """Fetch a run's log from its leader; its certified first entry is the spec."""
        origin = self._logs.genesis.run_origin(run_id)
        try:
            await self._replication.pull_log(leader, origin)
            first = (await self._logs.entries(origin, 0))[0]
            assert isinstance(first, Begin)  # the ledger refuses every other first entry
            run = Run.create(run=run_id, home=self._home, logs=self._logs, spec=dict(first.spec))
        except (ForgeError, LedgerError) as exc:
            log.warning("join_failed", run=run_id[:16], leader=leader, reason=str(exc))
            self._not_before[leader] = time.monotonic() + JOIN_AGAIN_S
            return
        await run.refresh()
        if run.log.close is not None:
            self.runs[run.id] = run  # over before we came: nothing to do, and not asked again
            return
        log.info("joining", run=run_id[:16], name=run.name)
        self.host(run)

    def host(self, run: Run) -> None:
        """Take part in a run until it is over."""
        assert self._keeper is not None  # `start` came first
        self.runs[run.id] = run
        self._keeper.keep(f"run-{run.id[:16]}", lambda: self._serve_when_whole(run))

    async def _serve_when_whole(self, run: Run) -> None:
        """Serve the run; while a log of ours must not be written to, which is told elsewhere, try again later."""
        while run.id not in self._departures.left and not being_cancelled():
            try:
                return await self._serve_run(run)
            except* SelfFork:
                log.warning("run_waits", run=run.id[:16], reason="a log of ours is not written to", again_in_s=WHOLE_S)
                await asyncio.sleep(0 if being_cancelled() else WHOLE_S)
            except* Unfit as group:
                await self._departures.unfit(run, first_of(group))

    async def _serve_run(self, run: Run) -> None:
        """Host one run until it is closed and our claims are in."""
        if run.spec["submitter"] == self._logs.account.public:
            await begin(self._credits, run)
            await run.refresh()
        worker = self.worker(run)
        await worker.history.take_up()
        if run.log.close is None or worker.newest_state() != (run.log.round, run.log.state):
            await self._take_part(run, worker)
        await self._claim(run)

    def _may_lead(self, run: Run) -> bool:
        return self._logs.account.public in run.leaders

    async def _take_part(self, run: Run, worker: AnyWorker) -> None:
        member = self.members[run.id] = self._roles.member(run, worker)
        try:
            async with asyncio.TaskGroup() as tasks:
                attendance = Attendance(
                    presence=self.presence,
                    member=member,
                    worker=worker,
                    leads=lambda: run.id in self.leaders and not run.plan.overlap,
                )
                tasks.create_task(attendance.serve())
                if self._may_lead(run):
                    candidate = self._candidates[run.id] = Candidate(
                        run=run, logs=self._logs, lead=lambda after: self._lead(run, worker, member, after=after),
                        waits=lambda: run.id not in self.leaders or self.leaders[run.id].offer.waits,
                    )  # fmt: skip
                    tasks.create_task(candidate.serve())
        finally:
            self.members.pop(run.id, None)
            self._candidates.pop(run.id, None)
            await worker.close()

    async def _lead(self, run: Run, worker: AnyWorker, member: AnyMember, *, after: bool) -> None:
        """Lead until the run is closed, or we are stopped; with overlap by a worker that does not train meanwhile."""
        own = self._roles.lead_worker(worker)
        leader = self.leaders[run.id] = self._roles.leader(run, own, worker, member, after=after)
        self._directory.refresh()
        try:
            await leader.serve()
        finally:
            leader.offer.end()
            self.leaders.pop(run.id, None)
            if own is not worker:
                await own.close()
            elif self.presence.paused:
                await worker.close()

    async def _claim(self, run: Run) -> None:
        """After the close: take over what the run owes us, as member and as funder."""
        amount = await self._credits.claim()
        await run.journal.add("claimed", micro_credits=amount)

    def worker(self, run: Run) -> AnyWorker:
        """The run's worker; its process starts with its first task."""
        if run.id not in self.workers:
            self.workers[run.id] = self._roles.worker(run, lambda: self._providers(run))
        return self.workers[run.id]

    def _providers(self, run: Run) -> list[str]:
        """Peers that may have the run's blobs, in any order: its members, its leader, and who was a member of late."""
        member, leader = self.members.get(run.id), self.leaders.get(run.id)
        peers = [*(member.heart.peers if member else []), *(leader.peers() if leader else [])]
        first = member.leader.peer if member else self._directory.peer_of(run.leaders[0])
        receipts = [one for done in run.log.settled[-LATE_ROUNDS:] for one in (*done.receipts, *done.staged)]
        late = {receipt.account: None for receipt in receipts}
        known = [first, *map(self._directory.peer_of, [*late, *run.leaders])]
        there = {peer for peer in (*peers, *known) if peer and peer != self._network.peer_id}
        return random.sample(sorted(there), len(there))  # so that not all ask the same one

    async def say_goodbye(self) -> None:
        """Tell the leaders that we stop, and the witnesses where we lead."""
        goodbyes = [candidate.leave() for candidate in self._candidates.values()]
        goodbyes += [member.heart.say_goodbye("the peer stops") for member in self.members.values()]
        await asyncio.gather(*goodbyes, return_exceptions=True)

    def account_of(self, peer: str) -> str:
        """The account of a peer, from its advert or as it joined a run that we lead; or ""."""
        joined = (leader.account_of(peer) for leader in self.leaders.values())
        return self._directory.account_of(peer) or next(filter(None, joined), "")

    def followed(self) -> frozenset[str]:
        """The logs of the runs that we know, wanted whether or not a certified entry refers to them."""
        return frozenset(map(self._logs.genesis.run_origin, self.runs))
