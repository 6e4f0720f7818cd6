"""What a round is cut with, told before it is settled: members apply it while the leader does.

Nothing rests on it. What the log settles is the same unless the leader dies or lies in between; then a member goes back
to the state before, which it still has, and applies what is settled.

Pure: frozen values, and one member's guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from peer.rounds.log import OpenRound, RunLog

MOST_WRONG = 3
"""A member that guessed wrong so often guesses no more."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What of a receipt moves the state."""

    account: str
    update: str
    """Blob id."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Cut:
    """To a member: its leader cut this round, and applies these in this order."""

    round: int
    counted: tuple[Counted, ...]


@dataclass(frozen=True, kw_only=True)
class ApplyCut:
    """From a member: apply these to the open round's state, as its leader does: answer with `Holds`."""

    open: OpenRound
    counted: tuple[Counted, ...]


class Foresight:
    """One member's guess of what is settled next. Written only by its machine."""

    def __init__(self) -> None:
        """Nothing was heard."""
        self._cut: Cut | None = None
        self._before: tuple[int, str] | None = None
        """(round, id) of the state that the last guess was applied to."""
        self._wrong = 0

    def hear(self, cut: Cut, log: RunLog) -> None:
        """The leader cut a round; of any other than the open one, or with strangers, nothing is believed."""
        accounts = [one.account for one in cut.counted]
        roster = {seat.account for seat in log.open.roster} if log.open is not None else set()
        sound = 0 < len(accounts) == len(set(accounts)) and roster.issuperset(accounts)
        if sound and log.open is not None and log.open.round == cut.round and self._wrong < MOST_WRONG:
            self._cut = cut

    def apply(self, log: RunLog, held: tuple[int, str]) -> ApplyCut | None:
        """What to apply while the leader does, once; None where nothing was heard, or we hold another state."""
        cut, self._cut = self._cut, None
        if cut is None or log.open is None or held != (cut.round - 1, log.open.state) or log.open.round != cut.round:
            return None
        self._before = held
        return ApplyCut(open=log.open, counted=cut.counted)

    def before(self, log: RunLog, held: tuple[int, str]) -> tuple[int, str] | None:
        """(round, id) of the state that was held before a guess that is not settled yet; None if `held` is none."""
        guess = self._before is not None and held[0] == self._before[0] + 1 == log.round + 1
        return self._before if guess else None

    def back(self, held: tuple[int, str]) -> tuple[int, str] | None:
        """`held` is not what was settled: (round, id) of the state to go back to, if that was a guess."""
        before, self._before = self._before, None
        if before is None or held[0] != before[0] + 1:
            return None
        self._wrong += 1
        return before
