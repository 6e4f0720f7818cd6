"""Who the leader knows: last heartbeat, state held, strikes.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar


@dataclass(kw_only=True)
class Member:
    """What the leader knows of one account. Written only by `Roll`."""

    account: str
    beat_at: float
    state: str
    since: float
    """When it came to hold that state: half-way between the heartbeats that do not and do say so."""
    alive: bool = True
    strikes: int = 0


class Roll:
    """All accounts that ever sent a heartbeat, in the order of their arrival."""

    STRIKES: ClassVar[int] = 3

    def __init__(self, *, lost_after_s: float) -> None:
        """An empty roll; a member silent for `lost_after_s` seconds is gone."""
        self._lost_after_s = lost_after_s
        self._members: dict[str, Member] = {}

    @property
    def deadline(self) -> float | None:
        """When the next member falls silent if nothing more is heard."""
        return min((m.beat_at + self._lost_after_s for m in self._members.values() if m.alive), default=None)

    def knows(self, account: str) -> bool:
        """Whether the account ever sent us a heartbeat."""
        return account in self._members

    def lives(self, account: str) -> bool:
        """Whether heartbeats of this account arrive."""
        return account in self._members and self._members[account].alive

    def alive(self) -> list[Member]:
        """Members whose heartbeats arrive."""
        return [member for member in self._members.values() if member.alive]

    def beat(self, account: str, state: str, now: float) -> None:
        """A heartbeat arrived."""
        member = self._members.setdefault(account, Member(account=account, beat_at=now, state=state, since=now))
        if member.state != state:
            member.since = (member.beat_at + now) / 2
        member.beat_at, member.state, member.alive = now, state, True

    def holds(self, account: str, state: str) -> None:
        """A receipt says what the member held, also where rounds are quicker than heartbeats."""
        member = self._members.get(account)
        if member is not None and member.state != state:
            member.state, member.since = state, member.beat_at

    def since(self, account: str, state: str) -> float | None:
        """Since when the account holds this state, as far as is known; None if it does not."""
        member = self._members.get(account)
        return member.since if member is not None and member.state == state else None

    def leave(self, account: str) -> Member | None:
        """The member is gone; returns it if it was there."""
        member = self._members.get(account)
        if member is None or not member.alive:
            return None
        member.alive = False
        return member

    def silent(self, now: float) -> list[Member]:
        """Members that fell silent since the last call."""
        gone = [m for m in self._members.values() if m.alive and now >= m.beat_at + self._lost_after_s]
        for member in gone:
            member.alive = False
        return gone

    def strike(self, account: str) -> None:
        """An update of this account was refused for what it holds."""
        if account in self._members:
            self._members[account].strikes += 1

    def excluded(self, account: str) -> bool:
        """Whether the account had too many refused updates."""
        return account in self._members and self._members[account].strikes >= self.STRIKES

    def working(self, account: str, states: Set[str]) -> bool:
        """Whether a delivery of this account may still come: it is alive and holds one of `states`."""
        member = self._members.get(account)
        return member is not None and member.alive and member.state in states and not self.excluded(account)

    def ready(self, states: Set[str]) -> list[str]:
        """Accounts that can be rostered: alive, not excluded, holding one of `states`, in order of arrival."""
        return [account for account in self._members if self.working(account, states)]
