"""What other peers call of the runs that we host: `run.*`, passed on to the role that it concerns.

IO: through the parts it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peer.errors import Refused
from peer.ledger.logs import Logs
from peer.messages import Ahead, Bundle, Gossip
from peer.network.network import Network
from peer.runs.leader import Leader
from peer.runs.member import Member

Body = dict[str, Any]
TAIL_REPLY_BYTES = 1 << 20


class Calls:
    """Serves `run.*` from now on."""

    def __init__(
        self, *, network: Network, logs: Logs, members: Mapping[str, Member], leaders: Mapping[str, Leader]
    ) -> None:
        """`members` and `leaders` are our roles just now, by run."""
        self._logs = logs
        self._members = members
        self._leaders = leaders
        for method in ("join", "beat", "receipt", "leave", "cancel"):
            network.serve(f"run.{method}", self._for_leader(f"on_{method}"))
        network.serve("run.tail", self._for_leader("on_tail"), reply_bytes=TAIL_REPLY_BYTES)
        network.serve("run.ahead", self._on_ahead)
        network.serve("run.news", self._on_news)
        network.serve("run.gossip", self._on_gossip)

    def _for_leader(self, method: str) -> Any:
        async def handle(caller: str, body: Body) -> Body:
            leader = self._leaders.get(str(body.get("run")))
            if leader is None:
                raise Refused("FP-423", f"run {str(body.get('run'))[:16]}: not led by this peer")
            answer: Body = await getattr(leader, method)(caller, body)
            return answer

        return handle

    async def _on_news(self, caller: str, body: Body) -> Body:
        bundle = Bundle.read(body)
        if bundle.start <= await self._logs.size(bundle.origin) and self._follows(bundle.origin):
            await self._logs.accept([bundle])
        return {}

    def _follows(self, origin: str) -> bool:
        return any(self._logs.genesis.run_origin(run) == origin for run in self._members)

    async def _on_ahead(self, caller: str, body: Body) -> Body:
        ahead = Ahead.read(body)
        member = self._members.get(ahead.run)
        if member is not None and caller == member.leader.peer:
            await member.go_ahead(ahead, member.leader.account)
        return {}

    async def _on_gossip(self, caller: str, body: Body) -> Body:
        gossip = Gossip.read(body)
        member = self._members.get(gossip.run)
        if member is not None and caller == member.leader.peer:
            member.prefetcher.want(gossip.update, [gossip.peer])
        return {}
