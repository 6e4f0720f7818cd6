"""Own logs after a restored backup, or a key used twice: what is noticed, refused and recovered."""

import shutil

import pytest

from ledger import notes
from ledger.entries import Close, Send
from ledger.errors import Behind, Conflict, EntryInvalid, Frozen, NoteInvalid, SelfFork
from ledger.evidence import verify
from ledger.notes import Checkpoint
from ledger.store.store import Store

from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, GENESIS, RUN_LOG, blob, certify, fill, root_of, run_log


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as opened:
        yield opened


def sends(*amounts):
    return [Send(to=BOB.public, amount=amount) for amount in amounts]


def data_of(log):
    return [entry.encode() for entry in log]


def head_of(log, origin=ALICE_LOG, key=ALICE):
    return notes.sign_head(Checkpoint(origin=origin, size=len(log), root=bytes.fromhex(root_of(log))), key)


def test_our_own_head_elsewhere_may_lag_but_neither_lead_nor_contradict(store):
    store.append(ALICE_LOG, sends(1, 2, 3), ALICE)
    for log in (sends(1), sends(1, 2, 3)):
        store.check_own_head(ALICE_LOG, head_of(log), ALICE.public)
    with pytest.raises(SelfFork, match="our key signed 4 entries elsewhere, 3 are here") as caught:
        store.check_own_head(ALICE_LOG, head_of(sends(1, 2, 3, 4)), ALICE.public)
    assert caught.value.size == 4
    with pytest.raises(SelfFork, match="others are here"):
        store.check_own_head(ALICE_LOG, head_of(sends(1, 9)), ALICE.public)
    with pytest.raises(NoteInvalid):
        store.check_own_head(ALICE_LOG, head_of(sends(1, 2, 3, 4), key=BOB), ALICE.public)
    with pytest.raises(NoteInvalid):
        store.check_own_head(BOB_LOG, head_of(sends(1)), ALICE.public)


def test_a_head_at_a_smaller_size_is_of_what_was_signed(store):
    with pytest.raises(SelfFork):
        store.head_at(ALICE_LOG, 1, ALICE)
    store.append(ALICE_LOG, sends(1, 2, 3), ALICE)
    assert store.head_at(ALICE_LOG, 2, ALICE) == head_of(sends(1, 2))
    assert store.head_at(ALICE_LOG, 3, ALICE) == store.head(ALICE_LOG)
    for size, key in ((0, ALICE), (4, ALICE), (2, BOB)):
        with pytest.raises(SelfFork):
            store.head_at(ALICE_LOG, size, key)


def test_a_log_that_is_ahead_elsewhere_is_not_appended_to_until_it_is_recovered(store):
    store.append(ALICE_LOG, sends(1, 2), ALICE)
    before, whole = store.head(ALICE_LOG), sends(1, 2, 3, 4)
    with pytest.raises(SelfFork):
        store.check_own_head(ALICE_LOG, head_of(whole), ALICE.public)
    for entries in (sends(9), []):
        with pytest.raises(SelfFork):
            store.append(ALICE_LOG, entries, ALICE)
    assert (store.size(ALICE_LOG), store.head(ALICE_LOG)) == (2, before)
    assert store.recover(ALICE_LOG, 1, data_of(whole[1:]), head_of(whole), ALICE.public) == 2
    assert store.head(ALICE_LOG) == head_of(whole)
    store.append(ALICE_LOG, sends(5), ALICE)
    assert store.entries(ALICE_LOG, 0, 9) == data_of(sends(1, 2, 3, 4, 5))


def test_a_restored_backup_recovers_all_that_was_signed_since(store, tmp_path):
    store.append(ALICE_LOG, sends(1, 2), ALICE)
    certify(store, ALICE_LOG)
    store.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "backup.db")
    with Store.open(tmp_path / "ledger.db", GENESIS) as newer:
        newer.append(ALICE_LOG, sends(3, 4), ALICE)
        certify(newer, ALICE_LOG)
        head = newer.append(ALICE_LOG, sends(5), ALICE)
        entries, certificate = newer.entries(ALICE_LOG, 0, 9), newer.certified(ALICE_LOG)
    with Store.open(tmp_path / "backup.db", GENESIS) as restored:
        with pytest.raises(SelfFork):
            restored.check_own_head(ALICE_LOG, head, ALICE.public)
        assert restored.recover(ALICE_LOG, 2, entries[2:], head, ALICE.public) == 3
        restored.certify(ALICE_LOG, certificate.note)
        assert restored.recover(ALICE_LOG, 2, entries[2:], head, ALICE.public) == 0
        assert restored.head(ALICE_LOG) == head


