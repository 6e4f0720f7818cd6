"""Held-out losses of a model that is cut: a driver takes held-out samples forward through the stages, without dropout.

IO: calls over the network, the run's worker.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peer.errors import NetworkError, RunError
from peer.network.network import Network
from peer.runs.run import Run
from peer.runs.staged import passes
from peer.runs.staged.passed import Seen
from peer.runs.staged.worker import StageWorker

UNSEEN = "FP-426"


class Looking:
    """One driver's."""

    def __init__(
        self, *, run: Run, network: Network, worker: StageWorker, peer_of: Callable[[str], str | None]
    ) -> None:
        """Our own `worker` begins; `peer_of` says where the replicas of the other stages are."""
        assert run.staged is not None
        self._run, self._plan, self._network, self._worker, self._peer_of = run, run.staged, network, worker, peer_of

    async def measure(self, states: Sequence[str]) -> int:
        """Micro-nats a token of these states of the stages. Raises ForgeError where no replica of a stage has one."""
        total = tokens = 0
        size = self._plan.microbatch
        for number in range(max(1, int(self._run.config["evaluation"]["sequences"]) // size)):  # whole microbatches
            seen = await self._look(states, number * size)
            if not seen.tokens:
                break
            total, tokens = total + seen.loss * seen.tokens, tokens + seen.tokens
        if not tokens:
            raise RunError(UNSEEN, f"run {self._run.id[:16]}: there are no held-out samples")
        return round(total / tokens)

    async def _look(self, states: Sequence[str], first: int) -> Seen:
        """The microbatch of held-out samples from this one on; without tokens where there are none any more."""
        x, targets, counted = await self._worker.read(first, held_out=True)
        if not counted:
            return Seen(data=b"")
        seen = await self._worker.look(states[0], x, None)
        for stage in range(1, self._plan.stages):
            if seen is None:
                raise self._elsewhere(states[0])
            seen = await self._ask(stage, states[stage], seen.data, targets)
        assert seen is not None  # there are two stages or more
        return seen

    def _elsewhere(self, state: str) -> RunError:
        return RunError(UNSEEN, f"run {self._run.id[:16]}: stage 0 is not at {state[:16]}")

    async def _ask(self, stage: int, state: str, x: bytes, targets: bytes) -> Seen:
        """One replica of a stage after another, in any order."""
        replicas = [seat.account for seat in self._run.log.last_roster if seat.stage == stage]
        given = targets if stage == self._plan.stages - 1 else b""
        why = "none is known"
        for account in random.sample(replicas, len(replicas)):
            try:
                if (peer := self._peer_of(account)) is None:
                    continue
                answer, data = await passes.look(self._network, peer, self._run.id, state, x=x, targets=given)
            except NetworkError as exc:
                why = str(exc)
                continue
            if answer.refusal is None:
                return Seen(data=data, loss=answer.loss, tokens=answer.tokens)
            why = answer.refusal.why or answer.refusal.code
        raise RunError(UNSEEN, f"run {self._run.id[:16]}: no replica of stage {stage} looks at {state[:16]}: {why}")
