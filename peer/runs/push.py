"""What a leader sends its members without being asked: new log entries, and who has an update.

IO: calls over the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import structlog

from peer.errors import NetworkError
from peer.ledger.replication import Replication
from peer.messages import Ahead, CutNews, Gossip
from peer.network.network import Network
from peer.runs.roletasks import RoleTasks

log = structlog.get_logger(__name__)

PUSH_S = 5.0
MOST_LOGS = 32
"""So many members are sent entries at the same time: what waits for a slow line is in memory."""
CUTS_BYTES = 256 << 10
"""What a round is cut with is told in advance where it is no more for all members: the log follows at once."""
COUNTED_BYTES = 200
"""Of one update in it, about."""


class Push:
    """Sends to members; one that cannot be reached asks for what it lacks with its next heartbeat."""

    def __init__(self, *, origin: str, network: Network, replication: Replication) -> None:
        """For the run whose log this is."""
        self._origin = origin
        self._network = network
        self._replication = replication
        self._logs = asyncio.Semaphore(MOST_LOGS)

    def gossip(self, tasks: RoleTasks, peers: Iterable[str], gossip: Gossip) -> None:
        """Say who has an update."""
        for peer in peers:
            tasks.start(self.send(peer, "run.gossip", gossip.body()))

    def cut(self, tasks: RoleTasks, peers: Collection[str], news: CutNews) -> None:
        """Say what a round is cut with, in a run that is not too large for it."""
        if len(peers) * len(news.counted) * COUNTED_BYTES <= CUTS_BYTES:
            for peer in peers:
                if peer != self._network.peer_id:
                    tasks.start(self.send(peer, "run.cut", news.body()))

    def ahead(self, tasks: RoleTasks, peers: Iterable[str], ahead: Ahead) -> None:
        """Send what is signed and not certified yet."""
        for peer in peers:
            if peer != self._network.peer_id:
                tasks.start(self.send(peer, "run.ahead", ahead.body()))

    def news(self, tasks: RoleTasks, peers: Iterable[str], since: int) -> None:
        """Send the newest entries of the log."""
        for peer in peers:
            if peer != self._network.peer_id:
                tasks.start(self._send_log(peer, since))

    async def _send_log(self, peer: str, since: int) -> None:
        async with self._logs:
            async for bundle in self._replication.bundles(self._origin, since):
                await self.send(peer, "run.news", bundle.body())

    async def send(self, peer: str, method: str, body: dict[str, Any]) -> None:
        """Send one message, once."""
        try:
            await self._network.call(peer, method, body, timeout_s=PUSH_S)
        except NetworkError as exc:
            log.info("push_failed", peer=peer, method=method, reason=str(exc))
