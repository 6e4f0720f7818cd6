"""Every movement of money is told, adds up, and can be explained."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.entries import Close, Open, Seat, Send
from ledger.fold.balances import KINDS, Movement
from ledger.fold.fold import Fold, fold
from ledger.fold.history import history, movements, why

from . import worlds
from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, CAROL, GENESIS, RUN, RUN_LOG, blob, fund, recv_of, run_log

TERMS = worlds.GENESIS.terms


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_last_line_of_a_history_is_the_balance_of_the_fold(seed):
    world = worlds.World(seed)
    ledger, found = fold(world.logs, TERMS, signatures=False), movements(world.logs, TERMS)
    owned = {**ledger.balances, **{f"run/{run}": account.balance for run, account in ledger.runs.items()}}
    for owner in owned.keys() | {movement.owner for movement in found}:
        lines = history(found, owner)
        assert (lines[-1].balance if lines else 0) == owned.get(owner, 0)
        assert min((line.balance for line in lines), default=0) >= 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_all_movements_add_up_to_what_there_is(seed):
    world = worlds.World(seed)
    ledger, found = fold(world.logs, TERMS, signatures=False), movements(world.logs, TERMS)
    total: Counter[str] = Counter()
    for movement in found:
        assert movement.kind in KINDS
        assert movement.amount >= 0
        total[movement.kind] += movement.amount
        if movement.kind == "refund" and movement.delta == 0:
            total["refund to funders"] += movement.amount
    in_runs = sum(run.balance for run in ledger.runs.values())
    assert sum(movement.delta for movement in found) == sum(ledger.balances.values()) + in_runs
    assert total["supply"] + total["issue"] == ledger.issued
    assert total["burn"] == ledger.burned
    owed = total["owe"] + total["earn"] + total["refund to funders"]
    assert owed - total["receive"] == ledger.unclaimed
    set_aside = sum(run.reserved for run in ledger.runs.values())
    burned_of_reserved = sum(item.amount for item in found if item.kind == "burn" and item.delta == 0)
    assert total["reserve"] - total["earn"] - total["return"] - burned_of_reserved == set_aside


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_every_receive_names_what_it_claimed_and_nothing_is_claimed_twice(seed):
    found = movements(worlds.World(seed).logs, TERMS)
    given_at = Counter((item.origin, item.index, item.owner) for item in found if item.kind in ("owe", "earn"))
    claimed: Counter[tuple[str, int, str]] = Counter()
    for movement in found:
        assert sum(cause[2] for cause in movement.causes) == (movement.amount if movement.causes else 0)
        assert bool(movement.causes) == (movement.kind == "receive" and movement.amount > 0)
        for origin, index, _ in movement.causes:
            claimed[origin, index, movement.owner] += 1
            there = [item for item in why(found, movement.origin, movement.index) if item.origin == origin]
            assert any(item.index == index and item.owner == movement.owner for item in there)
    assert all(count <= max(1, given_at[place]) for place, count in claimed.items())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_movements_told_live_are_those_told_afterwards(seed):
    world, rng = worlds.World(seed), Random(seed)
    live: list[Movement] = []
    state = Fold(TERMS, signatures=False, watch=live.append)
    left = {origin: list(log) for origin, log in world.logs.items()}
    while left:
        origin = rng.choice(list(left))
        state.extend(origin, left[origin][:3])
        del left[origin][:3]
        if not left[origin]:
            del left[origin]
    after = movements(dict(reversed(world.logs.items())), TERMS)
    assert Counter(live) == Counter(item for item in after if item.kind != "pending")
    assert after == movements(world.logs, TERMS)
    assert state.ledger() == fold(world.logs, TERMS, signatures=False)


def test_a_void_and_a_pending_entry_say_why():
    alice = [Send(to=BOB.public, amount=10**9 + 1), Send(to=BOB.public, amount=7, memo="rent")]
    found = movements({ALICE_LOG: alice, BOB_LOG: [recv_of(GENESIS.origin(CAROL.public), fund()), *fund(1)]}, TERMS_1)
    [void] = why(found, ALICE_LOG, 0)
    assert (void.kind, void.delta) == ("void", 0)
    assert void.note == "amount is 1000000001, wanted at most 1000000000, the balance at this entry"
    [pending] = why(found, BOB_LOG, 0)
    assert pending.kind == "pending"
    assert "known up to 0, wanted up to 1; 1 later entries wait behind it" in pending.note
    sent, owed = why(found, ALICE_LOG, 1)
    assert (sent.kind, sent.owner, sent.delta, sent.note) == ("send", ALICE.public, -7, f"to {BOB.public}: rent")
    assert (owed.kind, owed.owner, owed.delta, owed.amount) == ("owe", BOB.public, 0, 7)


TERMS_1 = GENESIS.terms


def test_a_run_is_explained_from_its_funding_to_its_refund():
    run = [*run_log(1, funding=fund(100)), Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 20, 5),))]
    run.append(Close(state=blob("after 1"), reason="enough"))
    alice = [*fund(100), recv_of(RUN_LOG, run)]
    found = movements({ALICE_LOG: alice, RUN_LOG: run}, TERMS_1)
    told = [(line.movement.kind, line.movement.delta, line.balance) for line in history(found, f"run/{RUN}")]
    assert told == [
        ("owe", 0, 0), ("receive", 100, 100), ("reserve", -20, 80), ("return", 2, 82), ("reserve", -5, 77),
        ("burn", 0, 77), ("refund", -77, 0),
    ]  # fmt: skip
    assert [(item.owner, item.amount) for item in why(found, RUN_LOG, 5) if item.kind == "earn"] == [
        (ALICE.public, 10), (BOB.public, 8),
    ]  # fmt: skip
    received = [item for item in why(found, ALICE_LOG, 1) if item.kind == "receive"]
    assert received[0].causes == ((RUN_LOG, 5, 10), (RUN_LOG, 7, 77))
    assert {item.kind for item in why(found, ALICE_LOG, 1)} == {"earn", "refund", "receive"}
    assert why(found, RUN_LOG, 3) == ()  # a receipt moves nothing until it is settled


def test_what_a_closed_run_gave_back_is_traced_to_the_send():
    late = [*fund(100), *fund(30)]
    run = [*run_log(0, funding=fund(100)), Close(state=blob("state"), reason="")]
    found = movements({ALICE_LOG: [*late, recv_of(RUN_LOG, run)], RUN_LOG: run}, TERMS_1)
    [received] = [item for item in why(found, ALICE_LOG, 2) if item.kind == "receive"]
    assert received.causes == ((RUN_LOG, 2, 100), (ALICE_LOG, 1, 30))
    assert received in why(found, ALICE_LOG, 1)
