"""The store: own logs, others' logs, and what it refuses."""

import asyncio
import sqlite3

import pytest

from ledger import merkle, notes
from ledger.entries import Open, Seat, Send
from ledger.errors import (
    Behind,
    EntryInvalid,
    GenesisInvalid,
    KeyInvalid,
    LedgerError,
    StoreBusy,
    StoreUnreadable,
)  # fmt: skip
from ledger.fold.fold import conservation, fold
from ledger.genesis import Genesis
from ledger.notes import Checkpoint
from ledger.store.store import Store

from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    GENESIS,
    RUN,
    RUN_LOG,
    blob,
    certify,
    fill,
    fund,
    receipt_of,
    root_of,
    run_log,
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as opened:
        yield opened


def send(amount: int = 1) -> Send:
    return Send(to=BOB.public, amount=amount)


def everything(store):
    """What there is to know of the run's log, and the ledger."""
    of_log = (store.head(RUN_LOG), store.certified(RUN_LOG), store.entries(RUN_LOG, 2, 4))
    return store.origins(), store.ledger(), of_log


def test_an_appended_log_is_there_after_opening_again(store, tmp_path):
    fill(store)
    wanted = everything(store)
    store.close()
    with Store.open(tmp_path / "ledger.db", GENESIS) as again:
        assert everything(again) == wanted
        assert again.rules(RUN_LOG).settled == 2


def test_the_head_is_signed_over_the_whole_log(store):
    note = notes.parse(store.append(RUN_LOG, run_log(1), ALICE))
    assert notes.verify_head(note, [ALICE.public]) == ALICE.public
    assert notes.checkpoint(note) == Checkpoint(origin=RUN_LOG, size=6, root=bytes.fromhex(root_of(run_log(1))))
    assert store.head(RUN_LOG) == note.encode()


def test_only_certified_entries_count(store):
    store.append(ALICE_LOG, [send(10)], ALICE)
    assert store.ledger().claimable == {}
    certify(store, ALICE_LOG)
    assert store.ledger().claimable == {BOB.public: {ALICE_LOG: 10}}
    store.append(ALICE_LOG, [send(10)], ALICE)
    assert store.ledger().claimable == {BOB.public: {ALICE_LOG: 10}}
    assert (store.size(ALICE_LOG), store.certified(ALICE_LOG).size) == (2, 1)


def test_the_incremental_ledger_is_the_fold_of_everything(store):
    fill(store, rounds=3, close=True)
    for key, origin in ((BOB, BOB_LOG), (ALICE, ALICE_LOG)):
        store.append(origin, store.claims(key.public), key)
        certify(store, origin)
    prefixes = {origin: store.entries(origin, 0, store.certified(origin).size) for origin in store.origins()}
    ledger = store.ledger()
    assert ledger == fold(prefixes, GENESIS.terms)
    assert conservation(ledger)
    assert (ledger.balances[BOB.public], ledger.claimable) == (24, {})


def test_the_run_claims_what_was_sent_to_it(store):
    store.append(ALICE_LOG, fund(70), ALICE)
    certify(store, ALICE_LOG)
    store.append(RUN_LOG, run_log(0, funding=fund(70))[:1], ALICE)
    store.append(RUN_LOG, store.claims(f"run/{RUN}"), ALICE)
    certify(store, RUN_LOG)
    assert store.ledger().runs[RUN].balance == 70


def test_an_entry_that_breaks_a_rule_is_not_stored(store):
    fill(store, rounds=1)
    bad = receipt_of(BOB, 9, blob("after 1"), 20, 1)
    with pytest.raises(EntryInvalid) as caught:
        store.append(RUN_LOG, [Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 20, 5),)), bad], ALICE)
    assert (caught.value.index, caught.value.rule) == (7, "round")
    assert store.size(RUN_LOG) == 6
    with pytest.raises(EntryInvalid, match="encoding"):
        store.append(RUN_LOG, [b"{ }"], ALICE)


def test_only_a_writer_of_the_log_appends(store):
    with pytest.raises(KeyInvalid, match="may not write"):
        store.append(ALICE_LOG, [send()], BOB)
    with pytest.raises(KeyInvalid, match="may not write"):
        store.append(RUN_LOG, run_log(0)[:1], BOB)
    assert store.origins() == []


