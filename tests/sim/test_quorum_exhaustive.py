"""Four witnesses, one of them faulty, heads that contradict each other: every possible course of events, one by one.

A course is any sequence of steps: a witness is shown a head (at any time, again, or never: so every order, repetition
and loss of messages is among them), is killed before or after its commit, or takes over a certificate once there is
one; the faulty one gives away any cosignature at any time. What one witness does in a step is not modelled: the real
store does it, once for each state that its disk can be in. States of the four together are then explored to the last.

Pure: no IO.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, count, product
from math import comb, factorial, prod
from unittest import mock

import pytest

from ledger import keys, notes
from ledger.entries import Begin, Close, Entry, Open, Seat, Send
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store
from ledger.witness import Witness
from tests.ledger.world import blob
from tests.sim.ledger_witnesses_parts import ACCOUNTS, RUN, SPEC, WITNESSES, Disk, Killed, empty_image, network

GENESIS = network(4)
NAMES = tuple(name for name, _ in GENESIS.witnesses)
ASKED, KILLED_BEFORE, KILLED_AFTER, ACCEPTED = "asked", "killed before its commit", "killed after it", "takes over"
STEPS = (ASKED, KILLED_BEFORE, KILLED_AFTER, ACCEPTED)
Step = tuple[str, int]
"""What happens to a witness, and with which head."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A signed head, and the entries it covers."""

    origin: str
    entries: tuple[bytes, ...]
    note: bytes
    certificate: bytes
    """As a quorum would sign it."""

    @classmethod
    def of(cls, origin: str, key: PrivateKey, entries: Sequence[Entry]) -> Head:
        """The head of these entries."""
        data = tuple(entry.encode() for entry in entries)
        root = Tree(map(leaf_hash, data)).root()
        note = notes.sign_head(Checkpoint(origin=origin, size=len(data), root=root), key)
        lines = [notes.cosign(note, name, WITNESSES[name], 1) for name in NAMES[: GENESIS.quorum]]
        return cls(origin=origin, entries=data, note=note, certificate=notes.combine(note, lines))

    def contradicts(self, other: Head) -> bool:
        """Whether both cannot be of one log."""
        return any(one != two for one, two in zip(self.entries, other.entries, strict=False))


def account_heads(*logs: str) -> list[Head]:
    """Heads of one account's log, each a word whose letters are the entries."""
    key = ACCOUNTS["account0"]
    to = ACCOUNTS["account1"].public
    return [
        Head.of(GENESIS.origin(key.public), key, [Send(to=to, amount=1, memo=letter) for letter in log]) for log in logs
    ]


def run_heads() -> list[Head]:
    """Two leaders of a run go on differently, unaware of each other."""
    one, two = ACCOUNTS["account6"], ACCOUNTS["account7"]
    begin = Begin(spec=SPEC)
    round_1 = Open(round=1, state=blob("state"), roster=(Seat(one.public, 0, 1),))
    origin = GENESIS.run_origin(RUN)
    close = Close(state=blob("state"), reason="")
    return [Head.of(origin, one, [begin, round_1]), Head.of(origin, two, [begin, close])]


class OneWitness:
    """All states that an honest witness can be in, and what each step makes of each; by the real store."""

    def __init__(self, heads: Sequence[Head], kind: type[Witness] = Witness, *, one_life: bool = True) -> None:
        """With `one_life`, a process that lived through all steps must do the same as one that has just started."""
        self.heads = heads
        self._kind = kind
        self._disks = [empty_image(GENESIS)]
        self._paths: list[tuple[Step, ...]] = [()]
        self.steps: list[dict[Step, tuple[int, bool]]] = []
        """For each state and step: the next state, and whether the cosignature of that head was given away."""
        with mock.patch.object(keys, "verify", lru_cache(keys.verify)):  # the same answers, sooner
            self._find(one_life)

    def _find(self, one_life: bool) -> None:
        numbers = {self._after(self._disks[0], ())[0]: 0}
        for number in count():
            if number == len(self._paths):
                return
            steps: dict[Step, tuple[int, bool]] = {}
            for step in product(STEPS, range(len(self.heads))):
                seen, given, image = self._after(self._disks[number], [step])
                path = (*self._paths[number], step)
                if one_life:
                    assert self._after(self._disks[0], path)[:2] == (seen, given), "memory and disk are not the same"
                if seen not in numbers:
                    numbers[seen] = len(self._paths)
                    self._paths.append(path)
                    self._disks.append(image)
                steps[step] = (numbers[seen], given)
            self.steps.append(steps)

    def _after(self, image: bytes, path: Sequence[Step]) -> tuple[object, bool, bytes]:
        """What is on the disk after these steps, whether the last one gave a cosignature away, and the disk."""
        deadly, given = "", False

        def pass_by(point: str) -> None:
            if point == deadly:
                raise Killed

        disk, rng = Disk(GENESIS, pass_by, image=image), random.Random(0)
        store = disk.boot()
        for name, place in path:
            deadly = {KILLED_BEFORE: "before a commit", KILLED_AFTER: "after a commit"}.get(name, "")
            try:
                given = self._do(store, name, self.heads[place])
            except LedgerError:
                given = False
            except Killed:
                given = False
                disk.power_off(rng)
                store = disk.boot()
            deadly = ""
        seen = self._seen(store)
        return seen, given, disk.power_off(rng)

    def _do(self, store: Store, name: str, head: Head) -> bool:
        if name == ACCEPTED:
            store.accept(head.origin, 0, head.entries, head.certificate)
            return False
        witness = self._kind(store, GENESIS, WITNESSES[NAMES[0]], NAMES[0])
        witness.cosign(head.origin, 0, head.entries, head.note, 1)
        return name == ASKED  # one that is killed has nothing to give; else no commit was needed: it is asked later

    def _seen(self, store: Store) -> object:
        """All that matters of a store."""
        origin = self.heads[0].origin
        certificate, promised = store.certified(origin), store.promised(origin)
        return (
            tuple(store.entries(origin, 0, store.size(origin))), promised, certificate and certificate.size,
            tuple(evidence.encode() for evidence in store.evidence(origin)),
        )  # fmt: skip


