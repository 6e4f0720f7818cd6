"""A run's checkpoints and updates in the blob store: every settled state stays recoverable while there is room.

Needed are the last K states and the updates that led to them (`checkpoints.keep_last`). Kept while there is room are
every Nth state, the initial one among them (`checkpoints.every`), and the updates of all rounds: any state is the
nearest kept one before it and the updates since. Where room is short, the oldest round goes first.

IO: pins in the blob store; they are not on disk, so `take_up` makes them again from the log after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

from peer.blobs.store import BlobStore
from peer.runs.run import Run


class History:
    """What this peer holds on to of one run."""

    def __init__(self, run: Run, store: BlobStore) -> None:
        """Nothing is pinned before `take_up`."""
        self._run = run
        self._store = store
        wishes = run.config.get("checkpoints", {})
        self.every = int(wishes.get("every", 0))
        """Every how many rounds a state is kept; 0: only the initial one."""
        self._keep_last = int(wishes.get("keep_last", 3))

    async def take_up(self) -> None:
        """Pin what the log names, as if we had seen every round of it happen."""
        log = self._run.log
        self._keep(0, self._run.blobs["state"], ())
        for done in log.settled:
            self._keep(done.round, done.state, self._updates(done.round))
        if log.close is None:
            for done in log.settled[-self._keep_last :]:
                await self._need(done.round, done.state, self._updates(done.round))

    async def hold(self, round_number: int, state: str, updates: Sequence[str] | None = None) -> None:
        """We hold the state after this round, and these updates led to it; what is K rounds older is needed no more.

        Args:
            updates: those that the log names for the round, when left out.
        """
        updates = self._updates(round_number) if updates is None else updates
        await self._need(round_number, state, updates)
        self._keep(round_number, state, updates)
        for owner in self._store.pins.owners(f"{self._run.id}/held/"):
            if int(owner.rpartition("/")[2]) <= round_number - self._keep_last:  # rounds may have been skipped
                await self._store.unpin(owner)

    async def _need(self, round_number: int, state: str, updates: Sequence[str]) -> None:
        owner = f"{self._run.id}/held/{round_number}"
        await self._store.unpin(owner)  # another leader may have settled the round otherwise
        await self._store.pin([state, *updates], owner)

    def _keep(self, round_number: int, state: str, updates: Sequence[str]) -> None:
        states = [state] if self.checkpoint(round_number) == round_number else []
        self._store.pins.keep([*updates, *states], f"{self._run.id}/history/{round_number}")

    def _updates(self, round_number: int) -> list[str]:
        log = self._run.log
        done = log.settled[round_number - 1] if 0 < round_number <= log.round else None
        return [receipt.update for receipt in done.receipts] if done is not None else []

    def checkpoint(self, round_number: int) -> int:
        """The newest round up to this one whose state is kept for good."""
        return round_number - round_number % self.every if self.every else 0
