"""Reducers: members that fetch the updates of others and publish their mean, so that nobody else fetches every update.

`Tree`: the members are in groups; a group's reducer adds the updates of its group, the leader adds the sums. `Ranges`:
each reducer adds, of all members' updates, one range of the coordinates. In both, everybody applies what was published,
so states stay bit-identical however it was rounded, and anybody can compute a reducer's blob again from the members'
blobs, which the receipts name; to check one costs what it cost to make it. `Ranges` has the same sums in the same order
as the flat scheme; `Tree` has others, as its log's grouping says.

A reducer that goes away is replaced by the member with the best upload left, which fetches everything again.

Pure: time is an argument; bytes go to the tally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ledger.entries import Receipt
from scripts.simulation.people import Person
from scripts.simulation.pipes import Pipe
from scripts.simulation.schemes import Published, Scheme
from scripts.simulation.settings import ADD_S, DECODE_S, STEP_S, Settings
from scripts.simulation.tally import Tally


class Reducer:
    """One place to reduce at, and who holds it."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.down = Pipe(person.down)
        self.processor = Pipe(1.0)
        self.taken_bytes = 0.0
        self.taken = 0
        """Updates, or parts of them."""

    def done_at(self, now: float) -> float:
        """When everything taken is here and decoded."""
        return max(now, self.down.free_at, self.processor.free_at)


class Grouped(Scheme):
    """What both have: reducers, chosen for their upload when a round opens."""

    def __init__(self, settings: Settings, tally: Tally, online: Callable[[str], bool]) -> None:
        super().__init__(settings, tally, online)
        self._reducers: list[Reducer] = []
        self._place: dict[str, int] = {}
        """Group of each member."""
        self._opened_at: float | None = None

    def opened(self, roster: Mapping[str, Person], live: int) -> None:
        super().opened(roster, live)
        best = sorted(roster.values(), key=lambda person: (-person.up, person.name))
        count = math.ceil(len(best) / self.settings.group)
        self._reducers = [Reducer(person) for person in best[:count]]
        self._place = {person.name: place % count for place, person in enumerate(best)}

    def beat(self, seconds: float, live: int, updates: int) -> None:
        super().beat(seconds, live, updates)
        self.tally.reducer_s += seconds * len(self._reducers)

    def _alive(self, reducer: Reducer, now: float) -> Reducer:
        """The reducer, after another took over if it went away."""
        if self.online(reducer.person.name):
            return reducer
        busy = {other.person.name for other in self._reducers}
        left = [p for p in self.people.values() if p.name not in busy and self.online(p.name)]
        if left:
            reducer.person = max(left, key=lambda person: (person.up, person.name))
            reducer.down, reducer.processor = Pipe(reducer.person.down), Pipe(1.0)
            reducer.down.take(now, reducer.taken_bytes)
            self._moved(reducer.taken_bytes)
            self.tally.replaced += 1
        return reducer

    def _moved(self, amount: float) -> None:
        self.tally.moved("members", "members", amount)
        self.tally.reduced_bytes += amount

    def _take(self, place: int, person: Person, amount: float, now: float) -> float:
        """Have a reducer fetch so much of a member's update and decode it; when it is done."""
        reducer = self._alive(self._reducers[place], now)
        reducer.taken += 1
        here = now
        if reducer.person is not person:
            reducer.taken_bytes += amount
            self._moved(amount)
            here = reducer.down.take(now, amount)
        here = max(here, now + person.latency_s + self.settings.update_bytes / person.up)
        share = amount / self.settings.update_bytes
        return reducer.processor.take(here, DECODE_S * self.cpu_s * share) + reducer.person.latency_s

    def replay_s(self, updates: int) -> float:
        """A dense mean: decoding it takes about as long as applying it."""
        return 2 * STEP_S * self.cpu_s

    def _publish(self, number: int, receipts: Sequence[Receipt], arrivals: Sequence[float], source: float) -> None:
        each = self.settings.mean_bytes(len(receipts)) / len(arrivals)
        self.published[number] = Published(arrivals=np.sort(np.array(arrivals)), each=each, source=source)
        for reducer in self._reducers:
            reducer.taken, reducer.taken_bytes = 0, 0.0


class Tree(Grouped):
    """A reducer for each group, the leader above them."""

    def fetched(self, receipt: Receipt, person: Person, now: float) -> float:
        return self._take(self._place[person.name], person, self.settings.update_bytes, now)

    def combined(self, number: int, receipts: Sequence[Receipt], now: float) -> float:
        settings, ready = self.settings, now
        for reducer in self._reducers:
            if reducer.taken:
                self._alive(reducer, now)
                added_at = reducer.done_at(now) + (STEP_S + ADD_S * reducer.taken) * self.cpu_s
                size = settings.partial_bytes(reducer.taken)
                self.tally.moved("members", "leader", size)
                here = max(added_at + size / reducer.person.up, self.leader_down.take(added_at, size))
                ready = max(ready, here) + STEP_S * self.cpu_s
        self._publish(number, receipts, [ready], self.leader_up.rate)
        return ready


class Ranges(Grouped):
    """Each reducer has a range of the coordinates; the leader fetches the mean as all do, and checks some of it."""

    def fetched(self, receipt: Receipt, person: Person, now: float) -> float:
        count = len(self._reducers)
        each = self.settings.update_bytes / count
        return max(self._take(place, person, each, now) for place in range(count))

    def combined(self, number: int, receipts: Sequence[Receipt], now: float) -> float:
        count = len(self._reducers)
        each = self.settings.mean_bytes(len(receipts)) / count
        appeared, ready = [], now
        for reducer in self._reducers:
            self._alive(reducer, now)
            added_at = reducer.done_at(now) + (STEP_S + ADD_S * reducer.taken) * self.cpu_s / count
            appeared.append(added_at)
            self.tally.moved("members", "leader", each)
            ready = max(ready, added_at + each / reducer.person.up, self.leader_down.take(added_at, each))
        slowest = min(reducer.person.up for reducer in self._reducers)
        self._publish(number, receipts, appeared, slowest * count)
        return ready + STEP_S * self.cpu_s
