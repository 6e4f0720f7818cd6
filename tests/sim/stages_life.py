"""One process life of a simulated daemon: carries out what its machine asks for, until it is killed.

Pure: time is the clock given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from scripts.simulation.clock import Clock

Message = TypeVar("Message")
Effect = TypeVar("Effect")


class Machine(Protocol):
    """What both kinds of machines have."""

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do; None while only a message can help."""

    def receive(self, message: Any, now: float) -> Sequence[Any]:
        """Take one message."""

    def tick(self, now: float) -> Sequence[Any]:
        """Let time pass."""


class Life(ABC, Generic[Message, Effect]):
    """A new one is made at every start."""

    machine: Machine

    def __init__(self, clock: Clock) -> None:
        self.alive = True
        self._clock = clock
        self._tick_at = 0.0

    @abstractmethod
    def _do(self, effect: Effect) -> None:
        """Carry out one thing that the machine asks for."""

    def die(self) -> None:
        """kill -9."""
        self.alive = False

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Carry out `action` later, if this life lasts so long."""

        def act() -> None:
            if self.alive:
                action()

        self._clock.at(self._clock.now + seconds, act)

    def tell(self, message: Message) -> None:
        """Give the machine a message and do what it asks for."""
        self._carry_out(self.machine.receive(message, self._clock.now))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if self.alive:
                self._do(effect)
        deadline = self.machine.deadline
        if deadline is not None and deadline != self._tick_at:
            self._tick_at = deadline
            self.after(max(0.0, deadline - self._clock.now), lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._carry_out(self.machine.tick(max(self._clock.now, planned)))
