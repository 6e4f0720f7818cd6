"""A driver's calls where the experts live on other peers: our own trunk asks for them, then their holders count.

What the holders were asked going backward is recorded until the round is settled, so that another replica of a group
can be asked the same and count in the place of one that died.

IO: as `driving`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from peer.errors import DeadlineExceeded, NetworkError, Unreachable
from peer.network.network import Network
from peer.runs.run import Run
from peer.runs.staged import passes
from peer.runs.staged.driving import Driving
from peer.runs.staged.expert_messages import Asked, Counted, ExpertBody
from peer.runs.staged.expert_worker import FAULT, ExpertWorker, HolderLost
from peer.runs.staged.messages import AttemptText
from peer.runs.staged.parcels import digest
from peer.runs.staged.passed import Passed
from peer.runs.staged.serving import Serving
from peer.runs.staged.worker import StageWorker
from peer.stages.drive_trunk import MISSING, TrunkDriver
from peer.stages.messages import Kind, Refusal, Tag
from peer.stages.patience import Patience
from peer.stages.tasks import Call, Declined, DriverMessage, Reset

log = structlog.get_logger(__name__)

PATIENCE_S = 10.0
"""A holder that has no room, or is not at this round yet, is asked again for so long."""
LEAST_S, MOST_S = 0.02, 1.0
"""How long between."""
GLANCE_S = 0.25
"""So often it is looked whether a holder is lost."""

Sent = tuple[Refusal | None, bytes]


class ExpertDriving(Driving):
    """Carries out one member's calls."""

    def __init__(
        self, *, run: Run, account: str, network: Network, worker: StageWorker, serving: Serving,
        peer_of: Callable[[str], str | None],
    ) -> None:  # fmt: skip
        """As `Driving`."""
        super().__init__(run=run, account=account, network=network, worker=worker, serving=serving, peer_of=peer_of)
        self._patience = Patience()

    async def call(self, call: Call) -> DriverMessage | None:
        """Carry out a call; what the machine is told."""
        try:
            return await super().call(call)
        except HolderLost as exc:
            log.info("microbatch_broke", microbatch=call.tag.microbatch, holder=exc.account[:16], reason=str(exc))
            if exc.why == "FROZEN":
                return Declined(id=call.id, refusal=Refusal(code="FROZEN"))
            return Reset(id=call.id, account=exc.account)

    async def _pass(self, call: Call, x: bytes, gradient: bytes) -> tuple[Refusal | None, Passed]:
        if call.account == self._account:
            return await self._drive(call)
        return await self._count(call.account, call.tag)

    async def _given(self, call: Call, first: int) -> tuple[bytes, bytes] | None:
        return b"", b""

    @property
    def _tokens(self) -> int:
        return self._plan.microbatch * self._plan.plan.tokens_per_slot

    async def _drive(self, call: Call) -> tuple[Refusal | None, Passed]:
        """A microbatch through our trunk. Raises HolderLost."""
        tag, worker = call.tag, self._worker
        assert isinstance(worker, ExpertWorker)
        asked: dict[int, list[Asked]] = {}

        async def ask(kind: Kind, calls: Sequence[Asked]) -> list[bytes]:
            asking = [asyncio.create_task(self._ask(tag, kind, one)) for one in calls]
            try:
                replies = await asyncio.gather(*asking)
            finally:
                for task in asking:
                    task.cancel()  # what nobody waits for any more
            for one in calls if kind is Kind.BACKWARD else ():
                asked.setdefault(1 + call.holders.index(one.holder), []).append(one)
            return replies

        lost: list[HolderLost] = []

        async def work() -> Passed:
            try:
                return await worker.drive(
                    round_number=tag.round, microbatch=tag.microbatch, tokens=self._tokens, holders=call.holders,
                    ask=ask,
                )  # fmt: skip
            except HolderLost as exc:
                lost.append(exc)
                return Passed(kind="refused")

        refusal, passed = await self._serving.perform(self._account, tag, work)
        if lost:
            raise lost[0]
        if refusal is None:
            for stage in range(1, self._plan.stages):
                known = not asked and await self._recorded(tag.microbatch, stage) is not None
                if not known:  # else the trunk had it already, and asked nobody again
                    await self._record(tag.microbatch, stage, asked.get(stage, []))
        return refusal, passed

    # ------------------------------------------------------------------ holders

    async def _ask(self, tag: Tag, kind: Kind, asked: Asked) -> bytes:
        """A layer's pass. Raises HolderLost."""
        stage = self._stage_of(asked.holder)
        wanted = Tag(
            round=tag.round, state=tag.state, stage=stage, microbatch=tag.microbatch, kind=kind, attempt=tag.attempt,
            layer=asked.layer,
        )  # fmt: skip
        return await self._patiently(asked.holder, wanted, asked, [])

    async def _patiently(self, account: str, tag: Tag, asked: Asked | None, calls: Sequence[Counted]) -> bytes:
        """What came of it, though it took some asking. Raises HolderLost."""
        now = asyncio.get_running_loop().time
        until, again = now() + PATIENCE_S, True
        while True:
            sent_at = now()
            try:
                refusal, data = await self._unless_lost(account, tag, self._send(account, tag, asked, calls))
            except DeadlineExceeded as exc:
                if not again:
                    raise HolderLost(account, FAULT, str(exc)) from exc
                until, again = now() + PATIENCE_S, False
                continue
            except NetworkError as exc:
                raise HolderLost(account, FAULT, str(exc)) from exc
            if refusal is None:
                self._patience.took(now() - sent_at)
                return data
            if refusal.code not in ("BUSY", "WORKING", "STALE") or now() >= until:
                raise HolderLost(account, refusal.code, refusal.code)
            await asyncio.sleep(min(max(refusal.wait_s, LEAST_S), MOST_S))

    async def _unless_lost(self, account: str, tag: Tag, sending: Coroutine[Any, Any, Sent]) -> Sent:
        """What comes of it; nobody waits for a holder that is lost, nor once the round is over. Raises HolderLost."""
        task = asyncio.create_task(sending)
        try:
            while not (await asyncio.wait({task}, timeout=GLANCE_S))[0]:
                driver = self._serving.driver
                if not isinstance(driver, TrunkDriver) or driver.open.round != tag.round:
                    raise HolderLost(account, FAULT, "the round is over")
                if driver.gives_up(account):
                    raise HolderLost(account, FAULT, "the leader calls it lost")
            return task.result()
        finally:
            task.cancel()

    async def _send(
        self, account: str, tag: Tag, asked: Asked | None, calls: Sequence[Counted]
    ) -> Sent:
        peer = self._peer_of(account)
        if peer is None:
            raise Unreachable(f"account {account[:16]}: its peer is not known")
        given = asked.x + asked.gradient if asked is not None else b""
        body = ExpertBody(
            run=self._run.id, call=secrets.token_hex(16), round=tag.round, state=tag.state, stage=tag.stage,
            microbatch=tag.microbatch, kind=tag.kind.value, attempt=AttemptText.of(tag.attempt), tokens=self._tokens,
            x=len(asked.x) if asked else 0, gradient=len(asked.gradient) if asked else 0, sum=digest(given),
            layer=asked.layer if asked else None, experts=asked.experts if asked else [],
            counts=asked.counts if asked else [], calls=list(calls),
        )  # fmt: skip
        answer, data = await passes.carry(
            self._network, peer, "stage.expert", body, given, len(asked.x) if asked is not None else 0,
            timeout_s=self._patience.timeout_s,
        )  # fmt: skip
        if answer.refusal is not None:
            return answer.refusal.refusal(), b""
        if asked is not None and len(data) != len(asked.x):
            return Refusal(code=FAULT), b""
        return None, data

    async def _count(self, account: str, tag: Tag) -> tuple[Refusal | None, Passed]:
        """Have a holder count a microbatch; one that lacks calls of it is asked for them again."""
        found = await self._recorded(tag.microbatch, tag.stage)
        if found is None:
            return Refusal(code=MISSING), Passed(kind="refused")
        calls = [Counted(layer=one.layer, sum=one.sum) for one in found]
        try:
            try:
                await self._patiently(account, tag, None, calls)
            except HolderLost as exc:
                if exc.why != MISSING:
                    raise
                for one in found:
                    await self._patiently(account, Tag(**{**vars(tag), "layer": one.layer}), one, [])
                await self._patiently(account, tag, None, calls)
        except HolderLost as exc:
            log.info("count_failed", account=account[:16], stage=tag.stage, reason=str(exc))
            return Refusal(code=FAULT if exc.why == MISSING else exc.why), Passed(kind="refused")
        return None, Passed(kind="done")

    def _stage_of(self, account: str) -> int:
        opened = self._run.log.open
        seat = opened.seat(account) if opened is not None else None
        if seat is None:
            raise HolderLost(account, FAULT, "the round is over")
        return seat.stage

    # ------------------------------------------------------------------ records

    async def _record(self, microbatch: int, stage: int, asked: Sequence[Asked]) -> None:
        heads = [
            {"layer": one.layer, "experts": one.experts, "counts": one.counts, "holder": one.holder, "x": len(one.x)}
            for one in asked
        ]
        head = json.dumps(heads).encode()
        data = b"".join(one.x + one.gradient for one in asked)
        await self._records.put(f"{microbatch}.{stage}", len(head).to_bytes(4, "big") + head + data)

    async def _recorded(self, microbatch: int, stage: int) -> list[Asked] | None:
        data = await self._records.get(f"{microbatch}.{stage}")
        if data is None:
            return None
        at = 4 + int.from_bytes(data[:4], "big")
        found = []
        for head in json.loads(data[4:at]):
            size = head.pop("x")
            found.append(Asked(**head, x=data[at : at + size], gradient=data[at + size : at + 2 * size]))
            at += 2 * size
        return found
