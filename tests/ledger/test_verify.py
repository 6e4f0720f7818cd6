"""Verification: a sound ledger is sound, every change is named."""

import json
import shutil
import sqlite3
from random import Random

import pytest

from ledger.codec import encode
from ledger.entries import Begin, Close, Receipt, Send
from ledger.errors import GenesisInvalid, StoreUnreadable
from ledger.genesis import Genesis
from ledger.merkle import leaf_hash
from ledger.receipt import CONTEXT
from ledger.store.store import Store
from ledger.verify.report import describe_damaged
from ledger.verify.verify import verify_store

from .world import ALICE, ALICE_LOG, BOB, GENESIS, RUN_LOG, certify, fill, run_log, spec_of


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    file = tmp_path_factory.mktemp("sound") / "ledger.db"
    with Store.open(file, GENESIS, create=True) as store:
        fill(store, rounds=3)
        store.append(ALICE_LOG, store.claims(ALICE.public), ALICE)
        certify(store, ALICE_LOG)
    return file


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copy(sound, tmp_path / "ledger.db")


def change(file, query, *values):
    connection = sqlite3.connect(file)
    assert connection.execute(query, values).rowcount == 1
    connection.commit()
    connection.close()


def flip(file, index, at, bit=1, rehash=False):
    """Flip a bit of an entry of the run."""
    connection = sqlite3.connect(file)
    log = connection.execute("SELECT id FROM log WHERE origin = ?", (RUN_LOG,)).fetchone()[0]
    data = connection.execute("SELECT data FROM entry WHERE log = ? AND idx = ?", (log, index)).fetchone()[0]
    connection.close()
    bad = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    change(file, "UPDATE entry SET data = ? WHERE log = ? AND idx = ?", bad, log, index)
    if rehash:
        change(file, "UPDATE entry SET leaf = ? WHERE log = ? AND idx = ?", leaf_hash(bad), log, index)
    return bad


def only_fault(file):
    report = verify_store(file, GENESIS)
    assert not report.ok
    assert report.proven == ()
    [fault] = report.faults
    return fault


def test_a_sound_ledger_is_sound(sound):
    report = verify_store(sound, GENESIS)
    assert (report.ok, report.faults) == (True, ())
    assert report.counts == {"logs": 2, "entries": 16, "certified": 16, "receipts": 6, "void": 0, "pending": 0}
    assert report.ledger.balances[ALICE.public] == 10**9 - 10**6 + 30
    assert len(report.proven) == 3
    assert any("honest" in sentence for sentence in report.not_proven)
    json.dumps(report.to_json())


def test_it_can_be_verified_while_a_daemon_writes_it(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        fill(store)
        assert verify_store(tmp_path / "ledger.db", GENESIS).ok
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
        report = verify_store(tmp_path / "ledger.db", GENESIS)
        assert report.counts["entries"] == report.counts["certified"] + 1
        assert any("1 entries that are not certified" in sentence for sentence in report.not_proven)


@pytest.mark.parametrize("seed", range(40))
def test_any_flipped_byte_of_a_receipt_is_named_with_its_entry_member_and_round(copy, seed):
    rng = Random(seed)
    receipt = run_log(3)[7].encode()
    at, bit = rng.randrange(len(receipt)), 1 << rng.randrange(8)
    flip(copy, 7, at, bit)
    fault = only_fault(copy)
    assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, 7, "leaf hash")
    assert fault.wanted == leaf_hash(receipt).hex()
    assert fault.what.startswith("receipt of account ")
    where = {name: receipt.index(b'"%s":' % name.encode()) for name in ("account", "round")}
    if not where["account"] <= at < where["account"] + 77:
        assert ALICE.public in fault.what
    if not where["round"] <= at < where["round"] + 10:
        assert fault.what.endswith("round 2")
    assert fault.further[-1] == "the certified root at 14 shows that the entry was changed"
    assert len(fault.further) == 2  # and the entry breaks a rule by itself: its signature, or its form
    assert "entry 7 (receipt of account" in str(fault)


def test_a_receipt_changed_with_its_stored_hash_is_named_by_its_signature(copy):
    at = run_log(3)[7].encode().index(b'"loss":') + 8
    flip(copy, 7, at, rehash=True)
    fault = only_fault(copy)
    assert (fault.entry, fault.rule) == (7, "signature")
    assert fault.what == f"receipt of account {ALICE.public} round 2"


def test_a_hash_changed_without_its_entry_is_told_apart(copy):
    change(copy, "UPDATE entry SET leaf = zeroblob(32) WHERE idx = 7")
    fault = only_fault(copy)
    assert fault.further == ("the certified root at 14 shows that the stored hash was changed, not the entry",)


def test_an_unsigned_entry_changed_with_its_stored_hash_breaks_the_root(copy):
    data = run_log(3)[13].encode()
    flip(copy, 13, data.index(b'"state":"') + 9, rehash=True)  # the last settle's state
    fault = only_fault(copy)
    assert (fault.entry, fault.rule) == (None, "root of 14 entries")


