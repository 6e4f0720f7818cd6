"""Which logs are worth keeping."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.entries import Audit, Begin, Close, Issue, Open, Seat, Send, run_id
from ledger.references import References, named_by
from ledger.rules import Terms
from ledger.store.store import Store

from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    CAROL,
    GENESIS,
    RUN,
    RUN_LOG,
    blob,
    certify,
    key_of,
    recv_of,
    spec_of,
)
from .world import run_log as log_of_run

TERMS = GENESIS.terms
DAVE, ERIN = key_of("dave"), key_of("erin")


def origins(*keys):
    return tuple(GENESIS.origin(key.public) for key in keys)


def test_every_entry_that_refers_to_a_log_says_so():
    assert named_by(Send(to=DAVE.public, amount=1), TERMS) == origins(DAVE)
    assert named_by(Send(to=f"run/{RUN}", amount=1), TERMS) == (RUN_LOG,)
    assert named_by(Issue(to=DAVE.public, amount=1), TERMS) == origins(DAVE)
    assert named_by(recv_of(RUN_LOG, log_of_run(0)), TERMS) == (RUN_LOG,)
    begin = Begin(spec=spec_of(submitter=ERIN.public, leaders=[DAVE.public, ERIN.public]))
    assert named_by(begin, TERMS) == origins(ERIN, DAVE)
    roster = (Seat(DAVE.public, 0, 1), Seat(BOB.public, 1, 1))
    assert named_by(Open(round=1, state=blob("state"), roster=roster), TERMS) == origins(DAVE, BOB)
    audit = Audit(round=1, account=DAVE.public, verdict="ok", data="")
    for silent in (*log_of_run(1)[3:], Close(state=blob(1), reason=""), audit):
        assert named_by(silent, TERMS) == ()


def test_the_genesis_and_what_it_leads_to_counts_and_nothing_else():
    found = References(TERMS)
    assert found.all() == frozenset(origins(ALICE, BOB, CAROL))
    found.add(*origins(DAVE), origins(ERIN))
    assert origins(ERIN)[0] not in found
    found.add(ALICE_LOG, origins(DAVE))
    assert found.all() == frozenset(origins(ALICE, BOB, CAROL, DAVE, ERIN))
    found.add(*origins(ERIN), (RUN_LOG,))
    assert RUN_LOG in found


@given(st.permutations([(0, 1), (1, 2), (2, 0), (2, 3), (5, 6), (3, 4), (6, 5), (4, 4)]))
def test_the_order_in_which_entries_become_known_changes_nothing(edges):
    found = References(Terms(network="0" * 64, supply={"n0": 1}, issuers={}))
    name = "p2p-llm-forge/" + "0" * 16 + "/n{}"
    for source, target in edges:
        found.add(name.format(source), [name.format(target)])
    assert found.all() == {name.format(number) for number in range(5)}


def test_a_store_counts_what_its_certified_entries_name(tmp_path):
    dave_log, erin_log = origins(DAVE, ERIN)
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        assert store.references() == frozenset(origins(ALICE, BOB, CAROL))
        store.append(ALICE_LOG, [Send(to=DAVE.public, amount=1)], ALICE)
        assert not store.is_referenced(dave_log)
        certify(store, ALICE_LOG)
        assert store.is_referenced(dave_log)
        store.append(dave_log, [Send(to=ERIN.public, amount=1), Send(to=ERIN.public, amount=2)], DAVE)
        certify(store, dave_log)
        assert store.is_referenced(erin_log)
        fill_run(store)
        wanted = store.references()
    with Store.open(tmp_path / "ledger.db", GENESIS) as again:
        assert again.references() == wanted
        assert RUN_LOG in wanted
        assert not again.is_referenced("elsewhere")
        assert again.references() is not again.references()


def fill_run(store):
    store.append(RUN_LOG, log_of_run(1)[:1], ALICE)
    certify(store, RUN_LOG)
    store.append(ALICE_LOG, [Send(to=f"run/{RUN}", amount=5)], ALICE)
    certify(store, ALICE_LOG)


def test_what_a_dropped_tail_named_is_forgotten(tmp_path):
    spec = spec_of(leaders=[ALICE.public, BOB.public])
    origin, begin, close = GENESIS.run_origin(run_id(spec)), Begin(spec=spec), Close(state=blob("state"), reason="")
    tail = Open(round=1, state=blob("state"), roster=(Seat(DAVE.public, 20, 5), Seat(BOB.public, 30, 5)))
    with (
        Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store,
        Store.open(tmp_path / "other.db", GENESIS, create=True) as other,
    ):
        store.append(ALICE_LOG, [Send(to=f"run/{run_id(spec)}", amount=1)], ALICE)
        certify(store, ALICE_LOG)
        store.append(origin, [begin, tail], ALICE)
        other.append(origin, [begin, close], BOB)
        store.accept(origin, 0, [begin.encode(), close.encode()], certify(other, origin))
        assert not store.is_referenced(origins(DAVE)[0])
        assert store.is_referenced(BOB_LOG)
        assert store.rules(origin).closed
