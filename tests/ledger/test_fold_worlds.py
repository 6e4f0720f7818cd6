"""The fold in random worlds: order, prefixes, conservation, and that broken folds are caught."""

from array import array
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.entries import Recv, parse
from ledger.errors import LedgerError
from ledger.fold import accounting
from ledger.fold.accounting import EffectFold
from ledger.fold.effects import Broken, Collected, LogReader
from ledger.fold.fold import Fold, Ledger, conservation, fold
from ledger.fold.log import FoldedLog
from ledger.rules import rules_of
from ledger.verify.frames import PartReader, PartWriter
from ledger.verify.tasks import Part

from . import worlds
from .world import root_of

TERMS = worlds.GENESIS.terms


def whole(world: worlds.World) -> Ledger:
    return fold(world.logs, TERMS, signatures=False)


def check(ledger: Ledger) -> None:
    """Conservation, and nothing negative."""
    assert conservation(ledger)
    amounts = [*ledger.balances.values(), ledger.burned, ledger.unclaimed]
    for run in ledger.runs.values():
        amounts += [run.balance, run.reserved, run.burned, *run.paid.values(), *run.refunded.values()]
    assert min(amounts) >= 0
    assert ledger.issued <= 50_500 + 3000


def check_claims(world: worlds.World) -> None:
    """Whoever claims all that it is owed gets exactly that, and is owed nothing more."""
    ledger = whole(world)
    stuck = {outcome.origin for outcome in (*ledger.pendings, *ledger.invalid)}
    logs = {origin: list(log) for origin, log in world.logs.items()}
    owed = 0
    for owner, sources in ledger.claimable.items():
        origin = worlds.GENESIS.origin(owner)
        if owner.startswith("run/") or origin in stuck:
            continue
        for source, amount in sources.items():
            size, index = len(world.logs[source]), ledger.decided[source] - 1
            claim = Recv(origin=source, index=index, size=size, root=root_of(world.logs[source]))
            logs.setdefault(origin, []).append(claim.encode())
            owed += amount
    after = fold(logs, TERMS, signatures=False)
    check(after)
    assert sum(after.balances.values()) == sum(ledger.balances.values()) + owed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_all_that_is_claimable_can_be_claimed(seed):
    check_claims(worlds.World(seed))


class Told:
    """A fold that is told by frames what a part of a log does, as processes that verify tell each other."""

    def __init__(self, world: worlds.World) -> None:
        self.world, self.writer, self.reader = world, PartWriter(), PartReader()
        self.logs = {origin: LogReader(rules_of(TERMS, origin, signatures=False)) for origin in world.logs}
        self.used: list[tuple[str, int]] = []
        self.money = EffectFold(TERMS, self.root, used=lambda *claim: self.used.append(claim))

    def root(self, origin: str, size: int) -> bytes:
        return self.world.trees[origin].root(size)

    def feed(self, origin: str, start: int, end: int) -> None:
        log, collected = self.logs[origin], Collected()
        for data in self.world.logs[origin][start:end]:
            if log.broken is None:
                try:
                    log.collect(parse(data), collected)
                except LedgerError:
                    broken = log.read(data)
                    assert isinstance(broken, Broken)
                    collected.add(broken)
        part = Part(number=0, rows=end - start, size=end, effects=collected.effects)
        self.writer.add(part)
        [told] = self.reader.parts(self.writer.frame())
        assert (told.rows, told.size, told.roots) == (part.rows, part.size, [])
        self.money.feed(origin, told.size, told.effects)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32))
def test_sends_decided_together_give_at_every_moment_what_one_by_one_gives(seed):
    world, rng = worlds.World(seed), Random(seed)
    told, plain = Told(world), Fold(TERMS, signatures=False)
    at = dict.fromkeys(world.logs, 0)
    while left := [origin for origin, log in world.logs.items() if at[origin] < len(log)]:
        origin = rng.choice(left)
        start = at[origin]
        at[origin] = min(len(world.logs[origin]), start + rng.choice([1, 3, 10, 40]))
        told.feed(origin, start, at[origin])
        plain.extend(origin, world.logs[origin][start : at[origin]])
        assert told.money.ledger() == plain.ledger()
    check(told.money.ledger())
    assert len(told.used) == len(decided_claims(world, told.money.ledger()))