Local = tuple[int, int]
"""A witness's own state, and a bit for each head whose cosignature it gave away."""
State = tuple[tuple[Local, ...], tuple[Local, ...]]
"""The honest witnesses, sorted, and the faulty ones: which is which among the honest makes no difference."""


def explore(heads: Sequence[Head], faulty: int, one: OneWitness) -> tuple[int, list[str]]:
    """Follow every course of events; (how many states of the four there are, what went wrong)."""
    rivals = [(a, b) for a, b in combinations(range(len(heads)), 2) if heads[a].contradicts(heads[b])]
    start: State = (((0, 0),) * (len(NAMES) - faulty), ((0, 0),) * faulty)
    seen, waiting, wrong = {start}, [start], list[str]()
    while waiting and not wrong:
        honest, others = waiting.pop()
        given_by = [given for _, given in (*honest, *others)]
        certified = [sum(given >> head & 1 for given in given_by) >= GENESIS.quorum for head in range(len(heads))]
        if any(certified[a] and certified[b] for a, b in rivals):
            wrong.append(f"two certificates: {honest}, faulty {others}")
        if any(_both(given, rivals) for _, given in honest):
            wrong.append(f"a witness gave away two rivals: {honest}")
        following: set[State] = set()
        for place, local in enumerate(honest):
            if local not in honest[:place]:
                rest = honest[:place] + honest[place + 1 :]
                following |= {(tuple(sorted((*rest, after))), others) for after in _after(local, one, certified)}
        for place, (_, given) in enumerate(others):
            more = {(0, given | 1 << head) for head in range(len(heads))}
            following |= {(honest, (*others[:place], after, *others[place + 1 :])) for after in more}
        waiting += following - seen
        seen |= following
    orders = sum(factorial(len(honest)) // prod(map(factorial, Counter(honest).values())) for honest, _ in seen)
    return orders * comb(len(NAMES), faulty), wrong


def _after(local: Local, one: OneWitness, certified: Sequence[bool]) -> set[Local]:
    """What an honest witness may be next."""
    steps = one.steps[local[0]].items()
    return {
        (number, local[1] | out << head) for (name, head), (number, out) in steps if name != ACCEPTED or certified[head]
    }


def _both(given: int, rivals: Sequence[tuple[int, int]]) -> bool:
    return any(given >> a & 1 and given >> b & 1 for a, b in rivals)


CASES: dict[str, Callable[[], list[Head]]] = {
    "equal size": lambda: account_heads("a", "b"),
    "different size": lambda: account_heads("a", "bc"),
    "one of them goes on": lambda: account_heads("a", "ac", "b"),
    "two leaders": run_heads,
}


@pytest.mark.parametrize("case", CASES)
def test_no_course_of_events_makes_two_certificates(case: str) -> None:
    heads = CASES[case]()
    one = OneWitness(heads, one_life=len(heads) == 2)
    states, wrong = zip(*(explore(heads, faulty, one) for faulty in (0, 1)), strict=True)
    print(f"{case}: {len(one.steps)} states of one witness; of four {states[0]:,}, {states[1]:,} with one faulty")
    assert wrong == ([], [])
    assert min(states) > 1_000


def test_two_faulty_witnesses_can_make_two_certificates() -> None:
    heads = CASES["equal size"]()
    _, wrong = explore(heads, 2, OneWitness(heads))
    assert "two certificates" in wrong[0]


class Forgetful(Witness):
    """A witness that does not look at what it promised before."""

    def cosign(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes, now_s: int) -> bytes:
        """The cosignature of any head."""
        with self._store._db.transaction():
            for table in ("entry", "promise", "head", "certificate", "evidence", "log"):
                self._store._db.change(f"DELETE FROM {table}")
        self._store._logs._logs.clear()
        return super().cosign(origin, start, entries, head_note, now_s)


def test_a_witness_that_forgets_its_promise_is_found_out() -> None:
    heads = CASES["equal size"]()
    _, wrong = explore(heads, 0, OneWitness(heads, Forgetful))
    assert "two rivals" in wrong[0]