def test_a_missing_entry_is_named(copy):
    change(copy, "DELETE FROM entry WHERE idx = 5")
    assert (only_fault(copy).entry, only_fault(copy).got) == (5, "missing")


def test_a_cut_off_log_is_named(copy):
    change(copy, "DELETE FROM entry WHERE idx = 13")
    assert "later ones are missing" in only_fault(copy).wanted


@pytest.mark.parametrize("table", ["head", "certificate", "promise"])
@pytest.mark.parametrize(("column", "value"), [("size", 3), ("root", bytes(32)), ("note", b"x"), ("note", None)])
def test_a_changed_head_is_named(copy, table, column, value):
    if value is None:  # a note that is good, but of another log
        connection = sqlite3.connect(copy)
        query = f"SELECT note FROM {table} JOIN log ON log = id WHERE origin = ?"
        value = connection.execute(query, (ALICE_LOG,)).fetchone()[0]
        connection.close()
    change(copy, f"UPDATE {table} SET {column} = ? WHERE log = (SELECT id FROM log WHERE origin = ?)", value, RUN_LOG)
    fault = only_fault(copy)
    assert fault.origin == RUN_LOG
    assert fault.entry is None
    assert table in f"{fault.rule} {fault.wanted}"


def test_a_certificate_that_lost_its_cosignature_is_named(copy):
    query = "UPDATE certificate SET note = (SELECT note FROM head WHERE head.log = certificate.log) WHERE log = 1"
    change(copy, query)
    assert "cosigned by nobody" in only_fault(copy).got


def test_a_log_that_belongs_nowhere_is_named(copy):
    change(copy, "UPDATE log SET origin = 'elsewhere' WHERE origin = ?", ALICE_LOG)
    assert only_fault(copy).rule == "origin"


def test_entries_after_a_fault_do_not_count(copy):
    flip(copy, 7, 20)
    ledger = verify_store(copy, GENESIS).ledger
    assert next(iter(ledger.runs.values())).rounds_settled == 1


def test_an_invalid_entry_that_was_slipped_in_behind_is_named(copy):
    close = Close(state=spec_of()["blobs"]["state"], reason="").encode()
    change(copy, "INSERT INTO entry SELECT id, 14, ?, ? FROM log WHERE origin = ?", leaf_hash(close), close, RUN_LOG)
    fault = only_fault(copy)
    assert (fault.entry, fault.rule, fault.what) == (14, "state", "close")


def test_a_store_of_another_network_is_not_judged(copy):
    with pytest.raises(GenesisInvalid):
        verify_store(copy, Genesis.create(name="x", witnesses=GENESIS.witnesses))


@pytest.mark.parametrize("content", [b"", b"hello" * 1000, None])
def test_what_is_no_store_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(StoreUnreadable):
        verify_store(tmp_path / "ledger.db", GENESIS)


def test_flipping_any_byte_of_the_file_is_never_taken_for_sound_when_it_hits_an_entry(sound, tmp_path):
    whole = sound.read_bytes()
    receipt = run_log(3)[7].encode()
    assert whole.count(receipt) == 1
    start, rng = whole.index(receipt), Random(1)
    for at in rng.sample(range(start, start + len(receipt)), 10):
        (tmp_path / "bad.db").write_bytes(whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :])
        assert only_fault(tmp_path / "bad.db").entry == 7


@pytest.mark.parametrize(("data", "what"), [
    (b"\x00\xff", "unreadable"), (Begin(spec=spec_of()).encode(), "begin"),
    (run_log(1)[3].encode()[:-80], "receipt of account " + ALICE.public + " round 1"),
    (b'{"state_in":', "receipt of account (unreadable) round (unreadable)"), (run_log(1)[2].encode(), "open round 1"),
])  # fmt: skip
def test_what_is_damaged_is_still_described(data, what):
    assert describe_damaged(data) == what


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_a_receipt_is_checked_against_is_its_canonical_body(rounds):
    receipts = [entry for entry in run_log(rounds) if isinstance(entry, Receipt)]
    for receipt in receipts:
        body = receipt.to_json()
        del body["signature"]
        assert receipt._signed() == CONTEXT + encode(body)


@pytest.mark.parametrize("later", ["another receipt", "a later fault", "nothing"])
def test_the_first_of_several_faults_is_named_and_nothing_from_it_on_counts(copy, later):
    """Signatures are checked some entries at a time; which one is named must not depend on that."""
    at = run_log(3)[7].encode().index(b'"loss":') + 8
    flip(copy, 7, at, rehash=True)
    if later == "another receipt":
        flip(copy, 8, at, rehash=True)
    elif later == "a later fault":
        flip(copy, 9, 20)
    fault = only_fault(copy)
    assert (fault.entry, fault.rule) == (7, "signature")
    [run] = [log for log in verify_store(copy, GENESIS).logs if log.origin == RUN_LOG]
    assert (run.sound, run.receipts) == (7, 2)
