"""Who may lead a run leads it whenever nobody else does: bids for a term, leads as long as it lasts, steps down.

A run with one leader needs no terms. With several, each waits a little longer than the one listed before it, so that
they seldom bid at once; and whoever loses its term stops leading, takes part on as a member, and may be next again.

IO: through the parts it is given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from ledger.errors import LedgerError, SelfFork, TermOver
from ledger.terms import Term
from peer.ledger.logs import Logs
from peer.ledger.terms import LEASE_S
from peer.runs.run import Run

log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How often it is asked whether somebody leads."""
RANK_S = 2.0
"""How much longer each leader waits than the one listed before it."""
KEEP_S = LEASE_S / 4
UNSURE_S = LEASE_S * 0.75
"""After so long without a quorum that heard us we stop leading, as another may be about to; but first our side trains
on as far as the run allows. Should another one lead meanwhile, none of that counts."""
BARRED_S = 30.0
"""Pause before it is looked again whether our key may go on with the log."""


class Candidate:
    """Our leadership of one run; `serve` is its life."""

    def __init__(
        self, *, run: Run, logs: Logs, lead: Callable[[bool], Awaitable[None]], waits: Callable[[], bool]
    ) -> None:
        """`lead` leads until the run is closed; it is told whether another one led before.

        `waits` says whether leading on is of no use before a quorum of witnesses signs.
        """
        self._run = run
        self._logs = logs
        self._lead = lead
        self._waits = waits
        self._rank = run.leaders.index(logs.account.public)
        self._term: Term | None = None

    async def serve(self) -> None:
        """Lead whenever it is our turn, until the run is closed."""
        if len(self._run.leaders) == 1:
            return await self._lead(False)
        while self._run.log.close is None and not being_cancelled():
            self._term = await self._turn()
            if self._term is not None:
                await self._serve_term(self._term)

    async def leave(self) -> None:
        """Hand over: the next leader need not wait until our lease is over."""
        if self._term is not None:
            await self._logs.bidding.leave(self._run.origin, self._term)

    async def _turn(self) -> Term | None:
        """Wait until a term is ours; None once the run is closed."""
        origin, bidding, vacant_since = self._run.origin, self._logs.bidding, 0.0
        while self._run.log.close is None:
            if not await self._logs.on_store(lambda store: store.may_lead(origin, self._logs.account.public)):
                log.warning("may_not_lead", run=self._run.id[:16], reason="our key signed what was not certified")
                await self._rest()
                continue
            if not await bidding.vacant(origin):
                vacant_since = 0.0
            else:
                now = time.monotonic()
                vacant_since = vacant_since or now
                if now - vacant_since >= self._rank * RANK_S:
                    try:
                        if (term := await bidding.take(origin)) is not None:
                            return term
                    except LedgerError as exc:
                        log.warning("may_not_lead", run=self._run.id[:16], reason=str(exc))
                        await self._rest()
                    vacant_since = 0.0
            await asyncio.sleep(LOOK_S)
        return None

    async def _serve_term(self, term: Term) -> None:
        run = self._run
        log.info("leading", run=run.id[:16], term=term.number)
        await run.journal.add("leads", account=term.leader, term=term.number)
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep(term))
                await self._lead(term.number > 1)
                keeping.cancel()
        except* (TermOver, SelfFork) as group:
            reason = first_of(group)
            log.warning("leads_no_more", run=run.id[:16], term=term.number, reason=str(reason))
            await run.journal.add("stepped_down", account=term.leader, term=term.number, reason=str(reason))
            if isinstance(reason, SelfFork):
                await self.leave()
                await self._rest()
        finally:
            self._term = None

    async def _rest(self) -> None:
        """Let others lead for some time, or until the run is closed."""
        for _ in range(round(BARRED_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if self._run.log.close is not None:
                return

    async def _keep(self, term: Term) -> None:
        """Renew the lease; TermOver once it is lost."""
        origin, heard_at = self._run.origin, time.monotonic()
        while True:
            await asyncio.sleep(KEEP_S)
            heard, lost = await self._logs.bidding.keep(origin, term)
            now = time.monotonic()
            heard_at = now if heard else heard_at
            if lost or (now - heard_at >= UNSURE_S and self._waits()):
                why = "another leader has it" if lost else f"no quorum of witnesses for {now - heard_at:.0f} s"
                over = TermOver(f"term {term.number} of run {self._run.id[:16]}: {why}")
                self._logs.give_up(origin, over)
                raise over


def first_of(exc: BaseException) -> BaseException:
    """The first error in groups of groups."""
    return first_of(exc.exceptions[0]) if isinstance(exc, BaseExceptionGroup) else exc


def being_cancelled() -> bool:
    """Whether our task is to end: an error that comes at the same time hides that, once it is caught."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
