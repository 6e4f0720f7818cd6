"""What a run's log says: the open round, the settled rounds, and whether the run is closed.

`RunLog` is a projection: it trusts that the entries passed the ledger's own rules and only arranges them for the round
machines. What is certified stays. A leader's tail may go on beyond it: signed entries that no quorum of witnesses has
certified yet, which give way as soon as others are certified in their place, and leave no trace.

Pure: fed entries in order, holds no bytes and does no IO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from ledger.entries import (
    Begin,
    Close,
    Entry,
    Open,
    Receipt,
    Settle,
    StageOpen,
    StageReceipt,
    Stages,
    StageSettle,
)  # fmt: skip
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
    stage: int = 0
    """In a run with stages: which one it holds. Those of stage 0 share the round's slots, the others serve them all."""


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
    staged: tuple[StageReceipt, ...] = ()
    """In a run with stages: the receipts that count, in place of `receipts`, which is empty there."""
    states: tuple[str, ...] = ()
    """In a run with stages: the id of each stage's state."""

    @property
    def tokens(self) -> int:
        """Trained in this round: by the whole model, so those that every stage served."""
        staged = sum(receipt.tokens for receipt in self.staged if receipt.stage == 0)
        return staged + sum(receipt.tokens for receipt in self.receipts)


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """Where the certified part of a log ends: what has to be put back once the tail is dropped."""

    size: int
    open: OpenRound | None
    rounds: int
    losses: int
    tokens: int
    next_slot: int
    receipts: dict[int, Receipt | StageReceipt]


class RunLog:
    """The projection of one run's log: certified entries by `extend`, and a tail beyond them by `follow`."""

    def __init__(self) -> None:
        self.size = 0
        """Entries taken up, the tail's too."""
        self.tail: tuple[Entry, ...] = ()
        """The last ones of them, which are not certified."""
        self.drops = 0
        """How often a tail gave way."""
        self.spec: dict[str, object] = {}
        self.stages: Stages | None = None
        """How the run's model is cut, if it is."""
        self.open: OpenRound | None = None
        self.settled: list[SettledRound] = []
        self.tokens = 0
        """Of all settled receipts."""
        self.losses: list[int] = []
        """Held-out losses in micro-nats, in the order in which they were settled."""
        self.close: Close | None = None
        self.next_slot = 0
        """First slot that no round has given out yet."""
        self._receipts: dict[int, Receipt | StageReceipt] = {}
        self._first_state = ""
        self._mark: _Mark | None = None
        """While there is a tail: where it begins."""

    @property
    def certified(self) -> int:
        """How many entries are certified."""
        return self.size - len(self.tail)

    @property
    def certified_round(self) -> int:
        """The last round whose settlement is certified."""
        return self._mark.rounds if self._mark is not None else self.round

    @property
    def certified_open(self) -> OpenRound | None:
        """The round that is open where the certified part ends."""
        return self._mark.open if self._mark is not None else self.open

    @property
    def uncertified(self) -> int:
        """Rounds that were opened, and are not certified to be."""
        return opens(self.tail)

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

    def states_after(self, round_number: int) -> tuple[str, ...]:
        """In a run with stages: the id of each stage's state after round `round_number`.

        Raises:
            RoundError: the round is not settled.
        """
        self.state_after(round_number)
        first = self.stages.states if self.stages is not None else ()
        return self.settled[round_number - 1].states if round_number else first

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
            for receipt in (*done.receipts, *done.staged)
            if receipt.account == account
        ]

    def extend(self, entries: Sequence[Entry]) -> None:
        """Take the next certified entries of the log, in order; a tail that says otherwise gives way."""
        if not entries:
            return
        tail = self.tail
        self._go_back()
        self._add(entries)
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tail, entries, strict=False)))
        if known == len(entries):
            self._go_on(tail[known:])
        elif known < len(tail):
            self.drops += 1

    def follow(self, tail: Sequence[Entry]) -> None:
        """Take these entries as the tail, which goes on where the certified ones end, in place of the one before."""
        before = self.tail
        if tuple(tail) == before:
            return
        self._go_back()
        self._go_on(tail)
        if before != self.tail[: len(before)]:
            self.drops += 1

    def _go_back(self) -> None:
        """To the end of what is certified."""
        mark, self._mark, self.tail = self._mark, None, ()
        if mark is not None:
            self.size, self.open, self.next_slot, self.tokens = mark.size, mark.open, mark.next_slot, mark.tokens
            self.close, self._receipts = None, dict(mark.receipts)
            del self.settled[mark.rounds :], self.losses[mark.losses :]

    def _go_on(self, tail: Sequence[Entry]) -> None:
        """Into a tail, from the end of what is certified."""
        if tail:
            self._mark = _Mark(
                size=self.size, open=self.open, rounds=self.round, losses=len(self.losses), tokens=self.tokens,
                next_slot=self.next_slot, receipts=dict(self._receipts),
            )  # fmt: skip
            self._add(tail)
            self.tail = tuple(tail)

    def _add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._take(entry)
            self.size += 1

    def _take(self, entry: Entry) -> None:
        match entry:
            case Begin():
                self.spec = dict(entry.spec)
                self._first_state, self.stages = entry.state, entry.stages
            case Open():
                self._open(entry, [Seat(account=a, start=s, quota=q) for a, s, q in entry.roster])
            case StageOpen():
                self._open(entry, [Seat(account=a, start=s, quota=q, stage=n) for a, s, q, n in entry.roster])
            case Receipt() | StageReceipt():
                self._receipts[self.size] = entry
            case Settle() | StageSettle():
                self._settle(entry)
            case Close():
                self.close, self.open = entry, None
            case _:
                pass  # recv and audit entries concern the ledger, not the rounds

    def _open(self, entry: Open | StageOpen, roster: Sequence[Seat]) -> None:
        self.open = OpenRound(round=entry.round, state=entry.state, roster=tuple(roster), index=self.size)
        self.next_slot = max(seat.start + seat.quota for seat in roster)

    def _settle(self, entry: Settle | StageSettle) -> None:
        if self.open is None or self.open.round != entry.round:
            raise RoundError("FP-402", f"run log entry {self.size}: settles round {entry.round}, which is not open")
        receipts = [self._receipts[index] for index in entry.receipts]
        self.settled.append(
            SettledRound(
                round=entry.round,
                state_in=self.open.state,
                state=entry.state,
                receipts=tuple(receipt for receipt in receipts if isinstance(receipt, Receipt)),
                validation=(entry.validation[0], entry.validation[1]) if entry.validation else None,
                roster=self.open.roster,
                staged=tuple(receipt for receipt in receipts if isinstance(receipt, StageReceipt)),
                states=entry.states if isinstance(entry, StageSettle) else (),
            )
        )
        self.tokens += self.settled[-1].tokens
        self.losses += [entry.validation[1]] if entry.validation else []
        self.open = None
        self._receipts.clear()


def opens(entries: Sequence[Entry]) -> int:
    """How many rounds these entries open."""
    return sum(isinstance(entry, Open | StageOpen) for entry in entries)
