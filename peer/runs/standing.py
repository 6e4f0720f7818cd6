"""What we have to complain of in a run: receipts that its leader left out, rounds without a seat; told in the journal.

IO: calls to the leader, the run's journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ledger.entries import Receipt
from peer.errors import NetworkError, Refused
from peer.messages import Delivery
from peer.rounds.messages import Report
from peer.rounds.treatment import Treatment
from peer.runs.run import Run
from peer.runs.verdicts import OVER
from peer.runs.whereabouts import Whereabouts

log = structlog.get_logger(__name__)

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
WAITING = 8


class Standing:
    """Our standing in one run. Written only by the member role."""

    def __init__(self, *, run: Run, account: str, leader: Whereabouts, call: Call) -> None:
        """We are `account`; `call` asks the leader."""
        self.treatment = Treatment(account, run.plan.max_members)
        """How the leader treats us."""
        self._run = run
        self._leader = leader
        self._call = call
        self._left_out: asyncio.Queue[tuple[Receipt, str]] = asyncio.Queue(WAITING)

    def taken(self, receipt: Receipt) -> None:
        """The leader took our receipt."""
        self.treatment.taken(receipt, self._leader.account)

    async def look(self, held: str) -> None:
        """The log grew; `held` is the state that we hold."""
        for report in self.treatment.look(self._run.log, held, self._leader.account):
            await self._tell(report)
        for left_out in self.treatment.left_out(self._run.log):
            if not self._left_out.full():
                self._left_out.put_nowait(left_out)

    async def serve(self) -> None:
        """Ask why our receipts were left out, until cancelled."""
        while True:
            receipt, leader = await self._left_out.get()
            if self._leader.account != leader:
                continue  # it is gone, and whoever follows it knows of nothing
            refusal: tuple[str, str] | None = None
            try:
                body = Delivery(run=self._run.id, receipt=receipt.encode().decode()).body()
                await self._call("run.receipt", body)
            except Refused as exc:
                refusal = (exc.code, exc.message) if exc.code != OVER else None
            except NetworkError as exc:
                log.info("omission_unexplained", run=self._run.id[:16], round=receipt.round, reason=str(exc))
                continue
            await self._tell(self.treatment.explained(receipt.round, leader, refusal))

    async def _tell(self, report: Report) -> None:
        log.warning(report.event, run=self._run.id[:16], **report.fields)
        await self._run.journal.add(report.event, **report.fields)
