"""The daemon's face: everything that the gateway asks for.

IO: through the parts it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from peer.directory import Directory
from peer.errors import RunError
from peer.ledger.credits import Credits
from peer.ledger.logs import Logs
from peer.network.network import Network
from peer.runs import provenance, wish
from peer.runs.host import Host
from peer.runs.run import Run
from peer.runs.staged.leader import StagedLeader
from peer.runs.staged.loads import Load, stages_of
from peer.runs.staged.member import StagedMember
from peer.runs.staged.worker import StageWorker
from peer.runs.submission import Submitter
from peer.runs.worker import RunWorker
from peer.supervisor import Fields


class Node:
    """What a person can ask of one daemon."""

    def __init__(
        self,
        *,
        home: Path,
        network: Network,
        logs: Logs,
        credits: Credits,
        directory: Directory,
        host: Host,
        submitter: Submitter,
        facts: Fields,
        stop: asyncio.Event,
    ) -> None:
        """Answer from these parts; `facts` are what `status` says of this machine, `stop` ends the daemon."""
        self._home = home
        self._network = network
        self._logs = logs
        self._credits = credits
        self._directory = directory
        self._host = host
        self._submitter = submitter
        self._facts = facts
        self._stop = stop

    async def shutdown(self) -> None:
        """End the daemon, cleanly."""
        self._stop.set()

    async def status(self) -> Fields:
        """This peer: identity, addresses, machine, runs."""
        runs = [await self.job(run) for run in self._host.runs]
        credits = await self._credits.balance(self._logs.account.public)
        return {
            **self._facts,
            "account": self._logs.account.public,
            "peer_id": self._network.peer_id,
            "addresses": await self._network.addresses(),
            "peers": len(self._directory.peers()),
            "credits": credits,
            "workers": [worker.pid for worker in self._host.workers.values() if worker.pid],
            "paused": self._paused(),
            "runs": runs,
            "not_written": [f"{origin}: {why}" for origin, why in self._logs.forks.items()],
        }

    async def pause(self, seconds: float | None) -> Fields:
        """Train no more for so long, or until `resume`; the rest of the peer goes on."""
        self._host.presence.pause(seconds)
        return {"paused": self._paused()}

    async def resume(self) -> Fields:
        """Train again."""
        return {"resumed": int(self._host.presence.resume())}

    def _paused(self) -> Fields | None:
        absence = self._host.presence.absence
        return None if absence is None else {"since": absence.since, "until": absence.until}

    async def peers(self) -> list[Fields]:
        """The peers whose adverts we know."""
        return self._directory.table()

    async def witnesses(self) -> list[Fields]:
        """The network's witnesses, and whether they answer."""
        return await self._logs.witnesses()

    async def submit(self, spec: Fields, leaders: Sequence[str] | None = None) -> AsyncIterator[Fields]:
        """Turn a spec into a run and host it; see `Submitter.submit`."""
        willing = self._directory.willing_witnesses()
        async for event in self._submitter.submit(spec, willing if leaders is None else leaders):
            if event["event"] == "submitted":
                run = Run.load(self._home / "runs" / event["run"], self._logs)
                await run.refresh()
                self._host.host(run)
            yield event

    async def jobs(self) -> list[Fields]:
        """All runs that this daemon knows."""
        return [await self.job(run) for run in self._host.runs]

    async def job(self, run: str) -> Fields:
        """One run, as it stands."""
        known = self._known(run)
        over = known.log.close is not None or len(known.leaders) == 1
        leads = known.leaders[0] == self._logs.account.public if over else known.id in self._host.leaders
        role = "leader" if leads else "member"
        summary = known.summary(role=role)
        worker = self._host.workers.get(run)
        summary["progress"] = worker.progress if worker is not None and worker.pid else {}
        summary["paused"] = self._paused() if known.log.close is None else None
        summary["held"] = worker.state if worker is not None else ""
        summary["folder"] = str(known.folder)
        if known.staged is not None:
            summary["stages"] = stages_of(known, self._loads(run))
        return summary

    def _loads(self, run: str) -> dict[str, Load]:
        leader, member = self._host.leaders.get(run), self._host.members.get(run)
        own = {self._logs.account.public: member.load()} if isinstance(member, StagedMember) else {}
        return {**(leader.loads if isinstance(leader, StagedLeader) else {}), **own}

    async def events(self, run: str, follow: bool) -> AsyncIterator[Fields]:
        """What happened in a run; with `follow` until it is closed."""
        async for event in self._known(run).journal.follow(until_closed=follow):
            yield event

    async def cancel(self, run: str) -> Fields:
        """End a run that we submitted, whoever leads it; while its leader does not hear that, it is told again.

        Raises:
            RunError: we did not, or it is over.
        """
        known = self._known(run)
        if known.spec["submitter"] != self._logs.account.public:
            raise RunError("FP-433", f"run {run[:16]}: not submitted by this peer", "cancel it where it was submitted")
        leader, member = self._host.leaders.get(known.id), self._host.members.get(known.id)
        if known.log.close is not None or (leader is None and member is None):
            raise RunError("FP-433", f"run {run[:16]}: is over", "there is nothing to cancel")
        wish.keep(known, wish.CANCELLED_BY_SUBMITTER)
        heard = True
        if leader is not None:
            leader.cancel(wish.CANCELLED_BY_SUBMITTER)
        elif member is not None:
            heard = await wish.tell(known, member.heart.ask)
        return {"run": run, "cancelled": int(heard)}

    async def export(self, run: str, to: str, round_number: int | None = None) -> Fields:
        """Write the state after a round, by default the newest that we have, as a Hugging Face folder with its proof.

        Raises:
            RunError: there is no such round yet, or what it takes to compute its state again is lost.
        """
        known = self._known(run)
        worker = self._host.worker(known)
        newest = worker.newest_state()
        if isinstance(worker, StageWorker):
            number = known.log.certified_round if round_number is None else round_number
            answer = await provenance.export(worker, self._logs, number, Path(to), live=False)
            state = known.log.state_after(number)
        elif round_number is None or (newest is not None and newest[0] == round_number):
            async with self._worker_with_newest(known) as (held, number, state):
                answer = await provenance.export(held, self._logs, number, Path(to), live=True)
        else:
            number = round_number
            answer = await provenance.export(worker, self._logs, number, Path(to), live=False)
            state = known.log.state_after(number)
        return {**answer, "run": run, "round": number, "state": state}

    async def generate(self, run: str, **options: Any) -> Fields:
        """Generate text from the newest state that we have."""
        async with self._worker_with_newest(self._known(run)) as (worker, number, state):
            answer = await worker.use(state, "generate", **options)
        return {**answer, "run": run, "round": number, "state": state}

    @contextlib.asynccontextmanager
    async def _worker_with_newest(self, run: Run) -> AsyncIterator[tuple[RunWorker, int, str]]:
        """The run's worker, and round and id of the newest state here; a worker that nobody else needs ends."""
        worker = self._host.worker(run)
        if not isinstance(worker, RunWorker):
            raise RunError("FP-434", f"run {run.id[:16]}: its model is cut into stages", "export it first")
        newest = worker.newest_state()
        if newest is None:
            raise RunError(
                "FP-434", f"run {run.id[:16]}: no state of it is here yet", "wait until this peer has caught up"
            )
        busy = run.id in self._host.leaders or (run.id in self._host.members and not self._host.presence.paused)
        try:
            yield worker, *newest
        finally:
            if not busy:
                await worker.close()

    async def balance(self, account: str) -> Fields:
        """Micro-credits of an account; "me" is ours."""
        account = self._logs.account.public if account == "me" else account
        return {"account": account, **await self._credits.balance(account)}

    def _known(self, run: str) -> Run:
        if run not in self._host.runs:
            raise RunError("FP-404", f"run {run[:16]} is not known here", "`forge-peer runs` lists the runs")
        return self._host.runs[run]
