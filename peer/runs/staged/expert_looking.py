"""Held-out losses of a model whose experts live on other peers: a driver's trunk asks them as in training.

Where nobody holds a group nobody measures: what is left would be another model's loss.

IO: as `looking`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from functools import partial

from peer.errors import NetworkError, RunError
from peer.runs.staged import passes
from peer.runs.staged.expert_messages import Asked, ExpertLookBody
from peer.runs.staged.expert_worker import FAULT, ExpertWorker, HolderLost
from peer.runs.staged.looking import UNSEEN, Looking
from peer.runs.staged.parcels import digest
from peer.runs.staged.passed import Seen
from peer.stages.messages import Kind

LAYER_S = 15.0
"""Everybody waits: a holder that takes longer for a layer has failed."""


class ExpertLooking(Looking):
    """One driver's."""

    async def _look(self, states: Sequence[str], first: int) -> Seen:
        worker, failed = self._worker, dict[str, str]()
        assert isinstance(worker, ExpertWorker)
        while True:
            holders = [self._holder(stage, states[stage], failed) for stage in range(1, self._plan.stages)]
            ask = partial(self._layer, dict(zip(holders, states[1:], strict=True)))
            try:
                seen = await worker.evaluate(states[0], first, holders, ask)
            except HolderLost as exc:
                failed[exc.account] = str(exc)
                continue
            if seen is None:
                raise self._elsewhere(states[0])
            return seen

    def _holder(self, stage: int, state: str, failed: dict[str, str]) -> str:
        """A replica of a group that has not failed yet. Raises RunError."""
        seats = [seat.account for seat in self._run.log.last_roster if seat.stage == stage]
        if left := [account for account in seats if account not in failed]:
            return random.choice(left)
        why = next((failed[account] for account in seats), "none is known")
        raise RunError(UNSEEN, f"run {self._run.id[:16]}: no replica of stage {stage} looks at {state[:16]}: {why}")

    async def _layer(self, states: Mapping[str, str], kind: Kind, calls: Sequence[Asked]) -> list[bytes]:
        """What the holders of a layer answer, whose states these are. Raises HolderLost."""
        asking = [asyncio.create_task(self._outputs(states[one.holder], one)) for one in calls]
        try:
            return await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()

    async def _outputs(self, state: str, asked: Asked) -> bytes:
        """What one holder answers. Raises HolderLost."""
        if (peer := self._peer_of(asked.holder)) is None:
            raise HolderLost(asked.holder, FAULT, "its peer is not known")
        body = ExpertLookBody(
            run=self._run.id, call=secrets.token_hex(16), state=state, x=len(asked.x), targets=0, sum=digest(asked.x),
            layer=asked.layer, experts=asked.experts, counts=asked.counts,
        )  # fmt: skip
        try:
            answer, data = await passes.carry(
                self._network, peer, "stage.look", body, asked.x, len(asked.x), timeout_s=LAYER_S
            )
        except NetworkError as exc:
            raise HolderLost(asked.holder, FAULT, str(exc)) from exc
        if answer.refusal is not None:
            raise HolderLost(asked.holder, FAULT, answer.refusal.why or answer.refusal.code)
        if len(data) != len(asked.x):
            raise HolderLost(asked.holder, FAULT, f"{len(data)} bytes came, not {len(asked.x)}")
        return data
