"""A driver's calls: its own worker makes those of stage 0, other peers the rest; what came of them is recorded.

IO: calls over the network, the run's worker, the records.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from peer.errors import DeadlineExceeded, NetworkError, Refused, Unreachable, WorkerDied, WorkerRefused
from peer.network.network import Network
from peer.runs.run import Run
from peer.runs.staged import passes
from peer.runs.staged.parcels import TOO_MUCH
from peer.runs.staged.passed import Passed
from peer.runs.staged.records import Records
from peer.runs.staged.serving import AGAIN_S, FAULT, MISSING, Serving
from peer.runs.staged.worker import StageWorker
from peer.stages.messages import Kind, Refusal
from peer.stages.slots import first_slot
from peer.stages.tasks import Answered, Call, Declined, DriverMessage, Reset

log = structlog.get_logger(__name__)

HEAD_BYTES = 20
"""An encoded tensor of three dimensions begins with so many bytes that say what it is."""


class Driving:
    """Carries out one member's calls."""

    def __init__(
        self, *, run: Run, account: str, network: Network, worker: StageWorker, serving: Serving,
        peer_of: Callable[[str], str | None],
    ) -> None:  # fmt: skip
        """We are `account`, whose passes `serving` makes; `peer_of` says where others are."""
        assert run.staged is not None
        self._run = run
        self._plan = run.staged
        self._account = account
        self._network = network
        self._worker = worker
        self._serving = serving
        self._peer_of = peer_of
        self._records = Records(run.folder / "records")
        self._read: dict[int, tuple[bytes, bytes]] = {}
        """Tokens and targets by microbatch, of the round."""
        self._round = -1
        self._forwarded: dict[tuple[int, int], str] = {}
        """By stage and microbatch: who made the forward pass, and has its input."""

    async def call(self, call: Call) -> DriverMessage | None:
        """Carry out a call; what the machine is told."""
        opened = self._run.log.open
        if opened is None or opened.round != call.tag.round:
            return None  # the round is over
        if call.tag.round != self._round:
            self._round, self._read, self._forwarded = call.tag.round, {}, {}
            await self._records.begin(call.tag.round)
        try:
            given = await self._given(call, first_slot(opened))
            if given is None:
                return Declined(id=call.id, refusal=Refusal(code=FAULT))
            refusal, passed = await self._pass(call, *given)
        except Refused as exc:
            log.info("call_refused", account=call.account[:16], stage=call.tag.stage, reason=str(exc))
            busy = exc.code == TOO_MUCH
            return Declined(id=call.id, refusal=Refusal(code="BUSY" if busy else FAULT, wait_s=AGAIN_S))
        except DeadlineExceeded:
            return Reset(id=call.id)
        except NetworkError as exc:
            log.info("call_broke", account=call.account[:16], stage=call.tag.stage, reason=str(exc))
            away = isinstance(exc, Unreachable)
            return Reset(id=call.id) if away else Declined(id=call.id, refusal=Refusal(code=FAULT))
        except (WorkerRefused, WorkerDied) as exc:
            log.warning("call_broke", account=call.account[:16], stage=call.tag.stage, reason=str(exc))
            return Declined(id=call.id, refusal=Refusal(code=FAULT))
        if refusal is not None:
            return Declined(id=call.id, refusal=refusal)
        handle = f"{call.id}"
        await self._records.put(handle, passed.data)
        return Answered(
            id=call.id, value=handle, service_s=passed.service_s, waited_s=passed.waited_s, queue_s=passed.queue_s
        )

    async def _given(self, call: Call, first: int) -> tuple[bytes, bytes] | None:
        """Input, and gradient or targets."""
        number, last = call.tag.microbatch, call.tag.stage == self._plan.stages - 1
        if number not in self._read and (not call.input or last):
            tokens, targets, _ = await self._worker.read(first + number * self._plan.microbatch)
            self._read[number] = tokens, targets
        x = await self._records.get(call.input) if call.input else self._read[number][0]
        gradient: bytes | None = b""
        if call.tag.kind is Kind.BACKWARD:
            gradient = await self._records.get(call.gradient) if call.gradient else self._read[number][1]
        return (x, gradient) if x is not None and gradient is not None else None

    async def _pass(self, call: Call, x: bytes, gradient: bytes) -> tuple[Refusal | None, Passed]:
        tokens = self._plan.microbatch * self._plan.plan.tokens_per_slot
        if call.account == self._account:
            return await self._serving.make(self._account, call.tag, tokens, x, gradient)
        peer = self._peer_of(call.account)
        if peer is None:
            raise Unreachable(f"account {call.account[:16]}: its peer is not known")
        place = call.tag.stage, call.tag.microbatch
        known = call.tag.kind is Kind.BACKWARD and self._forwarded.get(place) == call.account
        for given in [b"", x] if known else [x]:
            answer, data = await passes.ask(
                self._network, peer, self._run.id, call.tag, tokens=tokens, x=given, gradient=gradient,
                most_bytes=len(x),
            )  # fmt: skip
            if answer.refusal is None or answer.refusal.code != MISSING:
                break
        if answer.refusal is not None:
            if answer.refusal.why:
                log.warning("call_refused", account=call.account[:16], stage=call.tag.stage, why=answer.refusal.why)
            return answer.refusal.refusal(), Passed(kind="refused")
        if len(data) != len(x) or data[:HEAD_BYTES] != x[:HEAD_BYTES]:
            return Refusal(code=FAULT), Passed(kind="refused")  # what comes back has the shape of what went there
        if call.tag.kind is Kind.FORWARD:
            self._forwarded[place] = call.account
        micro = 1e-6
        return None, Passed(
            kind="done", data=data, service_s=answer.service_us * micro, waited_s=answer.waited_us * micro,
            queue_s=answer.queue_us * micro,
        )  # fmt: skip
