"""The witness: what it cosigns, what never."""

import pytest

from ledger import notes
from ledger.entries import Begin, Close, Send, run_id
from ledger.errors import Behind, Conflict, EntryInvalid, Frozen, KeyInvalid, NoteInvalid
from ledger.evidence import verify
from ledger.notes import Checkpoint
from ledger.store import logs
from ledger.store.store import Store
from ledger.verify.verify import verify_store
from ledger.witness import Witness

from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    GENESIS,
    NOW,
    RUN_LOG,
    WITNESS,
    blob,
    certify,
    fill,
    key_of,
    root_of,
    run_log,
    spec_of,
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "witness.db", GENESIS, create=True) as opened:
        yield opened


@pytest.fixture
def witness(store):
    return Witness(store, GENESIS, WITNESS, "witness")


def sends(*amounts):
    return [Send(to=BOB.public, amount=amount) for amount in amounts]


def head_of(log, origin=ALICE_LOG, key=ALICE):
    return notes.sign_head(Checkpoint(origin=origin, size=len(log), root=bytes.fromhex(root_of(log))), key)


def cosign(witness, log, start=0, origin=ALICE_LOG, key=ALICE):
    return witness.cosign(origin, start, [entry.encode() for entry in log[start:]], head_of(log, origin, key), NOW)


def test_a_good_head_is_cosigned_and_its_entries_kept(store, witness):
    line = cosign(witness, sends(1, 2))
    note = notes.parse(notes.combine(head_of(sends(1, 2)), [line]))
    assert notes.cosigned_at(note, "witness", WITNESS.public) == NOW
    assert store.size(ALICE_LOG) == 2
    assert store.certified(ALICE_LOG) is None  # one line may not be a quorum: the certificate comes apart
    assert store.head(ALICE_LOG) == head_of(sends(1, 2))


def test_it_goes_on_from_what_it_knows(witness):
    cosign(witness, sends(1, 2))
    cosign(witness, sends(1, 2, 3), start=2)
    cosign(witness, sends(1, 2, 3, 4), start=1)


def test_it_asks_for_what_it_misses(witness):
    with pytest.raises(Behind) as caught:
        cosign(witness, sends(1, 2), start=1)
    assert caught.value.size == 0


def test_asking_twice_and_asking_for_an_older_head_is_harmless(store, witness):
    line = cosign(witness, sends(1, 2))
    assert cosign(witness, sends(1, 2)) == line
    cosign(witness, sends(1))
    cosign(witness, sends(1, 2, 3), start=2)
    assert store.size(ALICE_LOG) == 3


@pytest.mark.parametrize(("first", "second"), [
    ((1, 2), (1, 3)), ((1, 2), (9, 8, 7)), ((1, 2, 3), (1, 9)), ((1,), (2, 3)),
])  # fmt: skip
def test_two_contradicting_heads_are_never_both_cosigned_and_are_kept_as_proof(store, witness, first, second):
    cosign(witness, sends(*first))
    with pytest.raises(Conflict):
        cosign(witness, sends(*second))
    [found] = store.evidence(ALICE_LOG)
    assert verify(found, GENESIS.terms) == (ALICE_LOG, ALICE.public)
    assert {found.first, found.second} == {head_of(sends(*first)), head_of(sends(*second))}
    with pytest.raises(Frozen):
        cosign(witness, sends(*first, 5))


def test_a_head_that_is_not_of_the_entries_given_proves_nothing(store, witness):
    cosign(witness, sends(1, 2))
    with pytest.raises(Conflict):
        witness.cosign(ALICE_LOG, 2, [sends(9)[0].encode()], head_of(sends(1, 2, 3)), NOW)
    assert store.evidence(ALICE_LOG) == []
    cosign(witness, sends(1, 2, 3), start=2)


def test_the_promise_holds_after_a_restart(store, witness, tmp_path):
    cosign(witness, sends(1, 2))
    store.close()
    with Store.open(tmp_path / "witness.db", GENESIS) as again, pytest.raises(Conflict):
        cosign(Witness(again, GENESIS, WITNESS, "witness"), sends(1, 3))


def test_a_promise_is_compared_when_it_is_set(store):
    fill(store)
    row = store._logs.get(ALICE_LOG).row
    promised = store._db.head("promise", row)
    stale = promised._replace(root=bytes(32))
    with pytest.raises(Conflict, match="meanwhile"), store._db.transaction():
        store._db.swap_promise(row, stale, promised)
    with pytest.raises(Conflict, match="meanwhile"), store._db.transaction():
        store._db.swap_promise(row, None, promised)
    assert store._db.head("promise", row) == promised


def test_invalid_entries_and_foreign_heads_are_refused(store, witness):
    with pytest.raises(NoteInvalid, match="not signed"):
        cosign(witness, sends(1), key=BOB)
    with pytest.raises(EntryInvalid):
        cosign(witness, run_log(1)[:1] * 2, origin=RUN_LOG)
    with pytest.raises(EntryInvalid):
        witness.cosign(ALICE_LOG, 0, [b"{ }"], head_of(sends(1)), NOW)
    empty = notes.sign_head(Checkpoint(origin=ALICE_LOG, size=0, root=bytes(32)), ALICE)
    with pytest.raises(NoteInvalid):
        witness.cosign(ALICE_LOG, 0, [], empty, NOW)
    assert store.origins() == []


def test_only_a_named_witness_may_be_one(store):
    with pytest.raises(KeyInvalid, match="not in the genesis"):
        Witness(store, GENESIS, BOB, "witness")
    with pytest.raises(KeyInvalid, match="not in the genesis"):
        Witness(store, GENESIS, WITNESS, "other")


