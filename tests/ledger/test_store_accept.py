"""The store as a replica: what it takes over from others, what it refuses."""

import pytest

from ledger import notes
from ledger.entries import Begin, Close, Open, Seat, Send, run_id
from ledger.errors import Behind, Conflict, NoteInvalid, QuorumMissing, SelfFork
from ledger.genesis import Genesis
from ledger.notes import Checkpoint
from ledger.store.store import Store

from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    GENESIS,
    NOW,
    RUN_LOG,
    WITNESS,
    blob,
    certify,
    fill,
    fund,
    key_of,
    root_of,
    run_log,
    spec_of,
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
    longer = [send(2), send(3)]
    with pytest.raises(Conflict, match="at 1: certified with two roots"):
        other.accept(ALICE_LOG, 0, data_of(longer), certificate_of(ALICE_LOG, longer))
    with pytest.raises(Conflict, match="entry 0 is another"):
        other.accept(ALICE_LOG, 0, data_of(longer), certificate_of(ALICE_LOG, [send(1), send(3)]))
    assert other.entries(ALICE_LOG, 0, 9) == data_of([send(1)])


def test_an_account_that_was_continued_elsewhere_does_not_sign_on(store):
    store.append(ALICE_LOG, [send(1)], ALICE)
    elsewhere = [send(2), send(3)]
    with pytest.raises(SelfFork, match="backup") as caught:
        store.accept(ALICE_LOG, 0, data_of(elsewhere), certificate_of(ALICE_LOG, elsewhere))
    assert (caught.value.size, store.entries(ALICE_LOG, 0, 9)) == (2, data_of([send(1)]))
    with pytest.raises(SelfFork):
        store.certify(ALICE_LOG, certificate_of(ALICE_LOG, elsewhere[:1]))


def test_a_deposed_leaders_uncertified_tail_gives_way_and_its_key_signs_no_more(store):
    spec = spec_of(leaders=[ALICE.public, BOB.public])
    origin, begin = GENESIS.run_origin(run_id(spec)), Begin(spec=spec)
    store.append(origin, [begin], ALICE)
    certify(store, origin)
    tail = Open(round=1, state=blob("state"), roster=(Seat(BOB.public, 20, 5),))
    store.append(origin, [tail], ALICE)
    theirs = [begin, Close(state=blob("state"), reason="")]
    certificate = certificate_of(origin, theirs, key=BOB)
    with pytest.raises(Behind) as caught:
        store.certify(origin, certificate)
    assert caught.value.size == 1
    store.accept(origin, 1, data_of(theirs[1:]), certificate)
    assert store.entries(origin, 0, 99) == data_of(theirs)
    assert store.rules(origin).closed
    assert store.ledger().runs[run_id(spec)].closed
    with pytest.raises(SelfFork, match="another leader must go on"):
        store.append(origin, [], ALICE)
    with pytest.raises(SelfFork, match="wanted ours from 2 entries on"):
        store.head_at(origin, 2, ALICE)  # what a witness is sent in parts must be what the key signed as a whole
    store.append(origin, [], BOB)


def test_a_tail_of_ours_does_not_give_way_to_what_our_own_key_signed_elsewhere(store):
    fill(store, rounds=1)
    store.append(RUN_LOG, [Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 20, 5),))], ALICE)
    theirs = [*run_log(1), Close(state=blob("after 1"), reason="")]
    for log in (theirs, [*run_log(1), Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 20, 6),))]):
        with pytest.raises(SelfFork):
            store.accept(RUN_LOG, 6, data_of(log[6:]), certificate_of(RUN_LOG, log))
    assert store.size(RUN_LOG) == 7


def test_entries_that_were_stored_and_never_signed_give_way(store, monkeypatch):
    fill(store, rounds=1)
    monkeypatch.setattr(notes, "sign_head", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # stands for a crash between the two commits
        store.append(ALICE_LOG, [send(7)], ALICE)
    monkeypatch.undo()
    log = [*fund(), send(8)]
    store.accept(ALICE_LOG, 1, data_of(log[1:]), certificate_of(ALICE_LOG, log))
    assert store.entries(ALICE_LOG, 0, 9) == data_of(log)
