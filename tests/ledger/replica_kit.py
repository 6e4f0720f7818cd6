"""Replica machines over shelves: stores that only count, so that the machine alone is tested.

A log's entries, certificates and proofs are texts that say what they are; a shelf takes what is true.

Pure: memory only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.replica.values import (
    HEADS,
    Accusation,
    Answer,
    Entries,
    EntriesOf,
    Fact,
    Heads,
    HeadsSince,
    Request,
    Take,
    TakeEvidence,
)


def entry(origin: str, index: int) -> bytes:
    """An entry that says which it is."""
    return f"{origin} {index}".encode()


def certificate(origin: str, size: int) -> bytes:
    """A certificate that says of what it is."""
    return f"{origin} at {size}".encode()


@dataclass
class Shelf:
    """A store that counts."""

    name: str
    have: dict[str, int] = field(default_factory=dict)
    certified: dict[str, int] = field(default_factory=dict)
    worthless: set[str] = field(default_factory=set)
    accused: dict[str, None] = field(default_factory=dict)
    changes: list[tuple[str, str]] = field(default_factory=list)
    """(origin, kind) in the order of their last change."""
    answer_bytes: int = 4000
    taken: int = 0

    def grow(self, origin: str, size: int) -> None:
        """The log is certified here up to `size`."""
        self.have[origin] = max(size, self.have.get(origin, 0))
        self.certified[origin] = size
        self._changed(origin, "certificate")

    def accuse(self, origin: str) -> None:
        """There is evidence here."""
        self.accused[origin] = None
        self._changed(origin, "evidence")

    def _changed(self, origin: str, kind: str) -> None:
        self.changes.append((origin, kind))

    # ------------------------------------------------------------------ as a peer

    def answer(self, request: Request) -> Answer | None:
        """What an honest peer answers; None where it refuses."""
        if isinstance(request, HeadsSince):
            since = request.cursor if request.instance == self.name else 0
            page = dict.fromkeys(self.changes[since : since + HEADS])
            return Heads(
                instance=self.name, cursor=min(len(self.changes), since + HEADS),
                heads=tuple((origin, self.certified[origin]) for origin, kind in page if kind == "certificate"),
                evidence=tuple(origin for origin, kind in page if kind == "evidence"),
            )  # fmt: skip
        if isinstance(request, EntriesOf):
            return self._entries(request)
        return Accusation(items=(request.origin.encode(),)) if request.origin in self.accused else None

    def _entries(self, request: EntriesOf) -> Entries | None:
        origin, size = request.origin, self.certified.get(request.origin, 0)
        if not size or request.start > size:
            return None
        entries, room = [], self.answer_bytes
        for index in range(request.start, min(request.end, size)):
            room -= len(entry(origin, index)) + 2
            if room < 0:
                break
            entries.append(entry(origin, index))
        end = request.start + len(entries)
        proof = () if end == size else (f"{origin} {end} in {size}".encode(),)
        return Entries(entries=tuple(entries), size=size, certificate=certificate(origin, size), proof=proof)

    # ------------------------------------------------------------------ as the machine's own store

    def fact(self, origin: str) -> Fact:
        """What this store knows."""
        return Fact(
            have=self.have.get(origin, 0), certified=self.certified.get(origin, 0),
            worth=origin not in self.worthless, accused=origin in self.accused,
        )  # fmt: skip

    def take(self, take: Take | TakeEvidence) -> str:
        """Take what is true; else why not."""
        if isinstance(take, TakeEvidence):
            if take.items != (take.origin.encode(),):
                return "no evidence"
            self.accuse(take.origin)
            return ""
        origin, end = take.origin, take.start + len(take.entries)
        if take.start > self.have.get(origin, 0):
            return "behind"
        if list(take.entries) != [entry(origin, index) for index in range(take.start, end)]:
            return "not these entries"
        named, _, size_text = take.certificate.decode().partition(" at ")
        if named != origin or not size_text.isdecimal():
            return "no certificate"
        size = int(size_text)
        if take.proof != (None if end == size else (f"{origin} {end} in {size}".encode(),)):
            return "no proof"
        self.taken += len(take.entries)
        self.have[origin] = max(end, self.have.get(origin, 0))
        if end == size and size > self.certified.get(origin, 0):
            self.grow(origin, size)
        return ""


