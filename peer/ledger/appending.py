"""Appending to logs of ours: what is asked for while a head waits for its certificate is appended together after it.

Every call is atomic by itself: an invalid one fails alone, the others go on as if it had not been. One writer per log.

IO: the store through `Storage`; witnesses through `Cosigners`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from ledger.errors import EntryInvalid, LedgerError, StoreUnreadable
from ledger.keys import PrivateKey
from ledger.store.store import Store
from peer.ledger.cosigning import Cosigners
from peer.ledger.errands import Errands
from peer.ledger.storage import Storage

log = structlog.get_logger(__name__)

TOGETHER_ENTRIES = 2048
TOGETHER_BYTES = 500_000
"""What goes under one head, unless a single call has more: one message to a witness."""
STORE_RETRY_S = 1.0
"""Pause before a certificate that the disk did not take is stored again."""


class Call:
    """Entries that one caller wants appended, as one."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = entries
        self.size = sum(map(len, entries))
        self.refused: LedgerError | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, exc: BaseException | None = None) -> None:
        """Tell the caller, unless it went away."""
        if not self.done.done():
            if exc is None:
                self.done.set_result(None)
            elif isinstance(exc, asyncio.CancelledError):
                self.done.cancel()
            else:
                self.done.set_exception(exc)


class Writer:
    """One log of ours."""

    def __init__(
        self,
        *,
        origin: str,
        key: PrivateKey,
        storage: Storage,
        cosigners: Cosigners,
        cleared: Callable[[str], Awaitable[None]],
        grown: Callable[[], Awaitable[None]],
    ) -> None:
        """Sign with `key`, once `cleared` has found nothing against it; tell `grown` of every certificate."""
        self._origin = origin
        self._key = key
        self._storage = storage
        self._cosigners = cosigners
        self._cleared = cleared
        self._grown = grown
        self._calls: deque[Call] = deque()
        self._task: asyncio.Task[None] | None = None

    async def append(self, entries: Sequence[bytes], errands: Errands) -> None:
        """Append, and return once it is certified; without entries: once all that is stored is.

        Raises:
            LedgerError: the entries break a rule, or the log may not be written; nothing was appended.
        """
        call = Call(entries)
        self._calls.append(call)
        if self._task is None or self._task.done():
            self._task = errands.start(f"writer {self._origin[-20:]}", self._work())
        await call.done

    async def sign(self, entries: Sequence[bytes]) -> bytes:
        """Append and sign at once, whatever waits for its certificate; `append` has it certified. Returns the head.

        Raises:
            LedgerError: as `append`.
        """
        await self._cleared(self._origin)
        return await self._storage.use(lambda store: store.append(self._origin, entries, self._key))

    async def _work(self) -> None:
        while self._calls:
            calls = self._next()
            try:
                await self._append(calls)
            except LedgerError as exc:
                for call in calls:
                    call.end(call.refused or exc)
            except BaseException as exc:  # a bug, or we are closing: nobody may wait for ever
                for call in (*calls, *self._calls):
                    call.end(exc)
                self._calls.clear()
                raise

    def _next(self) -> list[Call]:
        calls, entries, size = [self._calls.popleft()], 0, 0
        entries, size = len(calls[0].entries), calls[0].size
        while self._calls:
            entries, size = entries + len(self._calls[0].entries), size + self._calls[0].size
            if entries > TOGETHER_ENTRIES or size > TOGETHER_BYTES:
                break
            calls.append(self._calls.popleft())
        return calls

    async def _append(self, calls: Sequence[Call]) -> None:
        await self._cleared(self._origin)
        found = await self._storage.use(lambda store: self._store(store, calls))
        for call in calls:
            if call.refused is not None:
                call.end(call.refused)
        if found is not None:
            certificate = await self._cosigners.certificate(*found)
            await self._keep(certificate)
            await self._grown()
        for call in calls:
            call.end()

    def _store(self, store: Store, calls: Sequence[Call]) -> tuple[bytes, int, Sequence[bytes]] | None:
        """On the store's thread: append what is valid and sign.

        Returns the head to certify, the certified size so far, and the entries between them if they are at hand.
        """
        certificate = store.certified(self._origin)
        known = certificate.size if certificate is not None else 0
        while True:
            live = [call for call in calls if call.refused is None and not call.done.cancelled()]
            entries = [data for call in live for data in call.entries]
            size = store.size(self._origin)
            if not entries and size == known:
                return None
            try:
                return store.append(self._origin, entries, self._key), known, entries if size == known else ()
            except EntryInvalid as exc:
                guilty = _guilty(live, exc, size)
                if guilty is None:
                    raise
                guilty.refused = exc

    async def _keep(self, certificate: bytes) -> None:
        """Store the certificate; a full disk is waited for, since the entries are certified now whatever we do."""
        while True:
            try:
                return await self._storage.use(lambda store: store.certify(self._origin, certificate))
            except StoreUnreadable as exc:
                log.error("certificate_not_stored", origin=self._origin[-20:], reason=str(exc))
                await asyncio.sleep(STORE_RETRY_S)


def _guilty(calls: Sequence[Call], exc: EntryInvalid, size: int) -> Call | None:
    """Whose entry the store refused."""
    index = size
    for call in calls:
        index += len(call.entries)
        if exc.index is not None and size <= exc.index < index:
            return call
    return None
