"""What every entry did to whose money, in an order in which causes stand before what they cause; and why.

`movements` folds prefixes and notes each movement: what was decided, and at the end what is still pending. From them
come `history`, an owner's account statement whose last balance is the fold's, and `why`, one entry explained.

Pure: no IO.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ledger.entries import Entry
from ledger.rules import Terms

from .balances import Movement
from .fold import Fold


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of an account statement."""

    movement: Movement
    """What happened."""
    balance: int
    """What the owner can spend after it, in micro-credits."""


def movements(prefixes: Mapping[str, Iterable[bytes | Entry]], terms: Terms) -> list[Movement]:
    """All movements of certified prefixes, by origin, whose signatures were checked before; equal for equal prefixes.

    Raises:
        EntryInvalid: an origin is not of this network.
    """
    found: list[Movement] = []
    state = Fold(terms, signatures=False, watch=found.append)
    for origin in sorted(prefixes):
        state.extend(origin, prefixes[origin])
    for pending in state.ledger().pendings:
        behind = f"; {pending.behind} later entries wait behind it" if pending.behind else ""
        found.append(
            Movement(
                origin=pending.origin, index=pending.index, kind="pending", owner=terms.owner(pending.origin),
                delta=0, amount=0, note=pending.reason + behind,
            )
        )  # fmt: skip
    return found


def history(movements: Iterable[Movement], owner: str) -> list[Line]:
    """The account statement of an account or "run/<run id>"; its last balance is the one that the fold gives."""
    lines, balance = [], 0
    for movement in movements:
        if movement.owner == owner:
            balance += movement.delta
            lines.append(Line(movement=movement, balance=balance))
    return lines


def why(movements: Sequence[Movement], origin: str, index: int) -> tuple[Movement, ...]:
    """What explains one entry: what it claimed, then what it did, then who claimed what it gave.

    Empty where the entry moves no money, as a receipt does until it is settled.
    """
    own = [movement for movement in movements if (movement.origin, movement.index) == (origin, index)]
    claimed = {(cause[0], cause[1], movement.owner) for movement in own for cause in movement.causes}
    before, after = [], []
    for movement in movements:
        if (movement.origin, movement.index) == (origin, index):
            continue
        place = (movement.origin, movement.index)
        if (*place, movement.owner) in claimed and movement.amount:
            before.append(movement)
        elif any(cause[:2] == (origin, index) for cause in movement.causes):
            after.append(movement)
    return (*before, *own, *after)
