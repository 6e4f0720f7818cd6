"""What other peers call of the runs that we host: `run.*`, passed on to the role that it concerns.

IO: through the parts it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peer.errors import Refused
from peer.ledger.logs import Logs
from peer.messages import Ahead, Bundle, CutNews, Gossip, HeldOutLoss
from peer.network.network import Network
from peer.runs.member import Member
from peer.runs.roles import AnyLeader, AnyMember
from peer.runs.staged.bodies import HeldOutQuery
from peer.runs.staged.member import StagedMember
from peer.runs.staged.messages import ORDERS, AnyOrder
from peer.wire import PAYLOAD_LIMIT, Reply

Body = dict[str, Any]
TAIL_REPLY_BYTES = 1 << 20


class Calls:
    """Serves `run.*` from now on."""

    def __init__(
        self, *, network: Network, logs: Logs, members: Mapping[str, AnyMember], leaders: Mapping[str, AnyLeader]
    ) -> None:
        """`members` and `leaders` are our roles just now, by run."""
        self._logs = logs
        self._members = members
        self._leaders = leaders
        for method in ("join", "beat", "receipt", "leave", "cancel"):
            network.serve(f"run.{method}", self._for_leader(f"on_{method}"))
        network.serve("run.tail", self._for_leader("on_tail"), reply_bytes=TAIL_REPLY_BYTES)
        network.serve("stage.status", self._for_leader("on_status"))
        for name, kind in ORDERS.items():
            network.serve(f"stage.{name}", self._ordered(kind))
        network.serve("stage.held_out", self._on_held_out)
        for name in ("part", "pass", "look", "expert", "more"):
            network.serve_bytes(f"stage.{name}", self._for_replica(f"on_{name}"), reply_bytes=PAYLOAD_LIMIT)
        network.serve("run.ahead", self._on_ahead)
        network.serve("run.news", self._on_news)
        network.serve("run.gossip", self._on_gossip)
        network.serve("run.cut", self._on_cut)

    def _for_leader(self, method: str) -> Any:
        async def handle(caller: str, body: Body) -> Body:
            leader = self._leaders.get(str(body.get("run")))
            if leader is None:
                raise Refused("FP-423", f"run {str(body.get('run'))[:16]}: not led by this peer")
            serve = getattr(leader, method, None)
            if serve is None:
                raise Refused("FP-423", f"run {leader.run.id[:16]}: its model is not cut into stages")
            answer: Body = await serve(caller, body)
            return answer

        return handle

    def _staged(self, run: str) -> StagedMember:
        member = self._members.get(run)
        if not isinstance(member, StagedMember):
            raise Refused("FP-423", f"run {run[:16]}: this peer serves no stage of it")
        return member

    def _ordered(self, kind: type[AnyOrder]) -> Any:
        async def handle(caller: str, body: Body) -> Body:
            told = kind.read(body)
            member = self._staged(told.run)
            if caller != member.leader.peer:
                raise Refused("FP-423", f"run {told.run[:16]}: peer {caller} does not lead it")
            member.tell(told.order())
            return {}

        return handle

    async def _on_held_out(self, caller: str, body: Body) -> Body:
        asked = HeldOutQuery.read(body)
        member = self._staged(asked.run)
        if caller != member.leader.peer:
            raise Refused("FP-423", f"run {asked.run[:16]}: peer {caller} does not lead it")
        return HeldOutLoss(loss=await member.looking.measure(asked.states)).body()

    def _for_replica(self, method: str) -> Any:
        async def handle(caller: str, body: Body, payload: bytes) -> Reply:
            answer: Reply = await getattr(self._staged(str(body.get("run"))).serving, method)(caller, body, payload)
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
            await member.following.go_ahead(ahead, member.leader.account)
        return {}

    async def _on_gossip(self, caller: str, body: Body) -> Body:
        gossip = Gossip.read(body)
        member = self._members.get(gossip.run)
        if member is not None and caller == member.leader.peer:
            member.prefetcher.want(gossip.update, [gossip.peer])
        return {}

    async def _on_cut(self, caller: str, body: Body) -> Body:
        news = CutNews.read(body)
        member = self._members.get(news.run)
        if isinstance(member, Member) and caller == member.leader.peer:
            member.hear_cut(news)
        return {}
