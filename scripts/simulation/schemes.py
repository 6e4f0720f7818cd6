"""How the updates of a round become a state on every peer: what is fetched by whom, and when it is there.

`Flat` is what the daemon does today: the leader fetches every update, so does every member, from each other, and the
leader itself tells each member of everything. `Lean` is the same with relays for what is told. `Scheme` has what all
share: the leader's lines, gossip, heartbeats, the log's news.

Pure: time is an argument; bytes go to the tally.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ledger.entries import Receipt
from scripts.simulation.people import MBIT, Person
from scripts.simulation.pipes import Pipe, Times, drained, fair_rate
from scripts.simulation.settings import (
    ADD_S,
    BEAT_BYTES,
    BEAT_S,
    CALL_S,
    DECODE_S,
    GOSSIP_BYTES,
    PEER_BYTES,
    STEP_S,
    UPDATE_ID_BYTES,
    WITNESSES,
    Settings,
)
from scripts.simulation.tally import Tally

LEAST_LEFT = 0.05
"""Share of the leader's upload and processor that is left to the rest when heartbeats would take all."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What of a settled round is there to be fetched."""

    arrivals: Times
    """When each of its blobs appeared, ascending."""
    each: float
    """Bytes of one."""
    makers: frozenset[str] = frozenset()
    """Accounts that have one of them already, since they made it."""
    source: float = float("inf")
    """Bytes a second at which those who have all of it first can send it once."""


class Scheme(ABC):
    """The traffic of one run."""

    relayed: ClassVar[bool] = True
    """Whether heartbeats, gossip and news go through relays, one for each group."""

    def __init__(self, settings: Settings, tally: Tally, online: Callable[[str], bool]) -> None:
        """Nobody is there yet; `online` says whether an account is."""
        self.settings = settings
        self.tally = tally
        self.online = online
        self.people: Mapping[str, Person] = {}
        """The roster of the open round."""
        self.leader_down = Pipe(settings.leader_download_mbit * MBIT)
        self.leader_up = Pipe(settings.leader_upload_mbit * MBIT)
        self.leader_calls = Pipe(1.0)
        self.published: dict[int, Published] = {}
        """By round."""
        self.cpu_s = settings.parameters / settings.cores
        """Times a figure of seconds for each parameter: what it takes with all cores."""
        self.relays = 0
        """Members that pass on to others what the leader tells all; 0: it tells each itself."""
        self._share = 0.0

    # ------------------------------------------------------------------ the open round

    def opened(self, roster: Mapping[str, Person], live: int) -> None:
        """A round begins: whose lines there are, what heartbeats leave of the leader's."""
        self.people = roster
        self._share = fair_rate(sum(p.up for p in roster.values()), [p.down for p in roster.values()])
        self.relays = math.ceil(len(roster) / self.settings.group) if self.relayed else 0
        up = self.settings.leader_upload_mbit * MBIT
        self.leader_up.rate = max(LEAST_LEFT * up, up - self.beat_bytes(live)[1] * self.beats(live) / BEAT_S)
        self.leader_calls.rate = max(LEAST_LEFT, 1.0 - self.beats(live) * CALL_S / BEAT_S)

    def line(self, person: Person) -> float:
        """Bytes a second at which this member fetches what all fetch."""
        return min(person.down, self._share or person.down)

    @abstractmethod
    def fetched(self, receipt: Receipt, person: Person, now: float) -> float:
        """A receipt reached the leader: when its update is known to be sound."""

    @abstractmethod
    def combined(self, number: int, receipts: Sequence[Receipt], now: float) -> float:
        """The round is cut: when the leader has the state after it."""

    # ------------------------------------------------------------------ members

    def replayed(self, number: int, person: Person, now: float, since: float) -> float:
        """When a member, idle and online since `since`, has all that the settled round `number` needs."""
        there = self.published.get(number)
        if there is None:
            return now  # nothing counted, the state is the old one
        rate = self.line(person)
        done = drained(there.arrivals, there.each, rate, since)
        if there.arrivals.size:
            done = max(done, float(there.arrivals[-1]) + there.each * there.arrivals.size / there.source)
        self.tally.moved("members", "members", there.each * (there.arrivals.size - (person.name in there.makers)))
        return max(now, done)

    @abstractmethod
    def replay_s(self, updates: int) -> float:
        """What it takes to apply a round, once its bytes are here."""

    # ------------------------------------------------------------------ heartbeats and news

    def beats(self, live: int) -> int:
        """Heartbeats that the leader gets in each interval: one of each member, or of each relay for its members."""
        return min(live, self.relays) if self.relays else live

    def beat_bytes(self, live: int) -> tuple[float, float]:
        """Of one heartbeat and its answer; without relays the answer lists all members."""
        if self.relays:
            return BEAT_BYTES / 2 + PEER_BYTES * live / self.relays, BEAT_BYTES / 2
        return BEAT_BYTES / 2, BEAT_BYTES / 2 + live * PEER_BYTES

    def beat(self, seconds: float, live: int, updates: int) -> None:
        """So many members beat for so long, while the round has so many updates."""
        count = self.beats(live) * seconds / BEAT_S
        asked, answered = self.beat_bytes(live)
        answered += 0 if self.relays else updates * UPDATE_ID_BYTES
        self.tally.calls += count
        self.tally.beat_bytes += count * answered
        self.tally.moved("leader", "members", count * answered)
        self.tally.moved("members", "leader", count * asked)
        if self.relays:
            self.tally.moved("members", "members", live * seconds / BEAT_S * BEAT_BYTES)

    def gossip(self, now: float) -> float:
        """Tell everybody on the roster of an update, perhaps through relays; when the last knows."""
        everybody = len(self.people) - 1
        told = min(everybody, self.relays) if self.relays else everybody
        self.tally.calls += told
        self.tally.moved("leader", "members", told * GOSSIP_BYTES)
        self.tally.moved("members", "members", (everybody - told) * GOSSIP_BYTES)
        called = self.leader_calls.take(now, told * CALL_S)
        return max(called, self.leader_up.take(now, told * GOSSIP_BYTES))

    def certified(self, now: float, amount: float, seconds: float) -> float:
        """Send the witnesses what was appended; when they have signed."""
        self.tally.moved("leader", "witnesses", amount * WITNESSES)
        return self.leader_up.take(now, amount * WITNESSES) + seconds

    def news(self, now: float, amount: float, people: Sequence[Person]) -> list[float]:
        """Send each of them what is new in the log, perhaps through relays: when each has it."""
        told = min(len(people), self.relays) if self.relays else len(people)
        self.tally.calls += told
        self.tally.moved("leader", "members", amount * told)
        self.tally.moved("members", "members", amount * (len(people) - told))
        if not told:
            return []
        sent = [self.leader_up.take(now, amount) for _ in range(told)]
        relays = sorted(people, key=lambda person: -person.up)[:told]
        times = []
        for place, person in enumerate(people):
            turn, relay = divmod(place, told)
            times.append(sent[relay] + turn * amount / relays[relay].up + 2 * person.latency_s)
        return times


