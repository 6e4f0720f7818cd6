"""A member's receipts: signed, kept on disk as a promise, then sent to the leader.

IO: the run's folder and journal, calls to the leader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ledger.entries import Receipt
from ledger.keys import PrivateKey
from peer.errors import Refused, RunError, WorkerError
from peer.messages import Delivery
from peer.rounds.messages import Answered, Deliver
from peer.runs.heart import NOT_LEADING
from peer.runs.joined import UNKNOWN_MEMBER
from peer.runs.run import Run
from peer.runs.whereabouts import Whereabouts

log = structlog.get_logger(__name__)

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class Receipts:
    """What we sign of our work in one run."""

    def __init__(
        self, *, run: Run, key: PrivateKey, leader: Whereabouts, call: Call, taken: Callable[[Receipt], None]
    ) -> None:
        """Sign with `key`, send by `call` to the leader; `taken` is told of what it took."""
        self._run = run
        self._key = key
        self._leader = leader
        self._call = call
        self._taken = taken

    async def deliver(self, effect: Deliver) -> Answered:
        """Sign a receipt for what was trained, promise it, send it. Raises ForgeError."""
        receipt = self._sign(effect)
        self._run.promise(receipt)
        await self._run.journal.add(
            "delivered", round=receipt.round, tokens=receipt.tokens, loss=receipt.loss / 1e6,
            seconds=round(effect.trained.seconds, 3),
        )  # fmt: skip
        return await self._send(receipt, effect.trained.seconds)

    async def deliver_again(self, round_number: int) -> Answered:
        """Send the receipt that was promised for this round. Raises ForgeError."""
        receipt = next((receipt for receipt in self._run.promised() if receipt.round == round_number), None)
        if receipt is None:
            raise WorkerError(f"run {self._run.id[:16]}: the promised receipt is gone from {self._run.folder}")
        return await self._send(receipt)

    def _sign(self, effect: Deliver) -> Receipt:
        trained = effect.trained
        seat = effect.open.seat(self._key.public)
        assert seat is not None  # the machine trains only on our seat
        return Receipt.create(
            network=self._run.plan.network,
            run=self._run.id,
            round=trained.round,
            state_in=effect.open.state,
            update=trained.update,
            tokens=trained.tokens,
            slots=(seat.start, trained.slots),
            loss=trained.loss,
            steps=trained.steps,
            leaves=trained.leaves,
            key=self._key,
        )

    async def _send(self, receipt: Receipt, took_s: float = 0.0) -> Answered:
        run, took_ms = self._run, round(took_s * 1000)
        if run.log.tail and run.ahead_of != self._leader.account:
            raise RunError("FP-443", f"run {run.id[:16]}: what this leader has of the log is not here yet")
        try:
            body = Delivery(run=run.id, receipt=receipt.encode().decode(), took_ms=took_ms).body()
            await self._call("run.receipt", body)
        except Refused as exc:
            if exc.code in (UNKNOWN_MEMBER, NOT_LEADING):
                raise
            log.warning("receipt_refused", run=run.id[:16], round=receipt.round, reason=str(exc))
            return Answered(round=receipt.round, refusal=(exc.code, exc.message))
        self._taken(receipt)
        return Answered(round=receipt.round, refusal=None)
