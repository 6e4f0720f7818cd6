"""How a round's slots are cut into microbatches, numbered from its first slot on.

Pure: no state.
"""

from __future__ import annotations

from peer.rounds.log import OpenRound, Seat


def first_slot(open_round: OpenRound) -> int:
    """Where the round's slots begin."""
    return min(seat.start for seat in open_round.roster)


def size_of(open_round: OpenRound, microbatch: int) -> int:
    """How many microbatches of so many slots the round has."""
    return (max(seat.start + seat.quota for seat in open_round.roster) - first_slot(open_round)) // microbatch


def numbers(seat: Seat, open_round: OpenRound, microbatch: int) -> range:
    """The microbatches of a driver's seat."""
    first = (seat.start - first_slot(open_round)) // microbatch
    return range(first, first + seat.quota // microbatch)
