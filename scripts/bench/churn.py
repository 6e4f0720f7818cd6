"""From journals: how long requests to a killed replica waited for another one, and what was settled in spite of kills.

Pure: events in, figures out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peer.demo.peers import DemoFailed

Events = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL; all times are wall-clock seconds."""

    account: str
    round: int
    began_at: float
    """When the victim had begun its work of the round, all of which is lost."""
    at: float
    back_at: float
    """When its daemon, started again at once, answered."""


@dataclass(frozen=True, kw_only=True)
class Waits:
    """What one kill cost the requests that were in flight to the victim: seconds from the kill to another's answer."""

    answered: Sequence[float]
    unanswered: Sequence[float]
    """Of those that nobody else answered: until the round was settled, so they waited at least that long."""

    @property
    def every(self) -> list[float]:
        """Of all requests that were in flight."""
        return [*self.answered, *self.unanswered]


def waits(journals: Iterable[Events], kill: Kill, settled_at: float) -> Waits:
    """The waits of all drivers' requests that were in flight to the victim when it was killed.

    A driver's journal tells `call_broke` of a request whose line broke, `failed_over` once another replica answered the
    same (stage, microbatch); `seconds` before either it was sent. Requests sent after the kill do not count.
    """
    answered: list[float] = []
    unanswered: list[float] = []
    for events in journals:
        overtaken = [
            event for event in events if event["event"] == "failed_over" and kill.account in event["before"]
            and in_flight(event, kill.at)
        ]  # fmt: skip
        answered += [event["time"] - kill.at for event in overtaken]
        done = {_pass(event) for event in overtaken}
        broke = {
            _pass(event) for event in events
            if event["event"] == "call_broke" and event["account"] == kill.account and in_flight(event, kill.at)
        }  # fmt: skip
        unanswered += [settled_at - kill.at] * len(broke - done)
    return Waits(answered=answered, unanswered=unanswered)


def in_flight(event: Mapping[str, Any], at: float) -> bool:
    """Whether what the event tells of had been sent then, and was not over."""
    return bool(event["time"] - event["seconds"] <= at < event["time"])


def _pass(event: Mapping[str, Any]) -> tuple[int, int, int, str]:
    return event["round"], event["stage"], event["microbatch"], event["kind"]


def goodput(settled: Events, after: int, until: int) -> float:
    """Tokens settled a second, from the settling of round `after` to that of round `until`; void rounds count as time.

    A token counts once, when the round is settled in which all stages served it.
    """
    by_round = {event["round"]: event for event in settled if event["event"] == "settled"}
    if after not in by_round or until not in by_round or until <= after:
        raise DemoFailed(f"rounds {after} to {until} were not settled")
    seconds = by_round[until]["time"] - by_round[after]["time"]
    return float(sum(by_round[number]["tokens"] for number in range(after + 1, until + 1)) / seconds)


def limit(kills: Sequence[Kill], peers: int, seconds: float) -> float:
    """The part of the peers' time that the kills leave, if each had its own machine.

    What is lost with a kill: the victim's work of the round, which was in its memory, and the time until its process is
    there again. What others had done of a dead driver's microbatches is lost as well, and not in this.
    """
    return 1.0 - sum(kill.back_at - kill.began_at for kill in kills) / (peers * seconds)