def test_it_cosigns_the_logs_of_its_own_store(store):
    fill(store)
    store.append(ALICE_LOG, sends(1), ALICE)
    certify(store, ALICE_LOG)
    assert store.certified(ALICE_LOG).size == 2


def test_what_was_promised_is_remembered_against_a_certificate_that_went_another_way(store, witness):
    spec = spec_of(leaders=[ALICE.public, BOB.public])
    origin, begin, state = GENESIS.run_origin(run_id(spec)), Begin(spec=spec), blob("state")
    closing, other = [begin, Close(state=state, reason="")], [begin, Close(state=state, reason="another")]
    cosign(witness, closing, origin=origin)
    head = head_of(other, origin, BOB)
    certificate = notes.combine(head, [notes.cosign(head, "witness", WITNESS, NOW)])
    store.accept(origin, 0, [entry.encode() for entry in other], certificate)  # a quorum outvoted this witness
    assert store.entries(origin, 0, 9) == [entry.encode() for entry in other]
    with pytest.raises(Conflict, match="promised at 2"):
        cosign(witness, other, origin=origin, key=BOB)
    assert store.evidence(origin) == []  # two leaders signed, each one head
    assert store.promised(origin) == head_of(closing, origin)
    assert verify_store(store._db.path, GENESIS).ok


def test_a_certificate_that_contradicts_the_promise_by_the_same_key_is_kept_as_proof(store, witness):
    closing, other = run_log(1, close=True), run_log(2)
    cosign(witness, closing, origin=RUN_LOG)
    head = head_of(other, RUN_LOG)
    certificate = notes.combine(head, [notes.cosign(head, "witness", WITNESS, NOW)])
    store.accept(RUN_LOG, 0, [entry.encode() for entry in other], certificate)
    assert [verify(found, GENESIS.terms) for found in store.evidence(RUN_LOG)] == [(RUN_LOG, ALICE.public)]
    with pytest.raises(Frozen):
        cosign(witness, other, origin=RUN_LOG)
    assert store.certified(RUN_LOG).size == len(other)


@pytest.mark.parametrize("now_s", [-(2**40), -1, 0, 1, NOW - 31_536_000, 4_102_444_800, 2**63 - 1, 2**63, 2**64, 2**70])
def test_a_wrong_clock_makes_valid_cosignatures_all_the_same(store, witness, tmp_path, now_s):
    head = head_of(sends(1, 2))
    entries = [entry.encode() for entry in sends(1, 2)]
    line = witness.cosign(ALICE_LOG, 0, entries, head, now_s)
    certificate = notes.combine(head, [line])
    assert notes.cosigned_at(notes.parse(certificate), "witness", WITNESS.public) == min(max(now_s, 1), 2**63 - 1)
    with Store.open(tmp_path / "other.db", GENESIS, create=True) as other:
        for replica in (store, other):
            replica.accept(ALICE_LOG, 0, entries, certificate)
        assert other.ledger() == store.ledger()
    assert GENESIS.cosigners(notes.parse(certificate)) == ["witness"]


def test_certificates_that_differ_in_their_times_mean_the_same(store, witness, tmp_path):
    head = head_of(sends(1))
    early, late = (witness.cosign(ALICE_LOG, 0, [sends(1)[0].encode()], head, now_s) for now_s in (NOW, 1))
    store.certify(ALICE_LOG, notes.combine(head, [early]))
    before = store.ledger()
    store.certify(ALICE_LOG, notes.combine(head, [late]))  # a clock that was set back says nothing
    assert store.ledger() == before
    assert store.changes(0).heads == ((ALICE_LOG, 1),)


def test_a_time_that_no_reader_of_notes_takes_is_no_cosignature(store):
    head, time_s = head_of(sends(1)), 2**63
    signature = WITNESS.sign(f"cosignature/v1\ntime {time_s}\n{notes.parse(head).text}".encode())
    blob = time_s.to_bytes(8, "big") + signature
    line = notes.Signature(name="witness", key_id=notes.witness_key_id("witness", WITNESS.public), blob=blob).line()
    with pytest.raises(NoteInvalid, match="above 2"):
        store.accept(ALICE_LOG, 0, [sends(1)[0].encode()], notes.combine(head, [line]))


def test_strangers_keep_nothing_of_a_witness_busy(store, witness):
    fill(store)
    before = len(store._logs._logs)
    for number in range(20):
        origin = GENESIS.origin(key_of(f"stranger {number}").public)
        with pytest.raises(NoteInvalid):
            witness.cosign(origin, 0, [sends(1)[0].encode()], head_of(sends(1), origin), NOW)
        assert (store.promised(origin), store.size(origin)) == (None, 0)
    assert len(store._logs._logs) == before


def test_logs_that_were_not_used_for_long_leave_memory_and_nothing_else(store, witness, monkeypatch):
    monkeypatch.setattr(logs, "MAX_HELD", 250)
    keys = [key_of(f"member {number}") for number in range(5)]
    for log in (sends(1), sends(1, 2), sends(1, 2, 3)):
        for key in keys:
            cosign(witness, log, start=len(log) - 1, origin=GENESIS.origin(key.public), key=key)
        held = store._logs._logs.values()
        assert (len(held), store._logs._held) == (3, sum(log.held for log in held))
    for key in keys:
        with pytest.raises(Conflict):
            cosign(witness, sends(1, 9), origin=GENESIS.origin(key.public), key=key)
