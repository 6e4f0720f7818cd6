"""A peer and a witness at work on one store, step by step, and what must be true of the store after any accident.

Each step can be taken again. What a step hands out (a signed head, a cosigned head, a certificate, evidence) is a fact:
from then on others may rely on it, so no failure of the disk may take it back.

IO: the store it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ledger import evidence, notes
from ledger.entries import Issue, Send
from ledger.errors import Conflict, Frozen
from ledger.keys import PrivateKey
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store
from ledger.verify.verify import verify_store
from ledger.witness import Witness

from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, CAROL, GENESIS, NOW, WITNESS

CAROL_LOG = GENESIS.origin(CAROL.public)


class Fact(NamedTuple):
    """What others may rely on."""

    kind: str
    """"signed", "cosigned", "certified" or "evidence"."""
    origin: str
    note: bytes


def head_of(origin: str, key: PrivateKey, data: Sequence[bytes]) -> bytes:
    """The head of these entries."""
    return notes.sign_head(Checkpoint(origin=origin, size=len(data), root=Tree(map(leaf_hash, data)).root()), key)


def certificate_of(note: bytes) -> bytes:
    """The head with the cosignature of the only witness, made on another machine."""
    return notes.combine(note, [notes.cosign(note, "witness", WITNESS, NOW)])


@cache
def carols(size: int, rival: bool = False) -> tuple[bytes, ...]:
    """Carol's log, or what she tells others that it is."""
    return tuple(Send(to=BOB.public, amount=n + 1, memo="rival" * rival).encode() for n in range(size))


@cache
def bobs(size: int) -> tuple[bytes, ...]:
    """Bob's log."""
    return tuple(Issue(to=ALICE.public, amount=n + 1).encode() for n in range(size))


@cache
def carols_guilt() -> evidence.Evidence:
    """The proof that Carol signed two logs."""
    heads = [head_of(CAROL_LOG, CAROL, carols(7, rival)) for rival in (False, True)]
    second = max(heads, key=lambda note: notes.parse(note).text)
    tree = Tree(map(leaf_hash, carols(7, second == heads[1])))
    return evidence.build(tree, *heads)


class Story:
    """The steps, and the facts so far."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.steps: list[Callable[[Store], None]] = [
            self._append(2, ""), self._cosign_own, self._certify_own,
            self._cosign_carols(3), self._accept_carols(5), self._accept_bobs_part, self._accept_bobs,
            self._append(30, "x" * 200), self._cosign_own, self._certify_own,
            self._cosign_carols(6), self._accuse_carol, self._append(31, ""),
        ]  # fmt: skip

    def _append(self, size: int, memo: str) -> Callable[[Store], None]:
        def step(store: Store) -> None:
            have = store.size(ALICE_LOG)
            sends = [Send(to=BOB.public, amount=n + 1, memo=memo) for n in range(have, size)]
            self.facts.append(Fact("signed", ALICE_LOG, store.append(ALICE_LOG, sends, ALICE)))

        return step

    def _cosign(self, store: Store, origin: str, data: Sequence[bytes], note: bytes) -> None:
        Witness(store, GENESIS, WITNESS, "witness").cosign(origin, 0, data, note, NOW)
        self.facts.append(Fact("cosigned", origin, note))

    def _cosign_own(self, store: Store) -> None:
        note = store.head(ALICE_LOG)
        assert note is not None
        self._cosign(store, ALICE_LOG, store.entries(ALICE_LOG, 0, store.size(ALICE_LOG)), note)

    def _certify_own(self, store: Store) -> None:
        note = store.head(ALICE_LOG)
        assert note is not None
        store.certify(ALICE_LOG, certificate_of(note))
        self.facts.append(Fact("certified", ALICE_LOG, note))

    def _cosign_carols(self, size: int) -> Callable[[Store], None]:
        def step(store: Store) -> None:
            if not store.evidence(CAROL_LOG):
                self._cosign(store, CAROL_LOG, carols(size), head_of(CAROL_LOG, CAROL, carols(size)))

        return step

    def _accept_carols(self, size: int) -> Callable[[Store], None]:
        def step(store: Store) -> None:
            note = head_of(CAROL_LOG, CAROL, carols(size))
            store.accept(CAROL_LOG, 0, carols(size), certificate_of(note))
            self.facts.append(Fact("certified", CAROL_LOG, note))

        return step

    def _accept_bobs_part(self, store: Store) -> None:
        """A late joiner's first message: a part of the log, under a proof."""
        if store.certified(BOB_LOG) is None:
            proof = Tree(map(leaf_hash, bobs(6))).consistency_proof(4, 6)
            store.accept(BOB_LOG, 0, bobs(4), certificate_of(head_of(BOB_LOG, BOB, bobs(6))), proof)
            self.facts.append(Fact("stored", BOB_LOG, head_of(BOB_LOG, BOB, bobs(4))))

    def _accept_bobs(self, store: Store) -> None:
        start = store.size(BOB_LOG)
        note = head_of(BOB_LOG, BOB, bobs(6))
        store.accept(BOB_LOG, start, bobs(6)[start:], certificate_of(note))
        self.facts.append(Fact("certified", BOB_LOG, note))

    def _accuse_carol(self, store: Store) -> None:
        store.add_evidence(carols_guilt())
        self.facts.append(Fact("evidence", CAROL_LOG, b""))


