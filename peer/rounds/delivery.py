"""What becomes of our receipt: sent until it is answered, sent again from time to time until its round is over.

A leader that was restarted has forgotten the receipts of the open round; so a receipt that was taken is offered again
every `REMIND_S` seconds, and the leader recognises what it has.

Pure: time is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import Answered, Deliver, MemberEffect, Redeliver
from peer.rounds.pause import Pause

REMIND_S = 10.0
FINAL = frozenset({"FP-410", "FP-412", "FP-413", "FP-414", "FP-415", "FP-416", "FP-419", "FP-427"})
"""Refusals that no repetition can change; so are those of the engine (FP-1xx)."""


class Promise(NamedTuple):
    """A receipt that we signed: for which round, from which state, for which slots."""

    round: int
    state: str
    start: int
    slots: int

    def fits(self, open_round: OpenRound, account: str) -> bool:
        """Whether it may count in this round."""
        seat = open_round.seat(account)
        same = (open_round.round, open_round.state) == (self.round, self.state)
        return same and seat is not None and seat.start == self.start and self.slots <= seat.quota


class Delivery:
    """The receipt of the open round, on its way to the leader. Written only by the member's machine."""

    def __init__(self) -> None:
        self._effect: Deliver | Redeliver | None = None
        self._sending = False
        self._taken = False
        self._pause = Pause()

    @property
    def under_way(self) -> bool:
        """Whether the leader has not answered it yet, while it may still count."""
        return self._effect is not None and not self._taken

    @property
    def due(self) -> float:
        """When it is sent next; 0 if only a message can help, or at once."""
        return self._pause.until if self._effect is not None and not self._sending else 0.0

    def start(self, effect: Deliver | Redeliver) -> None:
        """There is a receipt to deliver."""
        self._effect, self._sending, self._taken = effect, False, False
        self._pause.rest(0.0)

    def next(self, log: RunLog, now: float) -> list[MemberEffect]:
        """Send it, if it is due; forget it once its round is not the open one."""
        if self._effect is None:
            return []
        if log.open is None or log.open.round != _round_of(self._effect):
            self._effect = None
            return []
        if self._sending or not self._pause.over(now):
            return []
        self._sending = True
        return [self._effect]

    def answered(self, message: Answered, now: float) -> None:
        """The leader took it, or refused it."""
        if self._effect is None or _round_of(self._effect) != message.round:
            return
        self._sending = False
        code = message.refusal[0] if message.refusal is not None else ""
        if code in FINAL or code.startswith("FP-1"):
            self._effect = None
            return
        self._effect = Redeliver(round=message.round)
        if code:
            self._pause.failed(now)  # a leader that is just cutting, starting or restarting
        else:
            self._taken = True
            self._pause.rest(now + REMIND_S)

    def remind(self) -> None:
        """Whoever leads now does not know of it: send it at once."""
        self._pause.rest(0.0)

    def broke(self, effect: MemberEffect, now: float) -> None:
        """It could not be sent."""
        if effect == self._effect:
            self._sending = False
            self._pause.failed(now)


def _round_of(effect: Deliver | Redeliver) -> int:
    return effect.open.round if isinstance(effect, Deliver) else effect.round
