"""A member's line to the leader: heartbeats, joining, goodbye.

IO: calls over the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from ledger.errors import LedgerError
from peer.errors import NetworkError, Refused, Unreachable
from peer.ledger.replication import Replication
from peer.messages import Ahead, AheadQuery, Beat, Goodbye, Join, News
from peer.network.network import Network
from peer.runs.bulletin import digest
from peer.runs.joined import UNKNOWN_MEMBER
from peer.runs.run import Run
from peer.runs.whereabouts import Whereabouts

log = structlog.get_logger(__name__)

BEAT_S = 1.0
BEAT_TIMEOUT_S = 1.5
"""Shorter than the time after which the leader drops a silent member."""
CALL_S = 5.0
GOODBYE_S = 1.0
NOT_LEADING = "FP-423"


class Heart:
    """Tells the leader once a second that we live and what we hold, and learns what we lack."""

    def __init__(
        self,
        *,
        run: Run,
        network: Network,
        replication: Replication,
        advert: Callable[[], str],
        leader: Whereabouts,
        state: Callable[[], str],
        on_update: Callable[[str, Sequence[str]], None],
        on_ahead: Callable[[Ahead, str], Awaitable[None]],
        on_joined: Callable[[], None],
    ) -> None:
        """Beat for one run.

        Args:
            run: the run.
            network: libp2p.
            replication: takes up what the leader has of the log beyond ours.
            advert: our signed peer advert, which binds our PeerID to our account.
            leader: where the leader is.
            state: id of the state that our worker holds, or empty.
            on_update: told of each update of the open round, with the peers that have it.
            on_ahead: told what the leader, this account, signed beyond what is certified, where we lack it.
            on_joined: told when a leader took us in that did not know us: a new one, or one that was restarted.
        """
        self.peers: list[str] = []
        """PeerIDs of members of the run, as the leader last said; of many only some."""
        self._round, self._heard = 0, 0
        """The round of which the leader told updates last, and how many."""
        self._run = run
        self._network = network
        self._replication = replication
        self._advert = advert
        self._leader = leader
        self._state = state
        self._on_update = on_update
        self._on_ahead = on_ahead
        self._on_joined = on_joined
        self._silent = False

    async def serve(self) -> None:
        """Beat until cancelled."""
        while True:
            started = time.monotonic()
            await self._try_beat()
            await asyncio.sleep(max(0.05, BEAT_S - (time.monotonic() - started)))

    async def call(self, method: str, body: dict[str, Any], timeout_s: float = CALL_S) -> dict[str, Any]:
        """Call the leader.

        Raises:
            NetworkError: it is not known, does not answer, or refuses.
        """
        leader = self._leader.peer
        if leader is None:
            raise Unreachable(f"run {self._run.id[:16]}: the leader's peer is not known yet")
        return await self._network.call(leader, method, body, timeout_s=timeout_s)

    async def ask(self, method: str, body: dict[str, Any], timeout_s: float = CALL_S) -> dict[str, Any]:
        """As `call`, after joining a leader that does not know us."""
        try:
            return await self.call(method, body, timeout_s)
        except Refused as exc:
            if exc.code != UNKNOWN_MEMBER:
                raise
        await self.call("run.join", Join(run=self._run.id, advert=self._advert()).body())
        self._round, self._heard = 0, 0  # what another leader told us says nothing of what this one has
        answer = await self.call(method, body, timeout_s)
        self._on_joined()
        return answer

    async def say_goodbye(self, reason: str) -> None:
        """Tell the leader that we go, so that nobody waits for us."""
        if self._run.log.close is None:
            with contextlib.suppress(NetworkError):
                await self.call("run.leave", Goodbye(run=self._run.id, reason=reason).body(), GOODBYE_S)

    async def _try_beat(self) -> None:
        try:
            await self._beat()
            if self._silent:
                log.info("leader_back", run=self._run.id[:16])
            self._silent = False
        except (NetworkError, LedgerError) as exc:
            if not self._silent:
                log.warning("leader_silent", run=self._run.id[:16], reason=str(exc))
            self._silent = True
            if isinstance(exc, NetworkError):
                self._leader.next()

    async def _beat(self) -> None:
        beat = Beat(
            run=self._run.id, state=self._state(), size=self._run.log.certified,
            round=self._round, heard=self._heard, peers=digest(self.peers),
        )  # fmt: skip
        news = News.read(await self.ask("run.beat", beat.body(), BEAT_TIMEOUT_S))
        self.peers = self.peers if news.peers is None else news.peers
        self._heard = len(news.updates) + (self._heard if news.round == self._round else 0)
        self._round = news.round
        leader = self._leader.peer
        if leader is None or leader == self._network.peer_id:
            return
        for update in news.updates:
            self._on_update(update, [leader])
        run, account = self._run, self._leader.account
        if news.size > run.log.certified:
            await self._replication.pull_log(leader, run.origin)
        if news.signed > max(run.log.size, news.size) or (run.log.tail and run.ahead_of != account):
            tail = await self.call("run.tail", AheadQuery(run=run.id).body())
            await self._on_ahead(Ahead.read(tail), account)
