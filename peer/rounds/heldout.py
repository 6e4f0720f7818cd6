"""Held-out losses: whose turn it is to measure one, which figures are believed, and which goes into the next settle.

Members take turns. What a member says is believed unless it strays far from the last figure of our own worker or would
end the run; then, and where a member gives none, our own worker measures.

Pure: no time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.entries import Validation
from peer.rounds.messages import Evaluate, Evaluated, LeaderEffect, Report, Unevaluated
from peer.rounds.plan import Plan

WILD = 0.2
"""A member's figure that strays from our last one by more than this share of it is measured again by ourselves."""


class HeldOut:
    """The evaluations of one run. Written only by the leader's machine."""

    def __init__(self, plan: Plan) -> None:
        self.figure: Validation | tuple[()] = ()
        """The newest figure that is in no settle yet."""
        self._plan = plan
        self._own: int | None = None
        """The last loss that our own worker measured; we measure first, so that there is one to compare with."""
        self._newest = 0
        """The newest round of which a figure was taken."""
        self._turns: dict[str, int] = {}
        """By account: the round of its last turn."""

    def ask(self, round: int, members: Sequence[str]) -> list[LeaderEffect]:
        """If it is due, have the state after this round evaluated by who of `members` had no turn for the longest."""
        if self._plan.evaluate_every == 0 or round % self._plan.evaluate_every:
            return []
        if self._own is None or not members:
            return [Evaluate(round=round)]
        account = min(members, key=lambda member: self._turns.get(member, 0))
        self._turns[account] = round
        return [Evaluate(round=round, account=account)]

    def take(self, message: Evaluated | Unevaluated, *, settled: int) -> list[LeaderEffect]:
        """A figure arrived, or will not come; asks our own worker where it must be measured again.

        Our own worker holds the state after the last `settled` round; for an older one it is not asked any more.
        """
        if message.round <= self._newest:
            return []
        if isinstance(message, Unevaluated) or (message.account and self._doubtful(message.loss)):
            return [Evaluate(round=message.round)] if message.round >= settled else []
        self._newest = message.round
        self.figure = Validation(message.round, message.loss)
        told: dict[str, object] = {"round": message.round, "validation": message.loss / 1e6}
        if message.account:
            return [Report(event="evaluated", fields={**told, "account": message.account})]
        self._own = message.loss
        return [Report(event="evaluated", fields=told)]

    def _doubtful(self, loss: int) -> bool:
        own = self._own
        return own is None or abs(loss - own) > WILD * own or loss <= self._plan.target_loss
