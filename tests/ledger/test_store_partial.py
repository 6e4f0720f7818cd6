"""Certified logs taken over piece by piece, each under a proof, in the memory of one piece."""

import itertools
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import notes
from ledger.entries import Begin, Close, Open, Seat, Send, run_id
from ledger.errors import Behind, Conflict, LedgerError, NoteInvalid
from ledger.evidence import verify, verify_split
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store import file as storefile
from ledger.store.database import Database
from ledger.store.store import Store
from ledger.verify.verify import verify_store
from ledger.witness import Witness

from .world import ALICE, ALICE_LOG, BOB, GENESIS, NOW, WITNESS, blob, spec_of


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as opened:
        yield opened


class Log:
    """A log somewhere else, with everything that can be asked of it."""

    def __init__(self, entries, origin=ALICE_LOG, key=ALICE):
        self.origin, self.key = origin, key
        self.data = [entry.encode() for entry in entries]
        self.tree = Tree(map(leaf_hash, self.data))

    @property
    def size(self):
        return self.tree.size

    def head(self, size=None):
        size = self.size if size is None else size
        return notes.sign_head(Checkpoint(origin=self.origin, size=size, root=self.tree.root(size)), self.key)

    def certificate(self, size=None):
        head = self.head(size)
        return notes.combine(head, [notes.cosign(head, "witness", WITNESS, NOW)])

    def give(self, store, start, end, size=None):
        """Have the store take over [start, end) under the certificate at `size`."""
        size = self.size if size is None else size
        proof = self.tree.consistency_proof(end, size) if 0 < end < size else [] if end < size else None
        store.accept(self.origin, start, self.data[start:end], self.certificate(size), proof)


def sends(*amounts):
    return [Send(to=BOB.public, amount=amount) for amount in amounts]


def test_pieces_are_kept_and_count_once_the_last_has_come(store):
    log = Log(sends(*range(1, 11)))
    for start, end in itertools.pairwise((0, 3, 4, 8, 10)):
        assert store.certified(ALICE_LOG) is None
        assert store.ledger().claimable == {}
        assert store.size(ALICE_LOG) == start
        log.give(store, start, end)
    assert store.certified(ALICE_LOG).size == 10
    assert store.ledger().claimable == {BOB.public: {ALICE_LOG: 55}}
    assert store.entries(ALICE_LOG, 0, 99) == log.data


def test_after_a_crash_it_goes_on_where_it_was(store, tmp_path):
    log = Log(sends(*range(1, 8)))
    log.give(store, 0, 4)
    store.close()  # what a killed process leaves, as every piece is one commit
    with Store.open(tmp_path / "ledger.db", GENESIS) as again:
        assert again.known(ALICE_LOG) == (4, 0, False)
        log.give(again, 2, 6)  # an overlap is fine
        log.give(again, 0, 3)  # and so is old news
        log.give(again, 6, 7)
        assert again.certified(ALICE_LOG).size == 7
        again.close()
    assert verify_store(tmp_path / "ledger.db", GENESIS).ok


def test_the_certificate_may_move_on_between_the_pieces(store):
    log = Log(sends(*range(1, 10)))
    log.give(store, 0, 2, 5)
    log.give(store, 2, 6, 9)
    log.give(store, 5, 5, 5)  # the older certificate is within what has come
    assert store.certified(ALICE_LOG).size == 5
    log.give(store, 6, 9)
    assert store.certified(ALICE_LOG).size == 9


@pytest.mark.parametrize("change", ["proof", "entry", "missing proof", "long proof", "other size"])
def test_a_piece_that_its_proof_does_not_fit_is_refused_whole(store, change):
    log = Log(sends(*range(1, 10)))
    data, proof = log.data[:5], log.tree.consistency_proof(5, 9)
    if change == "proof":
        proof[0] = bytes(32)
    elif change == "entry":
        data[2] = sends(99)[0].encode()
    elif change == "missing proof":
        proof = []
    elif change == "long proof":
        proof.append(bytes(32))
    else:
        proof = log.tree.consistency_proof(4, 9)
    with pytest.raises(Conflict):
        store.accept(ALICE_LOG, 0, data, log.certificate(), proof)
    assert store.origins() == []


def test_a_piece_needs_what_comes_before_it(store):
    log = Log(sends(*range(1, 10)))
    with pytest.raises(Behind) as caught:
        log.give(store, 3, 5)
    assert caught.value.size == 0
    with pytest.raises(Behind):
        store.accept(ALICE_LOG, 0, [], log.certificate(), [])
    with pytest.raises(NoteInvalid, match="not signed"):
        Log(sends(*range(1, 10)), key=BOB).give(store, 0, 5)


def test_what_was_proven_does_not_give_way_and_nothing_is_lost(store):
    log, other = Log(sends(1, 2, 3, 4, 5)), Log(sends(1, 2, 9, 9, 9))
    log.give(store, 0, 4)
    with pytest.raises(Conflict, match="entry 2"):
        other.give(store, 0, 4)
    with pytest.raises(Conflict):
        other.give(store, 4, 5)
    assert store.entries(ALICE_LOG, 0, 9) == log.data[:4]
    log.give(store, 4, 5)
    assert store.certified(ALICE_LOG).size == 5


