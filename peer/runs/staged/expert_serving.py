"""Serving a group's experts: admission, the worker, the answer; a microbatch counts once its driver says what it is of.

IO: as `serving`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from peer.errors import Refused
from peer.runs.staged.bodies import LookBody
from peer.runs.staged.expert_messages import Asked, ExpertBody, ExpertLookBody
from peer.runs.staged.expert_worker import ExpertWorker
from peer.runs.staged.parcels import BAD
from peer.runs.staged.passed import Passed, Seen
from peer.runs.staged.serving import Serving
from peer.stages.messages import Kind
from peer.wire import Reply


class ExpertServing(Serving):
    """One member's."""

    _looks = ExpertLookBody

    async def on_pass(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.pass`: not in this run."""
        raise Refused(BAD, "the run places experts on peers; ask with stage.expert")

    async def on_expert(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.expert`: make a layer's pass, or count a microbatch."""
        asked, account = ExpertBody.read(body), self._known(caller)
        x, gradient = self._given((caller, asked.call), payload, asked.x, asked.gradient, asked.sum)
        refusal, passed = await self.perform(account, asked.tag(), self._work(asked, x, gradient))
        return self._answer((caller, asked.call), refusal, passed)

    async def _look(self, asked: LookBody, x: bytes, targets: bytes) -> Seen | None:
        worker = self._worker
        assert isinstance(asked, ExpertLookBody)
        if not isinstance(worker, ExpertWorker) or not x or targets:
            raise Refused(BAD, f"stage.look: {len(x)} bytes of tokens and {len(targets)} of targets")
        one = Asked(holder="", layer=asked.layer, experts=asked.experts, counts=asked.counts, x=x)
        return await worker.outputs(asked.state, one)

    def _work(self, asked: ExpertBody, x: bytes, gradient: bytes) -> Callable[[], Coroutine[Any, Any, Passed]]:
        worker, kind, layer = self._worker, Kind(asked.kind), asked.layer
        if not isinstance(worker, ExpertWorker) or not asked.stage:
            raise Refused(BAD, "stage.expert: stage 0 is the trunk, which holds no experts")
        tokens, common = asked.tokens, {"round_number": asked.round, "microbatch": asked.microbatch}
        if layer is None:
            if kind is not Kind.BACKWARD or x or gradient:
                raise Refused(BAD, "stage.expert: without a layer a microbatch is counted, which takes nothing")
            return lambda: worker.count(tokens=tokens, calls=asked.calls, **common)
        if not asked.x or asked.gradient != (asked.x if kind is Kind.BACKWARD else 0):
            raise Refused(BAD, f"stage.expert: {asked.x} bytes of tokens and {asked.gradient} of gradients")
        one = Asked(holder="", layer=layer, experts=asked.experts, counts=asked.counts, x=x, gradient=gradient)
        return lambda: worker.expert(kind, tokens=tokens, asked=one, **common)
