"""Honest owners in the simulation of witnesses: they spend and claim, and have their entries certified.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ledger.entries import Begin, Close, Entry, Open, Seat, Send, Settle, parse
from ledger.errors import EntryInvalid, LedgerError
from ledger.quorum import Quorum
from tests.ledger.world import blob
from tests.sim.ledger_witnesses_nodes import Node
from tests.sim.ledger_witnesses_parts import ACCOUNTS, RUN, SPEC, Disk

if TYPE_CHECKING:
    from tests.sim.ledger_witnesses import World

ASKS = 4
"""How often a witness is sent what it lacks before it is left alone for a while."""
RETRY_S = 1.0


class Owner(Node):
    """One process life of an honest account: appends, signs, and asks for cosignatures until there is a quorum."""

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        super().__init__(world, name, disk)
        self.key = ACCOUNTS[name]
        self.origin = self.log()
        self.every(self.certify, RETRY_S)
        self.every(self.work, world.settings.work_s)

    def log(self) -> str:
        """The log that this owner writes."""
        return self.world.genesis.origin(self.key.public)

    @property
    def settled(self) -> bool:
        """Whether all that was appended is certified."""
        return self.store.size(self.origin) == self.certified_size(self.origin)

    # ------------------------------------------------------------------ appending

    def work(self) -> None:
        """Append something, while there is time and money."""
        if self.world.clock.now < self.world.settings.heal_s and self.store.size(self.origin) < 12:
            entries = self.next_entries()
            if entries and self.sign(entries):
                self.certify()

    def sign(self, entries: Sequence[Entry]) -> bytes:
        """The head after these entries; empty where this key must not sign, as a leader's that was overtaken."""
        try:
            return self.store.append(self.origin, entries, self.key)
        except LedgerError as exc:
            self.world.cannot_sign(self, exc)
            return b""

    def next_entries(self) -> list[Entry]:
        """Claims on what others sent, or sends of what is left."""
        rng = self.world.rng
        waiting = self.store.entries(self.origin, self.certified_size(self.origin), self.store.size(self.origin))
        if not waiting and rng.random() < 0.6 and (claims := self.store.claims(self.key.public)):
            return list(claims)
        spent = sum(entry.amount for entry in map(parse, waiting) if isinstance(entry, Send))
        ledger = self.store.ledger()
        left = ledger.balances[self.key.public] - spent
        payees = [key.public for key in ACCOUNTS.values() if key is not self.key]
        if RUN not in ledger.runs or not ledger.runs[RUN].closed:
            payees.append(f"run/{RUN}")
        entries: list[Entry] = []
        for _ in range(rng.randint(1, 3)):
            amount = rng.choice([left, rng.randint(0, left)])
            if amount:
                left -= amount
                entries.append(Send(to=rng.choice(payees), amount=amount))
        return entries

    # ------------------------------------------------------------------ certifying

    def certify(self) -> None:
        """Ask every witness to cosign the newest head, unless it is certified."""
        if self.settled:
            return
        head = self.sign([])  # also what a crash left unsigned
        if not head:
            return
        quorum = Quorum(self.world.genesis, head)
        for name in quorum.missing:
            self.ask(quorum, head, name, self.certified_size(self.origin), ASKS)

    def ask(self, quorum: Quorum, head: bytes, name: str, start: int, asks: int) -> None:
        """Send a witness what it lacks, then the head."""
        size = self.store.size(self.origin)

        def answer(value: Any) -> None:
            found = value if isinstance(value, dict) else {}
            line, behind = found.get("cosignature"), found.get("behind")
            if isinstance(line, bytes):
                if quorum.add(name, line) and quorum.certificate is not None:
                    self.certified(quorum.certificate)
            elif type(behind) is int and 0 <= behind <= size and asks > 1:
                self.ask(quorum, head, name, behind, asks - 1)

        entries = self.store.entries(self.origin, start, size)
        body = {"origin": self.origin, "start": start, "entries": entries, "note": head}
        self.call(name, "cosign", body, answer)

    def certified(self, certificate: bytes) -> None:
        """Note that a quorum has signed."""
        before = self.certified_size(self.origin)
        self.store.certify(self.origin, certificate)
        self.changed(self.origin, before)


class Leader(Owner):
    """One of two leaders of a run who both write its log, unaware of each other."""

    def log(self) -> str:
        """The run's log."""
        return self.world.genesis.run_origin(RUN)

    def next_entries(self) -> list[Entry]:
        """How the run goes on, as this leader sees it."""
        rng, rules = self.world.rng, self.store.rules(self.origin)
        if rules.size == 0:
            return [Begin(spec=SPEC)]
        if claims := self.store.claims(f"run/{RUN}"):
            waiting = self.store.size(self.origin) > self.certified_size(self.origin)
            return [] if waiting else list(claims)
        seat = Seat(self.key.public, 10 * rules.size, rng.randint(1, 9))
        round_ = getattr(rules, "settled", 0) + 1
        choices: list[Entry] = [
            Open(round=round_, state=blob("state"), roster=(seat,)),
            Settle(round=round_, receipts=(), state=blob("state")),
            Close(state=blob("state"), reason="done"),
        ]
        for entry in rng.sample(choices, 3):
            try:
                rules.copy().apply(entry)
            except EntryInvalid:
                continue
            return [entry]
        return []
