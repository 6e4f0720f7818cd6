"""Which replica of a stage a driver calls next: of four drawn at random, the one that should be finished first.

What is known of a replica is learnt from its replies: how long it takes for one call, how much it has before it, and
how far away it is. Between replies a replica is taken to be busy with what it said it had and with what we sent since;
whoever keeps us waiting keeps the next call waiting for as long.
Of whom nothing is known, or nothing of late, is taken to be like the others: it gets its turn, and is known again.
Who fails is not called for 1, 2, 4 … seconds; who is busy, not before it said it would have room.

Pure: time and the random generator are arguments.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from peer.rounds.pause import Pause
from peer.stages.messages import Kind

WEIGHT = 0.25
"""Of what a reply says against what was known before."""
FIRST_SERVICE_S = 1.0
"""Taken for a replica of whose stage nothing is known."""
FIRST_RTT_S = 0.1
"""Taken while no replica has answered."""
REMEMBER_S = 120.0
"""So long after its last answer a replica's speed is known: one that was slow once is not passed over for good."""
DRAWN = 4
"""Of so many replicas the best one is called: of fewer, slow ones get too much, of more, all call the same ones."""
LEAST_TIMEOUT_S = 5.0
MOST_WAIT_S = 60.0
"""No replica is waited for longer, whatever it says, before it is asked again."""
TIMES = 4.0
"""A call that takes so many times longer than predicted has failed."""


@dataclass(kw_only=True)
class Known:
    """What replies told of one replica. Written only by `Router`."""

    service_s: dict[Kind, float] = field(default_factory=dict)
    """Seconds of one call, by its kind."""
    rtt_s: float | None = None
    answered_at: float = -math.inf
    """When it answered last."""
    through_at: float = 0.0
    """When it should be through with all that it is known to have."""
    room_at: float = 0.0
    """When it said it would have room again."""
    pause: Pause = field(default_factory=Pause)


class Router:
    """What one driver knows of the replicas of the other stages; outlives rounds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._known: dict[str, Known] = {}
        self._usual: dict[tuple[int, Kind], float] = {}
        """Seconds of one call, by stage and kind, whoever served it."""
        self._usual_rtt_s: float | None = None

    def pick(
        self, accounts: Sequence[str], stage: int, kind: Kind, now: float, without: Collection[str] = (),
        since: Mapping[str, float] | None = None,
    ) -> str | None:  # fmt: skip
        """Who of a stage's replicas is called now, or None if nobody may be.

        Args:
            accounts: the replicas.
            stage: theirs.
            kind: what they are asked for.
            now: the time.
            without: those that shall not be called if there is anybody else.
            since: when the first of our calls was made that some of them have not answered yet.
        """
        free = [account for account in accounts if self._free_at(account) <= now]
        free = [account for account in free if account not in without] or free
        drawn = self._rng.sample(free, min(DRAWN, len(free)))
        asked = since or {}
        return min(
            drawn, key=lambda name: self.finish_s(name, stage, kind, now, now - asked.get(name, now)), default=None
        )

    def free_at(self, accounts: Sequence[str]) -> float | None:
        """When the first of these may be called; None if there are none."""
        return min((self._free_at(account) for account in accounts), default=None)

    def finish_s(self, account: str, stage: int, kind: Kind, now: float, waited_s: float = 0.0) -> float:
        """Seconds until an answer to a call made now should be here, where an earlier one is awaited for so long: what
        keeps that one waiting is before the new one too.
        """
        known, way_s = self._of(account), self._way_s(account, now)
        return max(known.through_at - now, way_s, waited_s) + self._service_s(known, stage, kind, now) + way_s

    def timeout_s(self, account: str, stage: int, kind: Kind, now: float) -> float:
        """After how long a call made now has failed."""
        return max(LEAST_TIMEOUT_S, TIMES * self.finish_s(account, stage, kind, now))

    def working_s(self, wait_s: float) -> float:
        """When to ask again a replica that is at it, and says that it will be for so long."""
        return max(LEAST_TIMEOUT_S, min(2 * wait_s, MOST_WAIT_S))

    # ------------------------------------------------------------------ learning

    def sent(self, account: str, stage: int, kind: Kind, now: float) -> None:
        """A call is made."""
        known = self._of(account)
        arrives = now + self._way_s(account, now)
        known.through_at = max(known.through_at, arrives) + self._service_s(known, stage, kind, now)

    def answered(
        self, account: str, stage: int, kind: Kind, now: float, *, took_s: float, service_s: float, waited_s: float,
        queue_s: float,
    ) -> None:  # fmt: skip
        """An answer came after `took_s`; the replica says how long it served and waited, and what it has before it."""
        known = self._of(account)
        service_s = min(max(service_s, 0.0), took_s)
        rtt_s = max(0.0, took_s - service_s - max(waited_s, 0.0))
        known.service_s[kind] = _moved(known.service_s.get(kind), service_s)
        self._usual[stage, kind] = _moved(self._usual.get((stage, kind)), service_s)
        known.rtt_s = _moved(known.rtt_s, rtt_s)
        self._usual_rtt_s = _moved(self._usual_rtt_s, rtt_s)
        known.answered_at = now
        known.through_at = now + max(queue_s, 0.0)
        known.room_at = 0.0
        known.pause.rest(0.0)

    def busy(self, account: str, now: float, wait_s: float) -> None:
        """It has no room for so long; what was sent is not before it, and then it begins with what it is sent."""
        known = self._of(account)
        known.room_at = known.through_at = now + min(max(wait_s, 0.0), MOST_WAIT_S)

    def failed(self, account: str, now: float) -> None:
        """It did not answer, or not what it should: what was sent is not before it any more."""
        known = self._of(account)
        known.through_at = now
        if known.pause.over(now):
            known.pause.failed(now)

    def services(self) -> Mapping[tuple[int, Kind], float]:
        """Seconds of one call by stage and kind, as seen of late."""
        return dict(self._usual)

    # ------------------------------------------------------------------ parts

    def _of(self, account: str) -> Known:
        return self._known.setdefault(account, Known())

    def _free_at(self, account: str) -> float:
        known = self._of(account)
        return max(known.pause.until, known.room_at)

    def _service_s(self, known: Known, stage: int, kind: Kind, now: float) -> float:
        usual = self._usual.get((stage, kind), FIRST_SERVICE_S)
        return known.service_s.get(kind, usual) if _of_late(known, now) else usual

    def _way_s(self, account: str, now: float) -> float:
        """Seconds to a replica, and as many back."""
        known, usual = self._of(account), FIRST_RTT_S if self._usual_rtt_s is None else self._usual_rtt_s
        return (known.rtt_s if known.rtt_s is not None and _of_late(known, now) else usual) / 2


def _of_late(known: Known, now: float) -> bool:
    """Whether what its answers told is still believed: they are fresh, or it is busy with what it had."""
    return now <= max(known.answered_at, known.through_at) + REMEMBER_S


def _moved(old: float | None, seen: float) -> float:
    """A figure that moves part of the way to what was seen."""
    return seen if old is None else old + WEIGHT * (seen - old)
