"""A network on a virtual clock, whose messages are lost, late, repeated or out of order.

Pure: randomness comes from the generator given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from scripts.simulation.clock import Action, Clock


class Failure(Exception):
    """A call that was answered with an error, or not answered in time (FP-302)."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class Host(Protocol):
    """What can be called: a running node."""

    name: str
    alive: bool

    def serve(self, caller: str, method: str, body: Any) -> Any:
        """Answer a call, or raise `Failure`."""


@dataclass(kw_only=True)
class Weather:
    """How bad the network is."""

    delay_s: float
    """Mean one-way delay."""
    loss: float
    """Share of messages lost."""
    repeat: float
    """Share of requests that arrive twice."""
    apart: frozenset[str] = frozenset()
    """Nodes on the other side of a partition."""
    cut_off: dict[str, float] = field(default_factory=dict)
    """Until when nothing reaches or leaves a node, by its name."""


class Net:
    """Calls between nodes; a node's calls to itself are quick and sure."""

    def __init__(self, clock: Clock, rng: random.Random, weather: Weather) -> None:
        self.clock = clock
        self.weather = weather
        self.hosts: dict[str, Host] = {}
        """Running nodes by name."""
        self._rng = rng

    def call(
        self, caller: Host, to: str, method: str, body: Any, answer: Callable[[Any], None], *, timeout_s: float = 5.0
    ) -> None:
        """Call a node; `answer` gets what it returned, or a `Failure`, once, unless the caller is dead by then."""
        pending = [answer]

        def give(value: Any) -> None:
            if pending and caller.alive:
                pending.pop()(value)

        def arrive() -> None:
            host = self.hosts.get(to)
            if host is None:
                return
            try:
                value = host.serve(caller.name, method, body)
            except Failure as exc:
                value = exc
            self._send(to, caller.name, lambda: give(value))

        self._send(caller.name, to, arrive)
        if self._rng.random() < self.weather.repeat:
            self._send(caller.name, to, arrive)
        self.clock.at(self.clock.now + timeout_s, lambda: give(Failure("FP-302", "no answer in time")))

    def reaches(self, one: str, other: str) -> bool:
        """Whether messages between two nodes may arrive just now."""
        now, cut_off = self.clock.now, self.weather.cut_off
        if (one in self.weather.apart) != (other in self.weather.apart):
            return False
        return other in self.hosts and (one == other or max(cut_off.get(one, 0.0), cut_off.get(other, 0.0)) <= now)

    def _send(self, one: str, other: str, action: Action) -> None:
        if one == other:
            self.clock.at(self.clock.now + 0.0005, action)
        elif self.reaches(one, other) and self._rng.random() >= self.weather.loss:
            self.clock.at(self.clock.now + self._rng.expovariate(1 / self.weather.delay_s), action)