class Lean(Scheme):
    """The leader and every member fetch all updates; each update is first sent by its maker."""

    def __init__(self, settings: Settings, tally: Tally, online: Callable[[str], bool]) -> None:
        super().__init__(settings, tally, online)
        self._processor = Pipe(1.0)
        self._appeared: dict[str, float] = {}
        """By update of the open round: when members may fetch it."""

    def fetched(self, receipt: Receipt, person: Person, now: float) -> float:
        each = self.settings.update_bytes
        sent = now + person.latency_s + each / person.up
        told = self.gossip(now)
        self._appeared[receipt.update] = max(sent, told)
        self.tally.moved("members", "leader", each)
        here = max(sent, self.leader_down.take(now, each))
        return self._processor.take(here, DECODE_S * self.cpu_s)

    def combined(self, number: int, receipts: Sequence[Receipt], now: float) -> float:
        arrivals = np.sort(np.array([self._appeared[receipt.update] for receipt in receipts]))
        makers = frozenset(receipt.account for receipt in receipts)
        self.published[number] = Published(arrivals=arrivals, each=self.settings.update_bytes, makers=makers)
        self._appeared.clear()
        return now + (STEP_S + ADD_S * len(receipts)) * self.cpu_s

    def replay_s(self, updates: int) -> float:
        return (STEP_S + (DECODE_S + ADD_S) * updates) * self.cpu_s


class Flat(Lean):
    """The same, and the leader tells each member of everything itself; heartbeats are answered with lists of all."""

    relayed = False
