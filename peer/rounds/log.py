"""What a run's certified log says: the open round, the settled rounds, and whether the run is closed.

`RunLog` is a projection: it trusts that the entries passed the ledger's own rules (they come from a certified prefix,
or from our own log) and only arranges them for the round machines.

Pure: fed entries in order, holds no bytes and does no IO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.entries import Begin, Close, Entry, Open, Receipt, Settle
from p2p_llm_forge.protocol import MOST_ROUNDS_AWAY
from peer.errors import RoundError


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One member's place in a round: the half-open slot range [start, start + quota) is its alone."""

    account: str
    """The member's account key, 64 hex."""
    start: int
    """First slot."""
    quota: int
    """Number of slots it may use."""


@dataclass(frozen=True, kw_only=True)
class OpenRound:
    """A round that is open: who may work on which slots, from which state."""

    round: int
    state: str
    """Id of the state that the round starts from."""
    roster: tuple[Seat, ...]
    index: int
    """Index of the `open` entry in the run's log."""

    def seat(self, account: str) -> Seat | None:
        """The seat of `account`, if it is on the roster."""
        return next((seat for seat in self.roster if seat.account == account), None)


@dataclass(frozen=True, kw_only=True)
class SettledRound:
    """A settled round: which receipts count, in the order in which they are applied, and the state they lead to."""

    round: int
    state_in: str
    state: str
    receipts: tuple[Receipt, ...]
    validation: tuple[int, int] | None
    """(round evaluated, held-out loss in micro-nats), where the leader had a new figure."""
    roster: tuple[Seat, ...] = ()
    """Who might have delivered."""


class RunLog:
    """The projection of one run's log. Grows by `extend`; `size` says how many entries it has seen."""

    def __init__(self) -> None:
        self.size = 0
        self.spec: dict[str, object] = {}
        self.open: OpenRound | None = None
        self.settled: list[SettledRound] = []
        self.tokens = 0
        """Of all settled receipts."""
        self.losses: list[int] = []
        """Held-out losses in micro-nats, in the order in which they were settled."""
        self.close: Close | None = None
        self.next_slot = 0
        """First slot that no round has given out yet."""
        self._receipts: dict[int, Receipt] = {}
        self._first_state = ""

    @property
    def round(self) -> int:
        """Number of the last settled round; 0 before the first."""
        return len(self.settled)

    @property
    def state(self) -> str:
        """Id of the newest state in the log; the initial state's before the first round is settled."""
        return self.settled[-1].state if self.settled else self._first_state

    def state_after(self, round_number: int) -> str:
        """Id of the state after round `round_number` (0: the initial state).

        Raises:
            RoundError: the round is not settled.
        """
        if not 0 <= round_number <= self.round:
            raise RoundError(
                "FP-401", f"run log: round {round_number} is not settled, the last settled is {self.round}"
            )
        return self.settled[round_number - 1].state if round_number else self._first_state

    def round_of(self, state: str) -> int | None:
        """The newest round after which the state was `state`, or None."""
        for done in reversed(self.settled):
            if done.state == state:
                return done.round
        return 0 if state and state == self._first_state else None

    @property
    def last_roster(self) -> tuple[Seat, ...]:
        """Seats of the newest round, open or settled; none before the first."""
        return self.open.roster if self.open is not None else self.settled[-1].roster if self.settled else ()

    def settled_of(self, account: str) -> list[dict[str, object]]:
        """This account's updates that were settled of late, as the worker is told of them."""
        return [
            {"round": done.round, "update": receipt.update}
            for done in self.settled[-MOST_ROUNDS_AWAY:]
            for receipt in done.receipts
            if receipt.account == account
        ]

    def extend(self, entries: Sequence[Entry]) -> None:
        """Take the next entries of the log, in order."""
        for entry in entries:
            self._take(entry)
            self.size += 1

    def _take(self, entry: Entry) -> None:
        match entry:
            case Begin():
                self.spec = dict(entry.spec)
                self._first_state = entry.state
            case Open():
                roster = tuple(Seat(account=a, start=s, quota=q) for a, s, q in entry.roster)
                self.open = OpenRound(round=entry.round, state=entry.state, roster=roster, index=self.size)
                self.next_slot = max(seat.start + seat.quota for seat in roster)
            case Receipt():
                self._receipts[self.size] = entry
            case Settle():
                self._settle(entry)
            case Close():
                self.close, self.open = entry, None
            case _:
                pass  # recv and audit entries concern the ledger, not the rounds

    def _settle(self, entry: Settle) -> None:
        if self.open is None or self.open.round != entry.round:
            raise RoundError("FP-402", f"run log entry {self.size}: settles round {entry.round}, which is not open")
        self.settled.append(
            SettledRound(
                round=entry.round,
                state_in=self.open.state,
                state=entry.state,
                receipts=tuple(self._receipts[index] for index in entry.receipts),
                validation=(entry.validation[0], entry.validation[1]) if entry.validation else None,
                roster=self.open.roster,
            )
        )
        self.tokens += sum(receipt.tokens for receipt in self.settled[-1].receipts)
        self.losses += [entry.validation[1]] if entry.validation else []
        self.open = None
        self._receipts.clear()
