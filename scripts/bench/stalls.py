"""From members' journals: how long others waited for a death or an arrival, and how much of unequal speeds was used.

Pure: events in, figures out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from peer.demo.peers import DemoFailed

STALL = 1.5
"""A round that takes so many times as long as usual was held up."""

Events = Sequence[Mapping[str, Any]]


def by_round(events: Events, name: str) -> dict[int, Mapping[str, Any]]:
    """The newest event of that name of each round."""
    return {event["round"]: event for event in events if event["event"] == name}


def settle_after(killed_at: float, settled_at: float, delivered: Sequence[float]) -> float:
    """Seconds that the survivors waited for a dead member."""
    return max(0.0, settled_at - max([killed_at, *delivered]))


def stalled(settled: Events, arrived_at: float, until: int, old: Sequence[str]) -> tuple[int, list[float]]:
    """(rounds that a newcomer held up, seconds of every round), by the leader's `settled` events.

    Args:
        settled: all of them, in order.
        arrived_at: when the newcomer's daemon was started.
        until: the newcomer's first round.
        old: accounts of the members that were there before.
    """
    seconds = [later["time"] - earlier["time"] for earlier, later in pairwise(settled)]
    rounds = list(zip(settled[1:], seconds, strict=True))
    usual = median(taken for event, taken in rounds if event["time"] <= arrived_at)
    after = [(event, taken) for event, taken in rounds if event["time"] > arrived_at and event["round"] <= until]
    held_up = [event for event, taken in after if taken > STALL * usual or set(old) - set(event["accounts"])]
    return len(held_up), seconds


def member_speed(events: Events, rounds: range) -> float:
    """A member's tokens a second while it trains, over these rounds."""
    began, ended = by_round(events, "training"), by_round(events, "delivered")
    both = [number for number in rounds if number in began and number in ended]
    if not both:
        raise DemoFailed(f"a member trained in none of the rounds {rounds.start} to {rounds.stop - 1}")
    seconds = sum(ended[number]["time"] - began[number]["time"] for number in both)
    return float(sum(ended[number]["tokens"] for number in both) / seconds)


def speed_share(settled: Events, speeds: Sequence[float]) -> float:
    """Tokens settled a second, from the first of these events to the last, over the summed speeds."""
    seconds = settled[-1]["time"] - settled[0]["time"]
    return float(sum(event["tokens"] for event in settled[1:]) / seconds / sum(speeds))
