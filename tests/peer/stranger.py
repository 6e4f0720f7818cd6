"""Somebody who speaks the members' protocol by hand, and not always honestly.

IO: through the in-memory network it is given; blobs in a folder of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

from ledger.entries import Receipt
from ledger.keys import PrivateKey
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.errors import NetworkError, Refused
from peer.messages import Beat, Delivery, Join
from peer.rounds.lead import Phase
from peer.rounds.log import OpenRound
from tests.peer.daemons import Peer, World
from tests.peer.fake_worker import TOKENS_PER_SLOT, update_bytes
from tests.peer.memory_net import DEADLINE_S, MemoryNetwork, advert_of, outsider, until


class Stranger:
    """A member without a daemon; `leader` is whose run it takes part in."""

    def __init__(self, network: MemoryNetwork, leader: Peer, run: str) -> None:
        self.network, self.leader, self.run = network, leader, run
        self.key: PrivateKey = network.identity.account_key
        self.account = self.key.public
        self.blobs = BlobStore(leader.home.path.parent / f"blobs-{self.account[:8]}", 1 << 30)
        BlobFetcher(self.blobs, network)
        self.joined = False
        """Whether the leader knows us and takes our heartbeats."""

    async def call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.network.call(self.leader.network.peer_id, method, body, timeout_s=5.0)

    async def join(self, advert: str = "") -> None:
        await self.call("run.join", Join(run=self.run, advert=advert or advert_of(self.network)).body())

    async def beat(self) -> dict[str, Any]:
        """One heartbeat that claims the state which the open round starts from, or the newest one."""
        known = self.leader.run(self.run)
        assert known is not None
        return await self.call("run.beat", Beat(run=self.run, state=known.log.state, size=known.log.size).body())

    async def serve(self) -> None:
        """Join and beat until cancelled."""
        while True:
            with contextlib.suppress(NetworkError):
                await self.join()
                while await self.beat():
                    self.joined = True
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.05)

    async def collecting(self, round_number: int = 0) -> OpenRound:
        """Waits for a round for which the leader takes receipts."""

        def found() -> OpenRound | None:
            leader = self.leader.daemon.host.leaders.get(self.run)
            machine = leader._machine if leader is not None else None
            opened = machine.log.open if machine is not None and machine.phase is Phase.COLLECTING else None
            return opened if opened is not None and opened.round >= round_number else None

        opened: OpenRound = await until(found)
        return opened

    async def seated(self, round_number: int = 0) -> OpenRound:
        """Waits for such a round that has a seat for us."""
        async with asyncio.timeout(DEADLINE_S):
            while (opened := await self.collecting(round_number)).seat(self.account) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return opened

    def receipt(self, opened: OpenRound, **changes: Any) -> Receipt:
        """The receipt that an honest member would give, with changes; its update is what `update_bytes` says."""
        seat = opened.seat(self.account) or opened.roster[0]
        body: dict[str, Any] = {
            "network": self.network.genesis.id, "run": self.run, "round": opened.round, "state_in": opened.state,
            "update": "", "tokens": seat.quota * TOKENS_PER_SLOT, "slots": (seat.start, seat.quota),
            "loss": 5_000_000, "steps": 2, "leaves": sha256(b"leaves").hexdigest(), "key": self.key, **changes,
        }  # fmt: skip
        return Receipt.create(**body)

    async def update(self, opened: OpenRound, data: bytes | None = None) -> str:
        """Keep an update, to be fetched from us; returns its id."""
        seat = opened.seat(self.account)
        return await self.blobs.add_bytes(update_bytes(seat.start if seat else 0) if data is None else data)

    async def deliver(self, receipt: Receipt | str) -> str:
        """Deliver it; returns the code with which it is refused, or nothing."""
        text = receipt if isinstance(receipt, str) else receipt.encode().decode()
        try:
            await self.call("run.receipt", Delivery(run=self.run, receipt=text).body())
        except Refused as exc:
            return exc.code
        return ""


@contextlib.asynccontextmanager
async def stranger(world: World, leader: Peer, run: str, *, serves: bool = True) -> AsyncIterator[Stranger]:
    """A stranger; `serves`: it joins and sends heartbeats by itself."""
    async with outsider(world.air, world.genesis) as network:
        one = Stranger(network, leader, run)
        task = asyncio.create_task(one.serve()) if serves else None
        try:
            yield one
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
