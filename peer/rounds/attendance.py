"""Who was seen on a roster, who was lost from one: the reports of joining, dropping and coming back, and who pauses.

Pure: no time.
"""

from __future__ import annotations

from collections.abc import Iterable

from peer.rounds.backoff import Backoff
from peer.rounds.log import OpenRound
from peer.rounds.messages import Report
from peer.rounds.roster import Member


class Attendance:
    """Remembers accounts so that each joining and each return is told once."""

    def __init__(self, known: Iterable[str]) -> None:
        """`known`: accounts whose joining is no news, because they contributed before we took over."""
        self._known = set(known)
        self._dropped: set[str] = set()
        self.backoff = Backoff()

    def opened(self, open_round: OpenRound) -> list[Report]:
        """Say who is on a roster for the first time, and who is back."""
        reports = []
        for seat in open_round.roster:
            if seat.account not in self._known or seat.account in self._dropped:
                event = "rejoined" if seat.account in self._dropped else "joined"
                reports.append(Report(event=event, fields={"account": seat.account, "round": open_round.round}))
            self._known.add(seat.account)
            self._dropped.discard(seat.account)
        return reports

    def lost(self, member: Member | None, open_round: OpenRound | None, reason: str) -> list[Report]:
        """Say that a member of the open round is gone."""
        if member is None or open_round is None or open_round.seat(member.account) is None:
            return []
        self._dropped.add(member.account)
        fields: dict[str, object] = {"account": member.account, "round": open_round.round, "reason": reason}
        return [Report(event="dropped", fields=fields)]

    def silent(self, member: Member, open_round: OpenRound | None, reason: str) -> list[Report]:
        """Say that a member's heartbeats stopped; whoever does that again and again is benched."""
        reports = self.lost(member, open_round, reason)
        if not reports or open_round is None:
            return reports
        until = self.backoff.dropped(member.account, open_round.round)
        if until is not None:
            why = f"dropped again and again, last in round {open_round.round}: {reason}"
            reports.append(Report(event="benched", fields={"account": member.account, "until": until, "reason": why}))
        return reports
