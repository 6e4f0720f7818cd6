"""What a driver has under way: microbatches on their way through the stages, replays, calls, and records.

Pure: no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from peer.stages.messages import Kind
from peer.stages.tasks import Call

Step = tuple[int, Kind]

MORE = 2
"""The quickest driver has so many times more under way than a usual one."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a stage was given of one microbatch, and who holds its gradient."""

    account: str
    input: str
    gradient: str


@dataclass(kw_only=True)
class Job:
    """One microbatch on its way, or one replay. Written only by `Driver`."""

    microbatch: int
    steps: tuple[Step, ...]
    inputs: dict[int, str]
    """Handles by stage."""
    gradient: str = ""
    """Handle of the gradient that the next backward begins with."""
    made: int = 0
    """Steps behind it."""
    sent: Sent | None = None
    """The call that is waited for."""
    same: str = ""
    """Who is called once more, as it did not answer in time."""
    without: set[str] = field(default_factory=set)
    """Who has failed this step."""
    again_at: float = 0.0
    """Nobody could be called; look again then."""
    holders: tuple[str, ...] = ()
    """Of a trunk: by group who serves its experts."""
    replay: bool = False
    """Only one stage's backward, of a microbatch that was through it before."""

    @property
    def step(self) -> Step:
        """What is to be done next."""
        return self.steps[self.made]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A call that was made."""

    call: Call
    job: Job
    made: int
    """The job's step."""
    at: float
    due_at: float
    """When it has failed; 0: never."""


def unanswered(jobs: Iterable[Job]) -> dict[str, float]:
    """By replica: when the first of the calls was made that it has not answered yet."""
    since: dict[str, float] = {}
    for sent in (job.sent for job in jobs if job.sent is not None):
        since[sent.call.account] = min(sent.at, since.get(sent.call.account, sent.at))
    return since


def window(
    in_flight: int, *, least: int, own_s: Mapping[Kind, float], usual: Mapping[tuple[int, Kind], float], others: int
) -> int:
    """How many microbatches a driver has under way: a quick one needs more to be busy, at a slow one they would wait.

    Args:
        in_flight: of a driver that is as quick as the replicas are.
        least: of the slowest one, if `in_flight` is no less.
        own_s: seconds of its own calls, by kind.
        usual: seconds of others' calls by stage and kind, as far as they are known.
        others: the other stages.
    """
    if len(own_s) < len(Kind) or len(usual) < others * len(Kind) - 1:  # the last one's two passes are one call
        return in_flight
    wanted = round(in_flight * sum(usual.values()) / others / max(sum(own_s.values()), 1e-9))
    return min(max(wanted, min(least, in_flight)), MORE * in_flight)


def way(stages: int) -> tuple[Step, ...]:
    """The steps of a microbatch through so many stages."""
    there = [(stage, Kind.FORWARD) for stage in range(stages - 1)]
    return (*there, *((stage, Kind.BACKWARD) for stage in reversed(range(stages))))