def test_certified_entries_of_our_own_log_are_taken_over_like_anybodys(store, tmp_path):
    store.append(ALICE_LOG, sends(1, 2), ALICE)
    with Store.open(tmp_path / "other.db", GENESIS, create=True) as other:
        other.append(ALICE_LOG, sends(1, 2, 3), ALICE)
        store.accept(ALICE_LOG, 2, data_of(sends(3)), certify(other, ALICE_LOG))
    store.append(ALICE_LOG, sends(4), ALICE)
    assert store.size(ALICE_LOG) == 4


def test_a_real_fork_is_not_recovered_but_kept_as_proof_against_ourselves(store):
    store.append(ALICE_LOG, sends(1, 2), ALICE)
    elsewhere = sends(1, 7, 8)
    with pytest.raises(Conflict, match="entry 1"):
        store.recover(ALICE_LOG, 0, data_of(elsewhere), head_of(elsewhere), ALICE.public)
    assert store.entries(ALICE_LOG, 0, 9) == data_of(sends(1, 2))
    assert [verify(found, GENESIS.terms) for found in store.evidence(ALICE_LOG)] == [(ALICE_LOG, ALICE.public)]
    with pytest.raises(Frozen):
        store.append(ALICE_LOG, sends(3), ALICE)


def test_what_was_stored_and_never_signed_gives_way(store, tmp_path, monkeypatch):
    store.append(ALICE_LOG, sends(1), ALICE)
    monkeypatch.setattr(notes, "sign_head", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # stands for a crash between the two commits
        store.append(ALICE_LOG, sends(2), ALICE)
    monkeypatch.undo()
    whole = sends(1, 5, 6)
    assert store.recover(ALICE_LOG, 0, data_of(whole), head_of(whole), ALICE.public) == 2
    assert store.entries(ALICE_LOG, 0, 9) == data_of(whole)


def test_a_log_of_which_nothing_is_left_is_recovered_whole(store):
    whole = run_log(1)
    with pytest.raises(Behind):
        store.recover(RUN_LOG, 2, data_of(whole[2:]), head_of(whole, RUN_LOG), ALICE.public)
    with pytest.raises(NoteInvalid):
        store.recover(RUN_LOG, 0, data_of(whole), head_of(whole, RUN_LOG, BOB), BOB.public)
    with pytest.raises(EntryInvalid):
        store.recover(RUN_LOG, 0, data_of([*whole, whole[0]]), head_of([*whole, whole[0]], RUN_LOG), ALICE.public)
    assert store.origins() == []
    assert store.recover(RUN_LOG, 0, data_of(whole), head_of(whole, RUN_LOG), ALICE.public) == 6
    store.append(RUN_LOG, [Close(state=blob("after 1"), reason="")], ALICE)
    assert certify(store, RUN_LOG)


def test_our_own_head_is_looked_up_in_a_log_that_is_not_here(store):
    with pytest.raises(SelfFork, match="0 are here"):
        store.check_own_head(ALICE_LOG, head_of(sends(1)), ALICE.public)
    with pytest.raises(SelfFork):
        store.append(ALICE_LOG, sends(1), ALICE)
    assert store.origins() == []


def test_a_replayed_run_has_the_same_rules_as_one_that_grew(store, tmp_path):
    for rounds, close in ((0, False), (1, False), (3, False), (3, True)):
        path = tmp_path / f"{rounds}{close}.db"
        log = run_log(rounds, close)
        for upto in range(1, len(log) + 1):
            with Store.open(path, GENESIS, create=True) as grown:
                grown.append(RUN_LOG, log[grown.size(RUN_LOG) : upto], ALICE)
                wanted = vars(grown.rules(RUN_LOG))
            with Store.open(path, GENESIS) as again:
                assert vars(again.rules(RUN_LOG)) == wanted
    fill(store)
    assert vars(store.rules(ALICE_LOG))["size"] == 1
