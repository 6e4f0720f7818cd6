"""Parts of the simulation of witnesses: disks that outlive their process, and a network that splits and answers late.

The disk is the real `Database` on an SQLite file in memory. A process can be killed just before and just after every
commit; only what was committed is there afterwards. A forgetful disk loses its last commits as well.

Pure: randomness comes from the generator given.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ledger.entries import run_id
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store import file as storefile
from ledger.store.database import Database
from ledger.store.store import Store
from scripts.simulation.clock import Clock
from tests.ledger.world import key_of, spec_of
from tests.sim.net import Failure, Host, Net, Weather

KEPT_IMAGES = 6


class Killed(Exception):
    """The process died at a delicate point."""


class Silence(Exception):
    """A host that gives no answer, now or ever."""


@dataclass(frozen=True, kw_only=True)
class Late:
    """An answer that is given after a while."""

    after_s: float
    value: Any


class SimDatabase(Database):
    """The store's database; `step` is called at both sides of every commit and may raise `Killed`."""

    def __init__(self, connection: sqlite3.Connection, step: Callable[[str], None]) -> None:
        super().__init__(Path("simulated"), connection, None)
        self._step = step

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            self._step("before a commit")
        self._step("after a commit")


@cache
def empty_image(genesis: Genesis) -> bytes:
    """The bytes of a new store of this network."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    meta = {"genesis": genesis.encode(), "instance": bytes(16)}
    storefile.prepare(Path("simulated"), connection, False, meta)
    image = connection.serialize()
    connection.close()
    return image


class Disk:
    """What survives the processes of one host."""

    def __init__(
        self, genesis: Genesis, step: Callable[[str], None], *, forgetful: bool = False, image: bytes = b""
    ) -> None:
        self._genesis = genesis
        self._step = step
        self._image = image or empty_image(genesis)
        self._older: list[bytes] | None = [] if forgetful else None
        self._connection: sqlite3.Connection | None = None

    def boot(self) -> Store:
        """The store of a new process, on what the last one left."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.deserialize(self._image)
        self._connection = connection
        return Store(SimDatabase(connection, self._passed), self._genesis)

    def _passed(self, point: str) -> None:
        if self._older is not None and point == "after a commit" and self._connection is not None:
            self._older = [*self._older[1 - KEPT_IMAGES :], self._connection.serialize()]
        self._step(point)

    def power_off(self, rng: random.Random) -> bytes:
        """The process is gone; what it had committed stays and is returned, unless the disk is forgetful."""
        assert self._connection is not None
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._image = self._connection.serialize()
        if self._older:
            self._image = rng.choice(self._older)
            self._older = [self._image]
        self._connection.close()
        self._connection = None
        return self._image


class WitnessNet(Net):
    """Calls between nodes, with partitions, hosts that die in their answer, and late answers."""

    def __init__(self, clock: Clock, rng: random.Random, weather: Weather) -> None:
        super().__init__(clock, rng, weather)
        self.sides: dict[str, int] = {}
        """While `split_until`: which side of a partition each node is on."""
        self.split_until = 0.0

    def reaches(self, one: str, other: str) -> bool:
        """Whether messages between two nodes may arrive just now."""
        apart = self.clock.now < self.split_until and self.sides.get(one, 0) != self.sides.get(other, 0)
        return not apart and super().reaches(one, other)

    def call(
        self, caller: Host, to: str, method: str, body: Any, answer: Callable[[Any], None], *, timeout_s: float = 5.0
    ) -> None:
        """Call a node; `answer` gets what it returned, or a `Failure`, once, unless the caller is dead by then."""
        pending = [answer]

        def give(value: Any) -> None:
            if pending and caller.alive:
                pending.pop()(value)

        def reply(value: Any) -> None:
            self._send(to, caller.name, lambda: give(value))

        def arrive() -> None:
            host = self.hosts.get(to)
            if host is None:
                return
            try:
                value = host.serve(caller.name, method, body)
            except Failure as exc:
                value = exc
            except Silence:
                return
            if isinstance(value, Late):
                late = value.value
                self.clock.at(self.clock.now + value.after_s, lambda: reply(late))
            else:
                reply(value)

        self._send(caller.name, to, arrive)
        if self._rng.random() < self.weather.repeat:
            self._send(caller.name, to, arrive)
        self.clock.at(self.clock.now + timeout_s, lambda: give(Failure("FP-302", "no answer in time")))


# ---------------------------------------------------------------------- who takes part

ACCOUNTS: dict[str, PrivateKey] = {f"account{place}": key_of(f"simulated account {place}") for place in range(8)}
WITNESSES: dict[str, PrivateKey] = {f"w{place}": key_of(f"simulated witness {place}") for place in range(7)}
SUPPLY = 1_000
LEADERS = ("account6", "account7")
SPEC = spec_of(
    submitter=ACCOUNTS["account0"].public, leaders=[ACCOUNTS[name].public for name in LEADERS],
    tokens_per_slot=1_000_000, price=10,
)  # fmt: skip
RUN = run_id(SPEC)


@cache
def network(witnesses: int) -> Genesis:
    """The network with so many witnesses; six accounts own credits, two may lead a run."""
    supply = {key.public: SUPPLY for name, key in ACCOUNTS.items() if name not in LEADERS}
    members = [(name, key.public) for name, key in list(WITNESSES.items())[:witnesses]]
    return Genesis.create(name="simulated", supply=supply, witnesses=members)
