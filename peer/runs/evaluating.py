"""Held-out losses from the members: the leader asks one, whose worker measures between its trainings.

A member answers only for the state that its worker holds, so that nothing is loaded for it; else it refuses, and the
leader's own worker measures.

IO: calls over the network, the run's worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from peer.blobs.chunks import BlobName
from peer.errors import ForgeError, NetworkError, Refused
from peer.messages import Evaluation, HeldOutLoss
from peer.network.network import Network
from peer.network.rpc import Body, Handler
from peer.network.shaper import patience_s
from peer.rounds.messages import Evaluate, Evaluated, Unevaluated
from peer.runs.member import Member
from peer.runs.run import Run
from peer.runs.staged.member import StagedMember

log = structlog.get_logger(__name__)

METHOD = "run.evaluate"
NOT_HELD = "FP-426"
SPARE_S = 30.0
"""A member may take so long beyond the time budget of a training that is under way and a round's fetching."""
LOOK_S = 0.05


async def ask(run: Run, network: Network, peer: str | None, effect: Evaluate, state: str) -> Evaluated | Unevaluated:
    """Ask a member for the held-out loss of `state`; whatever goes wrong, our own worker can do it."""
    try:
        if peer is None:
            raise Refused("FP-420", f"member {effect.account[:16]} has not joined")
        body = Evaluation(run=run.id, state=state).body()
        timeout_s = run.plan.time_budget_s + SPARE_S + patience_s(_bytes_of_a_round(run))
        answer = await network.call(peer, METHOD, body, timeout_s=timeout_s)
        loss = HeldOutLoss.read(answer).loss
    except NetworkError as exc:
        log.info("not_evaluated", run=run.id[:16], account=effect.account, reason=str(exc))
        return Unevaluated(round=effect.round, account=effect.account)
    return Evaluated(round=effect.round, loss=loss, account=effect.account)


def _bytes_of_a_round(run: Run) -> int:
    """What the member may have to fetch before it holds the state, by the last round."""
    receipts = run.log.settled[-1].receipts if run.log.settled else ()
    return sum(BlobName.parse(receipt.update).length for receipt in receipts)


def serve(network: Network, members: Mapping[str, Member | StagedMember], peer_of: Callable[[str], str | None]) -> None:
    """Serve `run.evaluate` to the leaders of the runs in which we are one of `members`."""
    network.serve(METHOD, handler(members, peer_of))


def handler(members: Mapping[str, Member | StagedMember], peer_of: Callable[[str], str | None]) -> Handler:
    """What answers `run.evaluate`; `peer_of` says at which PeerID an account is."""

    async def handle(caller: str, body: Body) -> Body:
        asked = Evaluation.read(body)
        member = members.get(asked.run)
        if not isinstance(member, Member) or caller not in map(peer_of, member.run.leaders):
            raise Refused("FP-423", f"run {asked.run[:16]}: peer {caller} does not lead it, or we take no part in it")
        try:
            return HeldOutLoss(loss=await _measure(member, asked.state)).body()
        except ForgeError as exc:
            raise Refused(NOT_HELD, f"run {asked.run[:16]}: state {asked.state[:16]} not evaluated: {exc}") from exc

    return handle


async def _measure(member: Member, state: str) -> int:
    """The loss of `state`, as soon as our worker holds it; the caller's deadline ends the waiting."""
    while member.machine.state != state:
        if member.run.log.close is not None or member.run.log.round_of(state) not in (None, member.run.log.round):
            raise Refused(NOT_HELD, f"we hold {member.machine.state[:16] or 'no state'}")
        await asyncio.sleep(LOOK_S)  # the round's news arrives on its own, and the updates are still being applied
    return await member.evaluate(state)
