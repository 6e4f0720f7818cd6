"""Runs that go on without us: those that have no use for us, those that we cannot work with, those whose log is lost.

A run that was left is taken up again when the daemon is started again.

IO: through the parts it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog

from ledger import evidence
from ledger.errors import EvidenceInvalid
from ledger.store.store import Store
from peer.errors import Unfit
from peer.ledger.logs import Logs
from peer.runs.roles import AnyMember
from peer.runs.run import Run

log = structlog.get_logger(__name__)

EQUIVOCATED = "FP-439"


class Departures:
    """Which runs we left. Written only by the host."""

    def __init__(self, *, logs: Logs, members: Mapping[str, AnyMember], may_lead: Callable[[Run], bool]) -> None:
        """`members` are our parts in runs; those that we may lead are never left for being neglected."""
        self.left: set[str] = set()
        """Run ids."""
        self._logs = logs
        self._members = members
        self._may_lead = may_lead

    def idle(self) -> list[str]:
        """Runs that we could leave for another: their leaders have no use for us."""
        members = list(self._members.values())
        return [one.run.id for one in members if one.standing.treatment.neglected and not self._may_lead(one.run)]

    async def leave(self, run: str, reason: str) -> None:
        """Take part in a run no more."""
        log.warning("leaving", run=run[:16], reason=reason)
        self.left.add(run)
        member = self._members[run]
        await member.heart.say_goodbye(reason)
        await member.run.journal.add("left", account=self._logs.account.public, reason=reason)
        member.finish()

    async def leave_the_accused(self) -> None:
        """Tell of runs whose log nobody cosigns any more, because who wrote it contradicted itself; and leave them."""
        for member in list(self._members.values()):
            run = member.run
            who = await self._logs.on_store(partial(culprit, origin=run.origin))
            if who and run.journal.last("equivocated") is None:
                reason = "signed two heads of the run's log that contradict each other; it is cosigned no more"
                await run.journal.add("equivocated", account=who, code=EQUIVOCATED, reason=reason)
            if who and run.id in self._members and run.id not in self.left and not self._may_lead(run):
                await self.leave(run.id, f"{who[:16]} contradicted itself in the run's log")

    async def unfit(self, run: Run, exc: BaseException) -> None:
        """Our software cannot work with this run."""
        assert isinstance(exc, Unfit)
        log.error("cannot_take_part", run=run.id[:16], reason=str(exc))
        self.left.add(run.id)
        await run.journal.add("cannot_take_part", code=exc.code, reason=exc.message)


def culprit(store: Store, origin: str) -> str:
    """The account of the leader that signed two heads which contradict each other, or the witnesses' names; or ""."""
    for found in store.evidence(origin):
        try:
            return evidence.verify(found, store.genesis.terms)[1]
        except EvidenceInvalid:
            return ", ".join(evidence.verify_split(found, store.genesis)[1])
    return ""
