"""The store: own logs, others' logs, and what it refuses."""

import asyncio
import sqlite3

import pytest

from ledger import merkle, notes
from ledger.entries import Close, Open, Seat, Send
from ledger.errors import (
    Behind,
    Conflict,
    EntryInvalid,
    GenesisInvalid,
    KeyInvalid,
    LedgerError,
    NoteInvalid,
    QuorumMissing,
    StoreBusy,
    StoreUnreadable,
)  # fmt: skip
from ledger.fold import conservation, fold
from ledger.genesis import Genesis
from ledger.notes import Checkpoint
from ledger.store import Store

from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    GENESIS,
    NOW,
    RUN,
    RUN_LOG,
    WITNESS,
    blob,
    certify,
    fill,
    fund,
    key_of,
    receipt_of,
    root_of,
    run_log,
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with Store.open(tmp_path / "other.db", GENESIS, create=True) as opened:
        yield opened


def send(amount: int = 1) -> Send:
    return Send(to=BOB.public, amount=amount)


def certificate_of(origin, log, key=ALICE, witness=WITNESS):
    """A certificate made without any store."""
    head = Checkpoint(origin=origin, size=len(log), root=bytes.fromhex(root_of(log)))
    note = notes.sign_head(head, key)
    return notes.combine(note, [notes.cosign(note, "witness", witness, NOW)])


def data_of(log):
    return [entry.encode() for entry in log]


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


def test_a_replica_takes_over_a_certified_log_in_parts(store, other):
    fill(store)
    first = store.certified(RUN_LOG)
    other.accept(RUN_LOG, 0, store.entries(RUN_LOG, 0, first.size), first.note)
    store.append(RUN_LOG, [Close(state=blob("after 2"), reason="")], ALICE)
    certify(store, RUN_LOG)
    second = store.certified(RUN_LOG)
    other.accept(RUN_LOG, 8, store.entries(RUN_LOG, 8, second.size), second.note)  # an overlap is fine
    other.accept(RUN_LOG, 0, [], first.note)  # and so is old news
    assert other.certified(RUN_LOG) == second
    assert other.ledger().pendings[0].rule == "size"  # the funder's log is still unknown
    other.accept(ALICE_LOG, 0, store.entries(ALICE_LOG, 0, 1), store.certified(ALICE_LOG).note)
    assert other.ledger() == store.ledger()


def test_missing_entries_are_asked_for(store, other):
    fill(store)
    certificate = store.certified(RUN_LOG)
    for start, end, size in ((0, 4, 4), (3, 10, 0)):
        with pytest.raises(Behind) as caught:
            other.accept(RUN_LOG, start, store.entries(RUN_LOG, start, end), certificate.note)
        assert caught.value.size == size
    assert other.size(RUN_LOG) == 0


def test_a_certificate_without_a_quorum_or_by_a_stranger_is_refused(store, other):
    store.append(ALICE_LOG, [send()], ALICE)
    data = store.entries(ALICE_LOG, 0, 1)
    with pytest.raises(QuorumMissing, match="nobody"):
        other.accept(ALICE_LOG, 0, data, store.head(ALICE_LOG))
    with pytest.raises(QuorumMissing):
        other.accept(ALICE_LOG, 0, data, certificate_of(ALICE_LOG, [send()], witness=key_of("stranger")))
    with pytest.raises(NoteInvalid, match="not signed"):
        other.accept(ALICE_LOG, 0, data, certificate_of(ALICE_LOG, [send()], key=BOB))
    with pytest.raises(NoteInvalid, match="wanted"):
        other.accept(BOB_LOG, 0, data, certificate_of(ALICE_LOG, [send()]))
    assert other.origins() == []


def test_a_certificate_needs_its_quorum_of_four(tmp_path):
    witnesses = {f"w{number}": key_of(f"w{number}") for number in range(4)}
    named = [(name, key.public) for name, key in witnesses.items()]
    genesis = Genesis.create(name="four", supply={ALICE.public: 5}, witnesses=named)
    origin, log = genesis.origin(ALICE.public), [send()]
    note = notes.sign_head(Checkpoint(origin=origin, size=1, root=bytes.fromhex(root_of(log))), ALICE)
    lines = [notes.cosign(note, name, key, NOW) for name, key in witnesses.items()]
    with Store.open(tmp_path / "four.db", genesis, create=True) as store:
        with pytest.raises(QuorumMissing, match="wanted 3"):
            store.accept(origin, 0, data_of(log), notes.combine(note, [lines[0], lines[1], lines[1]]))
        store.accept(origin, 0, data_of(log), notes.combine(note, lines[1:]))
        assert store.certified(origin).size == 1


def test_entries_that_do_not_give_the_root_are_refused(other):
    certificate = certificate_of(ALICE_LOG, [send(1), send(2)])
    with pytest.raises(Conflict, match="root"):
        other.accept(ALICE_LOG, 0, data_of([send(1), send(3)]), certificate)
    assert other.origins() == []


def test_a_certified_prefix_never_changes(other):
    other.accept(ALICE_LOG, 0, data_of([send(1)]), certificate_of(ALICE_LOG, [send(1)]))
    with pytest.raises(Conflict, match="two roots"):
        other.accept(ALICE_LOG, 0, data_of([send(2)]), certificate_of(ALICE_LOG, [send(2)]))
    with pytest.raises(Conflict, match="entry 0"):
        longer = [send(2), send(3)]
        other.accept(ALICE_LOG, 0, data_of(longer), certificate_of(ALICE_LOG, longer))


def test_an_account_that_was_continued_elsewhere_does_not_sign_on(store):
    store.append(ALICE_LOG, [send(1)], ALICE)
    elsewhere = [send(2), send(3)]
    with pytest.raises(Conflict, match="backup"):
        store.accept(ALICE_LOG, 0, data_of(elsewhere), certificate_of(ALICE_LOG, elsewhere))


def test_a_deposed_leaders_uncertified_tail_gives_way(store):
    fill(store, rounds=1)
    tail = Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 20, 5),))
    store.append(RUN_LOG, [tail], ALICE)
    theirs = [*run_log(1), Close(state=blob("after 1"), reason="")]
    certificate = certificate_of(RUN_LOG, theirs)
    with pytest.raises(Behind) as caught:
        store.certify(RUN_LOG, certificate)
    assert caught.value.size == 6
    store.accept(RUN_LOG, 6, data_of(theirs[6:]), certificate)
    assert store.entries(RUN_LOG, 0, 99) == data_of(theirs)
    assert store.rules(RUN_LOG).closed
    assert store.ledger().runs[RUN].closed


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