def decided_claims(world: worlds.World, ledger: Ledger) -> list[int]:
    return [
        index
        for origin, log in world.logs.items()
        for index, data in enumerate(log[: ledger.decided[origin]])
        if b'"type":"recv"' in data
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_delivery_order_and_any_partition_gives_the_same_ledger(seed):
    world = worlds.World(seed)
    wanted, rng = whole(world), Random(seed)
    for _ in range(3):
        state = Fold(TERMS, signatures=False)
        left = {origin: list(log) for origin, log in world.logs.items()}
        while left:
            origin = rng.choice(list(left))
            count = rng.randint(1, 5)
            state.extend(origin, left[origin][:count])
            if rng.random() < 0.2:
                check(state.ledger())
            del left[origin][:count]
            if not left[origin]:
                del left[origin]
        assert state.ledger() == wanted
    check(wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_decisions_on_a_prefix_stand_on_every_longer_one(seed):
    world = worlds.World(seed)
    rng, later = Random(seed), whole(world)
    cut = {origin: log[: rng.randint(0, len(log))] for origin, log in world.logs.items()}
    earlier = fold(cut, TERMS, signatures=False)
    check(earlier)
    for origin, decided in earlier.decided.items():
        assert later.decided[origin] >= decided
        before, after = (
            [void for void in ledger.voids if void.origin == origin and void.index < decided]
            for ledger in (earlier, later)
        )
        assert before == after
    for outcome in earlier.invalid:
        assert (outcome.origin, outcome.index) in {(other.origin, other.index) for other in later.invalid}


def test_worlds_reach_every_corner():
    seen: set[str] = set()
    for seed in range(150):
        ledger = whole(worlds.World(seed))
        seen |= {f"void {void.rule}" for void in ledger.voids} | {f"invalid {entry.rule}" for entry in ledger.invalid}
        seen |= {"pending" for _ in ledger.pendings}
        for run in ledger.runs.values():
            seen |= {name for name in ("paid", "refunded", "burned", "reserved", "funders") if getattr(run, name)}
            seen |= {
                f"{name} with stages" for name in ("paid", "burned") if run.run == worlds.STAGED and getattr(run, name)
            }
    assert seen >= {
        "void amount", "void to", "void root", "void index", "void issue", "void roster", "void round", "pending",
        "paid", "refunded", "burned", "reserved", "funders", "invalid encoding", "invalid order", "invalid issuer",
        "paid with stages", "burned with stages", "invalid served",
    }, seen  # fmt: skip


class _NeverHas(set):
    def __contains__(self, item):
        return False


def _no_claim_back(monkeypatch):
    monkeypatch.setattr(accounting, "unreceived", lambda sender, run: 0)


def _claims_are_not_forgotten(monkeypatch):
    def take(self, payee, upto):
        owed = self.owed.get(payee, array("q"))
        return owed[: 2 * sum(entry <= upto for entry in owed[::2])]

    monkeypatch.setattr(FoldedLog, "take", take)


def _sends_after_a_claimed_close(monkeypatch):
    monkeypatch.setattr(accounting, "FoldedLog", lambda **values: FoldedLog(**values, closes_claimed=_NeverHas()))


def _reservation_returned_twice(monkeypatch):
    settle = accounting.settle_round

    def twice(log, effect):
        reserved = log.money.reserved
        left = settle(log, effect)
        log.balance += reserved
        return left

    monkeypatch.setattr(accounting, "settle_round", twice)


@pytest.mark.parametrize(
    "break_it", [_no_claim_back, _claims_are_not_forgotten, _sends_after_a_claimed_close, _reservation_returned_twice]
)
def test_random_worlds_catch_a_broken_fold(monkeypatch, break_it):
    break_it(monkeypatch)
    for seed in range(1500):
        try:
            world = worlds.World(seed)
            check(whole(world))
            check_claims(world)
        except AssertionError:
            return
    pytest.fail("no world told the broken fold from the right one")
