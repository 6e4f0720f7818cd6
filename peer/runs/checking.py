"""An update before it counts: the leader fetches it, says where it is, and has its worker decode it.

IO: blobs and messages over the network, the run's worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import structlog

from ledger.receipt import AnyReceipt
from peer.blobs.chunks import BlobName
from peer.errors import ForgeError, WorkerError
from peer.messages import Gossip
from peer.network.shaper import patience_s
from peer.rounds.messages import Checked
from peer.runs.bulletin import Bulletin
from peer.runs.disk import Disk
from peer.runs.joined import Joined
from peer.runs.push import Push
from peer.runs.roletasks import RoleTasks
from peer.runs.run import Run

log = structlog.get_logger(__name__)

FETCH_S = 60.0
"""An update must be here after this and what all that are being fetched take on a slow line."""
RETRY_S = 1.0
Fetch = Callable[[str, Sequence[str]], Awaitable[Path]]
"""(update, PeerIDs that have it) -> its file."""
Verdict = tuple[tuple[str, str] | None, int | None]
"""(code, reason) where an update is refused, else its norm if that is known."""
GOSSIP_TO = 8
"""So many members hear of a receipt at once; the others with their next heartbeat."""


class Checking:
    """The updates that one leader is about to count."""

    def __init__(
        self, *, run: Run, fetch: Fetch, decode: Callable[[Path, Any], Awaitable[Verdict]], joined: Joined, push: Push,
        disk: Disk, rng: Random,
    ) -> None:  # fmt: skip
        """Check the updates of `run`: `fetch` gets one, `decode(path, receipt)` decodes it strictly.

        `joined` knows where members are, `push` reaches them.
        """
        self.bulletin = Bulletin()
        """What has arrived."""
        self._run = run
        self._get = fetch
        self._decode = decode
        self._joined = joined
        self._push = push
        self._disk = disk
        self._rng = rng
        self._fetching_bytes = 0

    async def check(
        self, receipt: AnyReceipt, members: Sequence[str], tasks: RoleTasks, *, most: int = GOSSIP_TO
    ) -> Checked:
        """Whether an update counts; `most` of `members`, PeerIDs, are told where it is."""
        maker = self._joined.peer_of(receipt.account)
        if maker is not None:
            gossip = Gossip(run=self._run.id, update=receipt.update, peer=maker)
            others = [peer for peer in members if peer != maker]
            self._push.gossip(tasks, self._rng.sample(others, min(most, len(others))), gossip)
        refusal: tuple[str, str] | None
        norm: int | None = None
        try:
            path = await self._fetch(receipt.update, [maker] if maker else [])
            refusal, norm = await self._until_decoded(path, receipt)
        except (ForgeError, OSError, TimeoutError) as exc:
            reason = "not here in time" if isinstance(exc, TimeoutError) else exc
            refusal = ("FP-417", f"update {receipt.update[:16]}: {reason}")
        if refusal is None:
            self.bulletin.arrived(receipt.round, receipt.update)
        return Checked(account=receipt.account, update=receipt.update, refusal=refusal, norm=norm)

    async def _fetch(self, update: str, makers: Sequence[str]) -> Path:
        length = BlobName.parse(update).length
        self._fetching_bytes += length
        try:
            async with asyncio.timeout(FETCH_S + patience_s(self._fetching_bytes)):
                return await self._disk.until_room(lambda: self._get(update, makers))
        finally:
            self._fetching_bytes -= length

    async def _until_decoded(self, path: Path, receipt: AnyReceipt) -> Verdict:
        """Decode an update; our own worker's death is not the member's fault."""
        while True:
            try:
                return await self._decode(path, receipt)
            except (WorkerError, ForgeError) as exc:
                log.warning("check_postponed", run=self._run.id[:16], reason=str(exc))
                await asyncio.sleep(RETRY_S)
