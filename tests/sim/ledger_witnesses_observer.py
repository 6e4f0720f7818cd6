"""The observer of a simulated network: it sees every cosignature and certificate, and says what must never happen.

A faulty witness may sign anything at any time, so a head counts as *certifiable* as soon as the honest witnesses that
released a cosignature of it, together with all the faulty ones, are a quorum. No two certifiable heads of a log may
contradict each other: that covers every certificate that anybody could ever put together.

Pure: no IO.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

from ledger import merkle, notes
from ledger.fold.fold import conservation
from ledger.genesis import Genesis
from ledger.store.store import Store

Head = tuple[int, bytes]
"""Size and root."""


class Violation(AssertionError):
    """Something happened that must never happen."""


class Observer:
    """What all honest nodes together have done so far."""

    def __init__(self, genesis: Genesis, honest: set[str]) -> None:
        self.genesis = genesis
        self.honest = honest
        """Names of the witnesses that follow the rules."""
        self._faulty = len(genesis.witnesses) - len(honest)
        self._roots: dict[tuple[str, Head], tuple[bytes, ...]] = {}
        self.released: dict[tuple[str, str], set[Head]] = defaultdict(set)
        """Heads of a log of which an honest witness gave away a cosignature, by (witness, origin)."""
        self._signers: dict[tuple[str, Head], set[str]] = defaultdict(set)
        self._certifiable: dict[str, set[Head]] = defaultdict(set)
        self.accused: set[str] = set()
        """Logs of which somebody honest holds evidence."""
        self.events: dict[str, int] = defaultdict(int)
        """How often things happened, by name."""

    def note_of(self, head_note: bytes, store: Store) -> tuple[str, Head]:
        """Log and head of a note, whose roots below are learned from a store that holds the entries."""
        head = notes.checkpoint(notes.parse(head_note))
        key = (head.size, head.root)
        if (head.origin, key) not in self._roots:
            frontier, roots = merkle.Frontier(), []
            for data in store.entries(head.origin, 0, head.size):
                frontier.append(merkle.leaf_hash(data))
                roots.append(frontier.root)
            if len(roots) != head.size or roots[-1] != head.root:
                raise Violation(f"{head.origin[-10:]}: a head at {head.size} that is not of the entries stored")
            self._roots[head.origin, key] = tuple(roots)
        return head.origin, key

    def consistent(self, origin: str, one: Head, other: Head) -> bool:
        """Whether both heads can be prefixes of one log."""
        smaller, larger = sorted((one, other))
        return self._roots[origin, larger][smaller[0] - 1] == smaller[1]

    def cosigned(self, witness: str, store: Store, head_note: bytes) -> None:
        """An honest witness lets go of a cosignature."""
        origin, head = self.note_of(head_note, store)
        for before in self.released[witness, origin]:
            if not self.consistent(origin, before, head):
                raise Violation(f"witness {witness} cosigned two heads of {origin[-10:]}: {before[0]} and {head[0]}")
        self.released[witness, origin].add(head)
        signers = self._signers[origin, head]
        signers.add(witness)
        if len(signers) + self._faulty >= self.genesis.quorum and head not in self._certifiable[origin]:
            for other in self._certifiable[origin]:
                if not self.consistent(origin, other, head):
                    raise Violation(f"{origin[-10:]}: contradicting heads at {other[0]} and {head[0]} can be certified")
            self._certifiable[origin].add(head)
        self.events["cosigned"] += 1

    def certified(self, store: Store, origin: str) -> None:
        """An honest node holds a new certificate: it must be one of those that can be, and the money must add up."""
        certificate = store.certified(origin)
        assert certificate is not None
        _, head = self.note_of(certificate.note, store)
        if len(self.genesis.cosigners(notes.parse(certificate.note))) < self.genesis.quorum:
            raise Violation(f"{origin[-10:]}: taken over at {head[0]} without a quorum")
        if head not in self._certifiable[origin]:
            raise Violation(f"{origin[-10:]}: certified at {head[0]} without enough honest witnesses")
        ledger = store.ledger()
        if not conservation(ledger):
            raise Violation("credits are not conserved in a replica's fold")
        if any(amount < 0 for amount in ledger.balances.values()):
            raise Violation("a balance is below zero in a replica's fold")
        if ledger.invalid:
            raise Violation(f"a certified entry breaks a rule: {ledger.invalid[0]}")
        self.events["certified"] += 1

    def restarted(self, witness: str, store: Store) -> None:
        """An honest witness is up again: what it promised must cover all that it ever released."""
        for (name, origin), heads in self.released.items():
            if name != witness or not heads:
                continue
            promised = store.promised(origin)
            if promised is None:
                raise Violation(f"witness {witness} forgot that it ever cosigned {origin[-10:]}")
            _, head = self.note_of(promised, store)
            for before in heads:
                if before[0] > head[0] or not self.consistent(origin, before, head):
                    raise Violation(f"witness {witness} forgot that it cosigned {origin[-10:]} at {before[0]}")

    def contradicted(self, origin: str) -> bool:
        """Whether two honest witnesses were shown heads of this log that contradict each other."""
        seen = [head for (_, log), heads in self.released.items() if log == origin for head in heads]
        return any(not self.consistent(origin, one, other) for one, other in combinations(sorted(set(seen)), 2))
