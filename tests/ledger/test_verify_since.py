"""Verification from an earlier one on, and with evidence in the store."""

import shutil
import sqlite3

import pytest

from ledger import certificates, evidence, keys, notes
from ledger.entries import Recv, Send
from ledger.errors import NoteInvalid, QuorumMissing
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store
from ledger.verify.verify import verify_store

from .test_verify import change, flip
from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, GENESIS, NOW, RUN_LOG, WITNESS, certify, fill, run_log


def since_of(report):
    """What `--since` reads from the file that a verification leaves behind."""
    return {origin: note.encode() for origin, note in certificates.parse(report.certificates).items()}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A store as it was verified, what was certified then, and the store after it grew."""
    folder = tmp_path_factory.mktemp("grown")
    with Store.open(folder / "ledger.db", GENESIS, create=True) as store:
        fill(store, rounds=2)
    shutil.copy(folder / "ledger.db", folder / "before.db")
    since = since_of(verify_store(folder / "before.db", GENESIS))
    with Store.open(folder / "ledger.db", GENESIS) as store:
        store.append(RUN_LOG, run_log(3, close=True)[10:], ALICE)
        certify(store, RUN_LOG)
        store.append(ALICE_LOG, store.claims(ALICE.public), ALICE)
        certify(store, ALICE_LOG)
        store.append(BOB_LOG, store.claims(BOB.public), BOB)
        certify(store, BOB_LOG)
    return folder, since


@pytest.fixture
def copy(grown, tmp_path):
    folder, since = grown
    return shutil.copy(folder / "ledger.db", tmp_path / "ledger.db"), since


def test_a_verification_leaves_the_certificates_of_all_its_logs(grown):
    folder, since = grown
    assert {origin: notes.checkpoint(notes.parse(data)).size for origin, data in since.items()} == {
        ALICE_LOG: 1, RUN_LOG: 10,
    }  # fmt: skip
    assert set(since_of(verify_store(folder / "ledger.db", GENESIS))) == {ALICE_LOG, BOB_LOG, RUN_LOG}


@pytest.mark.parametrize("processes", [1, 2])
def test_from_an_earlier_verification_on_it_finds_the_same_and_says_what_rests_on_it(grown, processes):
    folder, since = grown
    whole = verify_store(folder / "ledger.db", GENESIS)
    later = verify_store(folder / "ledger.db", GENESIS, since=since, processes=processes)
    assert later.ok
    assert (later.ledger, later.counts, later.certificates) == (whole.ledger, whole.counts, whole.certificates)
    assert {log.origin: log.earlier for log in later.logs} == {ALICE_LOG: 1, BOB_LOG: 0, RUN_LOG: 10}
    assert any("rests on the earlier verification" in sentence for sentence in later.not_proven)
    assert any("compared here for 2 of 3 logs" in sentence for sentence in later.not_proven)
    assert any("every receipt after the earlier certificates signed" in sentence for sentence in later.proven)
    assert any("(--peers) or a certificate of an earlier" in sentence for sentence in whole.not_proven)


def test_only_signatures_above_the_earlier_certificates_are_checked_again(grown, monkeypatch):
    folder, since = grown
    checked = []
    verify = keys.verify

    def noted(public, message, signature):
        if b"receipt/v1" in message:
            checked.append(public)
        verify(public, message, signature)

    monkeypatch.setattr(keys, "verify", noted)
    verify_store(folder / "ledger.db", GENESIS, since=since)
    assert len(checked) == 2  # of six


def test_bytes_under_an_earlier_certificate_are_still_hashed_and_replayed(copy):
    file, since = copy
    flip(file, 7, 30)
    report = verify_store(file, GENESIS, since=since)
    assert [(fault.origin, fault.entry, fault.rule) for fault in report.faults] == [(RUN_LOG, 7, "leaf hash")]


def test_a_signature_forged_under_an_earlier_certificate_breaks_the_certified_root(copy):
    file, since = copy
    flip(file, 7, run_log(3)[7].encode().index(b'"signature":"') + 20, rehash=True)
    [fault] = verify_store(file, GENESIS, since=since).faults
    assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, None, "root of 15 entries")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_store_rolled_back_behind_the_certificate_is_found_only_so(grown, processes):
    folder, _ = grown
    since = since_of(verify_store(folder / "ledger.db", GENESIS))
    assert verify_store(folder / "before.db", GENESIS, processes=processes).ok
    report = verify_store(folder / "before.db", GENESIS, since=since, processes=processes)
    found = {fault.origin: (fault.rule, fault.got) for fault in report.faults}
    assert found == {
        ALICE_LOG: ("rollback: the certified size", "1"), RUN_LOG: ("rollback: the certified size", "10"),
        BOB_LOG: ("rollback: the log", "missing"),
    }  # fmt: skip
    assert (report.ok, report.certificates) == (False, b"")


def test_a_store_that_forked_from_the_certificate_is_found(grown, tmp_path):
    _, since = grown
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=5), Send(to=BOB.public, amount=6)], ALICE)
        certify(store, ALICE_LOG)
    assert verify_store(tmp_path / "ledger.db", GENESIS).ok
    report = verify_store(tmp_path / "ledger.db", GENESIS, since={ALICE_LOG: since[ALICE_LOG]})
    [fault] = report.faults
    assert (fault.origin, fault.rule) == (ALICE_LOG, "fork: root of 1 entries")
    assert "one of the two is a fork" in fault.wanted
    assert report.ledger.decided == {}  # what is in dispute counts for nothing


def test_what_is_no_certificate_of_this_network_is_refused(grown):
    folder, since = grown
    place = folder / "ledger.db"
    head = notes.sign_head(Checkpoint(origin=ALICE_LOG, size=1, root=bytes(32)), ALICE)
    with pytest.raises(QuorumMissing, match="cosigned by nobody, wanted 1 witnesses"):
        verify_store(place, GENESIS, since={ALICE_LOG: head})
    with pytest.raises(NoteInvalid, match="wanted that log with entries"):
        verify_store(place, GENESIS, since={BOB_LOG: since[ALICE_LOG]})
    with pytest.raises(NoteInvalid, match="not of this network"):
        verify_store(place, GENESIS, since={"elsewhere": since[ALICE_LOG]})


def fork_of(log, key):
    """Evidence that a key signed two heads of one size."""
    first, second = Tree([leaf_hash(b"one")]), Tree([leaf_hash(b"two")])
    heads = [notes.sign_head(Checkpoint(origin=log, size=1, root=tree.root()), key) for tree in (first, second)]
    return evidence.build(second, *heads), heads


def test_evidence_in_the_store_is_checked_and_freezes_the_log_but_changes_no_balance(copy):
    file, _ = copy
    before = verify_store(file, GENESIS)
    with Store.open(file, GENESIS) as store:
        assert store.add_evidence(fork_of(BOB_LOG, BOB)[0])
    report = verify_store(file, GENESIS)
    assert (report.ok, report.ledger) == (True, before.ledger)
    assert [log.origin for log in report.logs if log.frozen] == [BOB_LOG]


def test_evidence_that_proves_nothing_or_is_about_another_is_a_fault(copy):
    file, _ = copy
    with Store.open(file, GENESIS) as store:
        store.add_evidence(fork_of(BOB_LOG, BOB)[0])
    change(file, "UPDATE evidence SET culprit = ?", ALICE.public)
    [fault] = verify_store(file, GENESIS).faults
    assert (fault.origin, fault.rule, fault.wanted) == (BOB_LOG, "evidence", f"about this log by {ALICE.public}")
    change(file, "UPDATE evidence SET data = ?", b"{}")
    [fault] = verify_store(file, GENESIS, processes=2).faults
    assert (fault.origin, fault.rule) == (BOB_LOG, "evidence")


def test_witnesses_who_are_proven_to_have_split_are_told_of(copy):
    file, _ = copy
    heads = fork_of(BOB_LOG, BOB)[1]
    both = [notes.combine(head, [notes.cosign(head, "witness", WITNESS, NOW)]) for head in heads]
    split = evidence.build_split(Tree([leaf_hash(b"two")]), *both, GENESIS)
    connection = sqlite3.connect(file)
    query = "INSERT INTO evidence (log, culprit, data) SELECT id, 'witnesses', ? FROM log WHERE origin = ?"
    connection.execute(query, (split.encode(), BOB_LOG))
    connection.commit()
    connection.close()
    report = verify_store(file, GENESIS)
    assert report.ok
    assert [log.origin for log in report.logs if log.split] == [BOB_LOG]
    assert any("more than f = 0 witnesses cosigned" in sentence for sentence in report.not_proven)


def test_a_claim_that_waits_for_what_nobody_holds_is_pending(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        fill(store)
        store.append(BOB_LOG, [Recv(origin=ALICE_LOG, index=7, size=9, root="00" * 32)], BOB)
        certify(store, BOB_LOG)
    for processes in (1, 3):
        report = verify_store(tmp_path / "ledger.db", GENESIS, processes=processes)
        assert report.ok
        assert [str(item) for item in report.ledger.pendings] == [
            f"{BOB_LOG} entry 0: size is {ALICE_LOG} known up to 1, wanted up to 9"
        ]