def test_signing_again_gives_the_same_head(store):
    note = store.append(ALICE_LOG, [send()], ALICE)
    assert store.append(ALICE_LOG, [], ALICE) == note
    with pytest.raises(Behind, match="nothing to sign"):
        store.append(BOB_LOG, [], BOB)


def test_inclusion_and_consistency_can_be_proven(store):
    fill(store)
    proof = store.inclusion(RUN_LOG, 3)
    head = notes.checkpoint(notes.parse(proof.note))
    merkle.verify_inclusion(proof.leaf, 3, proof.size, proof.path, head.root)
    assert proof.leaf == merkle.leaf_hash(run_log(2)[3].encode())
    old = bytes.fromhex(root_of(run_log(2), 4))
    merkle.verify_consistency(4, 10, old, head.root, store.consistency(RUN_LOG, 4, 10))
    with pytest.raises(Behind):
        store.inclusion(RUN_LOG, 10)


def test_a_second_writer_is_refused_and_a_reader_is_not(store, tmp_path):
    fill(store)
    with pytest.raises(StoreBusy, match="another process"):
        Store.open(tmp_path / "ledger.db", GENESIS)
    with Store.open(tmp_path / "ledger.db", GENESIS, read_only=True) as reader:
        assert reader.ledger() == store.ledger()
        with pytest.raises(StoreUnreadable, match="readonly"):
            reader.append(ALICE_LOG, [send()], ALICE)


def test_a_missing_a_foreign_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(StoreUnreadable, match="no ledger here"):
        Store.open(tmp_path / "none.db", GENESIS)
    (tmp_path / "text.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreUnreadable):
        Store.open(tmp_path / "text.db", GENESIS)
    connection = sqlite3.connect(tmp_path / "theirs.db")
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(StoreUnreadable, match="not a ledger"):
        Store.open(tmp_path / "theirs.db", GENESIS)
    with pytest.raises(StoreUnreadable):
        Store.open(tmp_path / "no" / "folder.db", GENESIS, create=True)


def test_a_store_of_another_network_is_refused(store, tmp_path):
    store.close()
    another = Genesis.create(name="another", witnesses=GENESIS.witnesses)
    with pytest.raises(GenesisInvalid, match=GENESIS.id[:16]):
        Store.open(tmp_path / "ledger.db", another)


def test_a_damaged_entry_is_noticed_before_it_is_signed(store, tmp_path):
    fill(store)
    store.close()
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.execute("UPDATE entry SET data = x'7b7d' WHERE idx = 4")
    connection.commit()
    connection.close()
    damaged = pytest.raises(StoreUnreadable, match="entry 4 is damaged")
    with Store.open(tmp_path / "ledger.db", GENESIS) as again, damaged:
        again.append(RUN_LOG, [], ALICE)


def test_a_full_disk_changes_nothing(store):
    fill(store, rounds=1)
    before = (store.size(ALICE_LOG), store.head(ALICE_LOG))
    pages = store._db.rows("PRAGMA page_count")[0][0]
    store._db.rows(f"PRAGMA max_page_count = {pages}")
    big = [Send(to=BOB.public, amount=1, memo="x" * 200) for _ in range(500)]
    with pytest.raises(StoreUnreadable, match="full; nothing was changed"):
        store.append(ALICE_LOG, big, ALICE)
    assert (store.size(ALICE_LOG), store.head(ALICE_LOG)) == before
    store._db.rows("PRAGMA max_page_count = 1000000")
    store.append(ALICE_LOG, big, ALICE)
    assert store.size(ALICE_LOG) == 501


async def test_threads_take_turns(store):
    await asyncio.gather(*(asyncio.to_thread(store.append, ALICE_LOG, [send(n)], ALICE) for n in range(1, 21)))
    assert store.size(ALICE_LOG) == 20
    await asyncio.to_thread(certify, store, ALICE_LOG)
    assert store.ledger().claimable[BOB.public] == {ALICE_LOG: 210}


def test_a_log_of_another_network_has_no_place(store):
    for call in (store.size, store.head, store.certified, lambda origin: store.append(origin, [send()], ALICE)):
        with pytest.raises(LedgerError):
            call("elsewhere/0/" + ALICE.public)
    assert store.origins() == []
