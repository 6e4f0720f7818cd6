"""What a leader signs: certified in the background, and handed to the members before that, as far as the run allows.

Nothing that is not certified enters a member's ledger. Where witnesses cannot be reached the members train on, at most
`max_uncertified_rounds`; then the leader holds back what it signed until enough of it is certified.

IO: the run's log, calls over the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ledger.entries import Entry
from ledger.errors import EntryInvalid, TermOver
from peer.ledger.logs import Logs, certified_size
from peer.messages import Ahead
from peer.rounds.tail import balance_after_tail
from peer.runs.push import Push
from peer.runs.roletasks import RoleTasks
from peer.runs.run import Run


class Offer:
    """The tail of a run's log at its leader. `serve` has it certified."""

    def __init__(self, *, run: Run, logs: Logs, account: str, push: Push, peers: Callable[[], list[str]]) -> None:
        """Sign as `account`; `push` sends to the members, whose PeerIDs are `peers()`."""
        self._run = run
        self._logs = logs
        self._account = account
        self._push = push
        self._peers = peers
        self._signed = asyncio.Event()
        self._certified = asyncio.Condition()
        self._head = b""
        """The newest head that members go by."""
        self._size, self._drops = 0, 0
        """What of the log is ours or was there before us: entries, and tails that gave way."""
        self._held_back = True

    def end(self) -> None:
        """We lead no more."""
        self._run.leads = False

    @property
    def waits(self) -> bool:
        """Whether nothing goes on before something is certified."""
        return self._held_back or not self._run.plan.max_uncertified

    @property
    def overtaken(self) -> bool:
        """Whether the log has entries that are none of ours: another one leads."""
        return self._run.log.drops != self._drops or self._run.log.size > self._size

    async def begin(self) -> None:
        """Have certified all that we signed before; what another leader signed and nobody certified gives way.

        Raises:
            LedgerError: we must not sign.
        """
        await self._logs.certify(self._run.origin)
        self._run.leads = True
        await self._run.go_ahead(self._account)
        self._size, self._drops, self._held_back = self._run.log.size, self._run.log.drops, False

    async def serve(self, tasks: RoleTasks) -> None:
        """Have certified whatever is signed, until cancelled; what members are sent is sent by `tasks`.

        Raises:
            LedgerError: we must not sign any more, or our term is over.
        """
        while True:
            await self._signed.wait()
            self._signed.clear()
            since = self._run.log.certified
            await self._logs.certify(self._run.origin)
            await self._run.refresh()
            self._push.news(tasks, self._peers(), since)
            async with self._certified:
                self._certified.notify_all()

    async def append(self, entries: Sequence[Entry], tasks: RoleTasks) -> None:
        """Append and sign; returns once members go by it: at once, or when enough is certified.

        Raises:
            LedgerError: we must not sign any more; TermOver: another leader's entries were certified.
        """
        self._size += len(entries)
        try:
            head = await self._logs.sign(self._run.origin, entries)
        except EntryInvalid:
            await self._run.refresh()
            self.check()
            raise
        self._signed.set()
        async with self._certified:
            while not await self._run.go_ahead(self._account):
                self._held_back = True
                await self._certified.wait()
        self._head, self._held_back = head, False
        if self._run.log.tail:
            self._push.ahead(tasks, self._peers(), self.ahead())

    def check(self) -> None:
        """Raises TermOver if we are overtaken."""
        if self.overtaken:
            raise TermOver(f"run {self._run.id[:16]}: another leader's entries were certified")

    def ahead(self) -> Ahead:
        """What members go by beyond what is certified."""
        log = self._run.log
        entries, head = [entry.encode().decode() for entry in log.tail], self._head.decode()
        return Ahead(run=self._run.id, start=log.certified, entries=entries, head=head if entries else "")

    async def balance(self) -> int:
        """What the run can spend after all that members go by, in micro-credits."""
        run = self._run
        while True:
            balance, size = await self._logs.on_store(
                lambda store: (store.ledger().runs[run.id].balance, certified_size(store, run.origin))
            )
            if size == run.log.certified:
                return balance_after_tail(run.plan, run.log, balance)
            await run.refresh()