def check_facts(store: Store, facts: Sequence[Fact]) -> None:
    """All that was handed out is still so."""
    trees: dict[str, Tree] = {}
    for fact in facts:
        if fact.kind == "evidence":
            assert store.evidence(fact.origin), "evidence was lost"
            continue
        if fact.origin not in trees:
            trees[fact.origin] = Tree(map(leaf_hash, store.entries(fact.origin, 0, store.size(fact.origin))))
        tree, head = trees[fact.origin], notes.checkpoint(notes.parse(fact.note))
        assert tree.size >= head.size, f"{fact.kind} at {head.size}, but only {tree.size} entries are left"
        assert tree.root(head.size) == head.root, f"{fact.kind} at {head.size}, but the entries are others"
        if fact.kind == "cosigned":
            promised = store.promised(fact.origin)
            assert promised is not None, "a promise was lost"
            kept = notes.checkpoint(notes.parse(promised))
            assert kept.size >= head.size, f"a promise of {head.size} was lost, {kept.size} is left"
            assert tree.root(kept.size) == kept.root, "the promise is of other entries"
        if fact.kind == "certified":
            certified = store.certified(fact.origin)
            assert certified is not None, "a certificate was lost"
            assert certified.size >= head.size, f"a certificate of {head.size} was lost"


def check_no_contradiction(store: Store, facts: Sequence[Fact]) -> None:
    """The witness cosigns nothing that contradicts a fact; done last, as it freezes the logs."""
    witness = Witness(store, GENESIS, WITNESS, "witness")
    for origin, key in ((ALICE_LOG, ALICE), (CAROL_LOG, CAROL)):
        sizes = [notes.checkpoint(notes.parse(fact.note)).size for fact in facts if fact[:2] == ("cosigned", origin)]
        for size in sizes:
            data = carols(size, rival=True)
            try:
                witness.cosign(origin, 0, data, head_of(origin, key, data), NOW)
            except (Conflict, Frozen):
                continue
            raise AssertionError(f"it cosigned a head that contradicts what it cosigned at {size}")


def check(file: Path, story: Story) -> None:
    """Open the store after an accident: all facts hold, the story goes on to its end, and they hold still."""
    with Store.open(file, GENESIS, create=True) as store:
        check_facts(store, story.facts)
        for step in story.steps:
            step(store)
        check_facts(store, story.facts)
    report = verify_store(file, GENESIS)
    assert report.ok, report.faults
    with Store.open(file, GENESIS) as store:
        check_no_contradiction(store, story.facts)
