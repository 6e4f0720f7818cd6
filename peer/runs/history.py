"""A run's checkpoints and updates in the blob store: every settled state stays recoverable while there is room.

Needed are the newest states, three at most beyond those that are not certified, and the updates that led to them. Kept
while there is room are the last K states (`checkpoints.keep_last`), every Nth one, the initial among them
(`checkpoints.every`), and the updates of all rounds: any state is the nearest kept one before it and the updates since.
Where room is short, the oldest round goes first. Of a run that is over nothing is needed but its final state, by
whoever submitted it.

IO: pins in the blob store; they are not on disk, so `take_up` makes them again from the log after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

from peer.blobs.store import BlobStore
from peer.runs.run import Run

NEEDED = 3
"""No run can ask for more states that stay whatever else needs room."""


class History:
    """What this peer holds on to of one run."""

    def __init__(self, run: Run, store: BlobStore, *, ours: bool) -> None:
        """Nothing is pinned before `take_up`; `ours` is a run that we submitted."""
        self._run = run
        self._store = store
        self._ours = ours

    async def take_up(self) -> None:
        """Pin what the log names, as if we had seen every round of it happen; again once the run is over."""
        log, run = self._run.log, self._run.id
        self._keep(0, self._states(0), ())
        for done in log.settled:
            self._keep(done.round, self._states(done.round), self._updates(done.round))
        for done in log.settled[-self._run.plan.keep_last :]:
            self._store.pins.keep(self._states(done.round), f"{run}/late/{done.round}")
        await self._prune("held", log.round - self._needed if log.close is None else log.round)
        if log.close is not None and self._ours:
            await self._store.pin(self._states(log.round), f"{run}/final")
        elif log.close is None:
            for done in log.settled[-self._needed :]:
                await self._need(done.round, self._states(done.round), self._updates(done.round))

    async def hold(self, round_number: int, state: str, updates: Sequence[str] | None = None) -> None:
        """We hold the state after this round, and these updates led to it; older ones are needed no more.

        Args:
            round_number: the round.
            state: id of the state; in a run with stages of our stage's.
            updates: those that the log names for the round, when left out.
        """
        updates = self._updates(round_number) if updates is None else updates
        await self._need(round_number, [state], updates)
        self._keep(round_number, [state], updates)
        self._store.pins.keep([state], f"{self._run.id}/late/{round_number}")
        await self._prune("held", round_number - self._needed)
        await self._prune("late", round_number - self._run.plan.keep_last)

    @property
    def _needed(self) -> int:
        """How many states must be here: where rounds are dropped that were never certified, we go back.

        With overlap a training starts from the state before the newest.
        """
        plan = self._run.plan
        return min(NEEDED, plan.keep_last) + plan.max_uncertified + plan.overlap

    async def _prune(self, kind: str, upto: int) -> None:
        """Let go of rounds up to this one, whichever they are: some may have been skipped."""
        for owner in self._store.pins.owners(f"{self._run.id}/{kind}/"):
            if int(owner.rpartition("/")[2]) <= upto:
                await self._store.unpin(owner)

    async def _need(self, round_number: int, states: Sequence[str], updates: Sequence[str]) -> None:
        owner = f"{self._run.id}/held/{round_number}"
        await self._store.unpin(owner)  # another leader may have settled the round otherwise
        await self._store.pin([*states, *updates], owner)

    def _keep(self, round_number: int, states: Sequence[str], updates: Sequence[str]) -> None:
        kept = states if self.checkpoint(round_number) == round_number else []
        self._store.pins.keep([*updates, *kept], f"{self._run.id}/history/{round_number}")

    def checkpoint(self, round_number: int) -> int:
        """The newest round up to this one whose state is kept for good."""
        every = self._run.plan.checkpoint_every
        return round_number - round_number % every if every else 0

    def _updates(self, round_number: int) -> list[str]:
        log = self._run.log
        done = log.settled[round_number - 1] if 0 < round_number <= log.round else None
        return [receipt.update for receipt in (*done.receipts, *done.staged)] if done is not None else []

    def _states(self, round_number: int) -> Sequence[str]:
        """The state after a round; where the model is cut, the states of its stages, whichever of them are here."""
        run = self._run
        first = [run.blobs["state"]] if run.staged is None else run.spec["stages"]["states"]
        if not round_number:
            return list(first)
        return run.log.states_after(round_number) or [run.log.state_after(round_number)]