def test_what_a_witness_cosigned_of_anothers_account_gives_way_to_a_certificate_and_the_owner_is_accused(store):
    witness = Witness(store, GENESIS, WITNESS, "witness")
    promised, certified = Log(sends(1, 2, 3)), Log(sends(1, 2, 4, 5, 6, 7))
    witness.cosign(ALICE_LOG, 0, promised.data, promised.head(), NOW)
    with pytest.raises(Behind) as caught:  # what lies above was never proven: it may be what is wrong
        certified.give(store, 3, 5)
    assert caught.value.size == 0
    certified.give(store, 0, 5)
    certified.give(store, 5, 6)
    assert store.entries(ALICE_LOG, 0, 9) == certified.data
    assert store.promised(ALICE_LOG) == promised.head()
    assert [verify(found, GENESIS.terms) for found in store.evidence(ALICE_LOG)] == [(ALICE_LOG, ALICE.public)]
    assert store.ledger().claimable == {BOB.public: {ALICE_LOG: 25}}  # the balances know nothing of it


def test_a_longer_promise_gives_way_too(store):
    witness = Witness(store, GENESIS, WITNESS, "witness")
    promised, certified = Log(sends(1, 2, 3, 4, 5, 6)), Log(sends(1, 9, 8))
    witness.cosign(ALICE_LOG, 0, promised.data, promised.head(), NOW)
    certified.give(store, 0, 2)
    assert len(store.evidence(ALICE_LOG)) == 1
    certified.give(store, 2, 3)
    assert store.entries(ALICE_LOG, 0, 9) == certified.data


def test_a_runs_uncertified_tail_gives_way_in_pieces(store):
    spec = spec_of(leaders=[ALICE.public, BOB.public])
    origin, begin = GENESIS.run_origin(run_id(spec)), Begin(spec=spec)
    rounds = [Open(round=1, state=blob("state"), roster=(Seat(BOB.public, 10 * n, 1),)) for n in range(5)]
    store.append(origin, [begin, *rounds[:3], Close(state=blob("state"), reason="ours")], ALICE)
    certified = Log([begin, *rounds, Close(state=blob("state"), reason="theirs")], origin, BOB)
    certified.give(store, 0, 3)
    assert store.size(origin) == 5  # nothing in the piece differed
    certified.give(store, 3, 5)
    certified.give(store, 5, 7)
    assert store.entries(origin, 0, 9) == certified.data
    assert store.rules(origin).closed


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3), (3, 2)])
def test_two_certificates_with_two_roots_are_both_kept_as_proof_against_the_witnesses(store, sizes):
    first, second = Log(sends(1, 2, 3)), Log(sends(1, 5, 6))
    first.give(store, 0, sizes[0], sizes[0])
    with pytest.raises(Conflict, match="certified with two roots"):
        second.give(store, 0, sizes[1], sizes[1])
    assert store.entries(ALICE_LOG, 0, 9) == first.data[: sizes[0]]
    found = store.evidence(ALICE_LOG)
    assert len(found) == 2  # the owner signed both, and the witness cosigned both
    assert verify(found[0], GENESIS.terms) == (ALICE_LOG, ALICE.public)
    assert verify_split(found[1], GENESIS) == (ALICE_LOG, ("witness",))


def test_two_leaders_certified_against_each_other_accuse_the_witnesses_alone(store):
    spec = spec_of(leaders=[ALICE.public, BOB.public])
    origin, begin = GENESIS.run_origin(run_id(spec)), Begin(spec=spec)
    ours = Log([begin, Close(state=blob("state"), reason="a")], origin)
    theirs = Log([begin, Close(state=blob("state"), reason="b")], origin, BOB)
    ours.give(store, 0, 2)
    with pytest.raises(Conflict, match="two roots"):
        theirs.give(store, 0, 2)
    assert [verify_split(found, GENESIS) for found in store.evidence(origin)] == [(origin, ("witness",))]


def memory_store():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    storefile.prepare(Path("memory"), connection, False, {"genesis": GENESIS.encode(), "instance": bytes(16)})
    return Store(Database(Path("memory"), connection, None), GENESIS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.data())
def test_any_pieces_in_any_order_lead_to_the_log_or_nowhere(sizes, data):
    log = Log(sends(*range(1, max(sizes) + 1)))
    with memory_store() as store:
        for _ in range(12):
            size = data.draw(st.sampled_from(sizes))
            start = data.draw(st.integers(0, size))
            end = data.draw(st.integers(start, size))
            try:
                log.give(store, start, end, size)
            except LedgerError:
                continue
        have, certified, _ = store.known(ALICE_LOG)
        assert store.entries(ALICE_LOG, 0, 99) == log.data[:have]
        log.give(store, min(have, max(sizes)), max(sizes), max(sizes))
        assert store.certified(ALICE_LOG).size == max(sizes) >= certified


class Killed(Exception):
    """The process died."""


@pytest.mark.parametrize("step", range(10))
def test_killed_at_either_side_of_any_commit_nothing_counts_twice_or_is_lost(tmp_path, monkeypatch, step):
    log, left = Log(sends(*range(1, 10))), step
    transaction = Database.transaction

    def pass_by():
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    @contextmanager
    def dying(self):
        with transaction(self):
            yield
            pass_by()
        pass_by()

    path = tmp_path / "ledger.db"
    Store.open(path, GENESIS, create=True).close()
    monkeypatch.setattr(Database, "transaction", dying)
    with Store.open(path, GENESIS) as store, suppress(Killed):
        for start, end in itertools.pairwise((0, 2, 3, 6, 8, 9)):
            log.give(store, start, end)
    monkeypatch.undo()
    with Store.open(path, GENESIS) as store:
        have, certified, _ = store.known(ALICE_LOG)
        assert (certified, store.entries(ALICE_LOG, 0, 9)) == (9 if have == 9 else 0, log.data[:have])
        assert have == (0, 2, 3, 6, 8, 9)[(step + 1) // 2]
        log.give(store, have, 9)
        assert store.ledger().claimable == {BOB.public: {ALICE_LOG: 45}}
