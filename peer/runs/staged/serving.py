"""Serving passes of one stage: admission, what comes in parts, the worker, the answer.

IO: calls of other peers, the run's worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from peer.errors import Refused, WorkerDied, WorkerRefused
from peer.runs.staged.bodies import LookBody, MoreBody, PartBody, PassAnswer, PassBody, RefusalText
from peer.runs.staged.messages import MICRO
from peer.runs.staged.parcels import BAD, Key, Parcels, digest
from peer.runs.staged.passed import Passed, Seen
from peer.runs.staged.worker import StageWorker
from peer.stages import tasks
from peer.stages.drive import Driver
from peer.stages.messages import Kind, Refusal, Tag
from peer.stages.serve import ReplicaMachine
from peer.wire import PAYLOAD_LIMIT, Reply

log = structlog.get_logger(__name__)

MOST_PARCELS_BYTES = 64 << 20
"""What one caller may have waiting here in parts, if its tensors are not longer."""
AGAIN_S = 0.2
FAULT = "FP-453"
MISSING = "MISSING"
"""The input is not here (any more): it has to be sent again."""


class Serving:
    """One member's. `tell` is its machine's ear."""

    _looks: type[LookBody] = LookBody

    def __init__(
        self, *, machine: Callable[[], ReplicaMachine], worker: StageWorker,
        tell: Callable[[tasks.ReplicaMessage], None], account_of: Callable[[str], str],
    ) -> None:  # fmt: skip
        """Serve what `machine` admits with `worker`; `account_of` says whose a PeerID is."""
        self._machine = machine
        self._worker = worker
        self._tell = tell
        self._account_of = account_of
        self._parcels = Parcels()
        self._making: set[asyncio.Task[tuple[Refusal | None, Passed]]] = set()
        self._looking = asyncio.Semaphore(1)
        self.why = ""
        """Why the worker refused last."""

    @property
    def driver(self) -> Driver | None:
        """Our machine's, in the open round."""
        return self._machine().driver

    async def make(
        self, caller: str, tag: Tag, tokens: int, x: bytes | None, gradient: bytes | None
    ) -> tuple[Refusal | None, Passed]:
        """Make a pass for an account, or say why not."""
        worker = self._worker

        def work() -> Coroutine[Any, Any, Passed]:
            return worker.make(
                tag.kind, round_number=tag.round, microbatch=tag.microbatch, tokens=tokens, x=x, gradient=gradient
            )

        return await self.perform(caller, tag, work)

    async def perform(
        self, caller: str, tag: Tag, work: Callable[[], Coroutine[Any, Any, Passed]]
    ) -> tuple[Refusal | None, Passed]:
        """Do what an account asks for, or say why not. The machine hears of the outcome also if nobody waits for it."""
        refusal = self._machine().admit(tag, caller)
        if refusal is not None:
            return refusal, Passed(kind="refused")
        making = asyncio.create_task(self._make(tag, work))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return await asyncio.shield(making)

    async def _make(
        self, tag: Tag, work: Callable[[], Coroutine[Any, Any, Passed]]
    ) -> tuple[Refusal | None, Passed]:
        worker, passed = self._worker, Passed(kind="refused")
        try:
            passed = await work()
        except WorkerRefused as exc:
            log.warning("pass_refused", stage=tag.stage, microbatch=tag.microbatch, reason=str(exc))
            self.why = str(exc)
        except WorkerDied as exc:
            log.warning("pass_lost", stage=tag.stage, microbatch=tag.microbatch, reason=str(exc))
        machine = self._machine()
        machine.microbatch_s = sum(worker.pace_s.values())
        self._tell(tasks.Served(tag=tag) if passed.kind == "done" else tasks.Unserved(tag=tag))
        if passed.kind == "done":
            return None, passed
        if passed.kind == "busy":
            return Refusal(code="BUSY", wait_s=max(passed.wait_s, AGAIN_S)), passed
        if passed.kind == "stale":
            state = machine.holding.state
            return Refusal(code="STALE", round=machine.log.round_of(state) or 0, state=state), passed
        return Refusal(code=MISSING if passed.kind == "missing" else FAULT), passed

    # ------------------------------------------------------------------ calls of other peers

    async def on_part(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.part`: keep a part until its pass is asked for."""
        part, longest = PartBody.read(body), self._worker.tensor_bytes
        if part.bytes > 2 * longest:
            raise Refused(BAD, f"{part.bytes} bytes, wanted at most {2 * longest}")
        most = max(MOST_PARCELS_BYTES, 4 * longest)
        self._parcels.put((caller, part.call), part.index, payload, part.bytes, most_bytes=most, now=time.monotonic())
        return Reply({})

    async def on_pass(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.pass`: make it."""
        asked, account = PassBody.read(body), self._known(caller)
        x, gradient = self._given((caller, asked.call), payload, asked.x, asked.gradient, asked.sum)
        if asked.tag().kind is Kind.BACKWARD and not gradient:
            raise Refused(BAD, "backward without a gradient")
        refusal, passed = await self.make(account, asked.tag(), asked.tokens, x or None, gradient)
        return self._answer((caller, asked.call), refusal, passed)

    async def on_expert(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.expert`: not in this run."""
        raise Refused(BAD, "the run places no experts on peers")

    def _answer(self, key: Key, refusal: Refusal | None, passed: Passed) -> Reply:
        if refusal is not None:
            why = self.why if refusal.code == FAULT else ""
            return Reply(PassAnswer(refusal=RefusalText.of(refusal, why)).body())
        answer = PassAnswer(
            bytes=len(passed.data), sum=digest(passed.data), service_us=round(passed.service_s * MICRO),
            waited_us=round(passed.waited_s * MICRO), queue_us=round(passed.queue_s * MICRO),
        )  # fmt: skip
        return self._handed(key, answer, passed.data)

    async def on_look(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.look`: for the drivers of the round, one at a time."""
        asked, account, roster = self._looks.read(body), self._known(caller), self._machine().log.last_roster
        if not any(seat.account == account and seat.stage == 0 for seat in roster):
            raise Refused(BAD, f"account {account[:16]} drives no round")
        x, targets = self._given((caller, asked.call), payload, asked.x, asked.targets, asked.sum)
        try:
            async with self._looking:
                seen = await self._look(asked, x, targets)
        except (WorkerRefused, WorkerDied) as exc:
            return Reply(PassAnswer(refusal=RefusalText.of(Refusal(code=FAULT), str(exc))).body())
        if seen is None:
            return Reply(PassAnswer(refusal=RefusalText.of(Refusal(code="STALE"))).body())
        answer = PassAnswer(bytes=len(seen.data), sum=digest(seen.data), loss=seen.loss, tokens=seen.tokens)
        return self._handed((caller, asked.call), answer, seen.data)

    async def _look(self, asked: LookBody, x: bytes, targets: bytes) -> Seen | None:
        return await self._worker.look(asked.state, x, targets or None)

    def _known(self, caller: str) -> str:
        """Whose peer it is."""
        if not (account := self._account_of(caller)):
            raise Refused(BAD, f"peer {caller} is not known to take part")
        return account

    def _given(self, key: Key, payload: bytes, first: int, second: int, told: str) -> tuple[bytes, bytes]:
        """The two tensors that came with a call or before it."""
        given = payload if first + second <= PAYLOAD_LIMIT else self._parcels.take(key, first + second)
        if len(given) != first + second or digest(given) != told:
            raise Refused(BAD, f"{len(given)} bytes came, not the {first + second} that were told")
        return given[:first], given[first:]

    def _handed(self, key: Key, answer: PassAnswer, data: bytes) -> Reply:
        """The first part of what came of it; the others are kept until they are asked for."""
        if len(data) > PAYLOAD_LIMIT:
            self._parcels.keep(key, data, now=time.monotonic())
        return Reply(answer.body(), data[:PAYLOAD_LIMIT])

    async def on_more(self, caller: str, body: dict[str, object], payload: bytes) -> Reply:
        """`stage.more`: hand out another part of what came of a pass."""
        more = MoreBody.read(body)
        if payload or more.index < 1:
            raise Refused(BAD, "stage.more: part 0 came with the answer, and nothing is taken")
        return Reply({}, self._parcels.part((caller, more.call), more.index))
