"""What a store tells of itself: changes since a cursor, prefixes, promises, evidence that was brought to it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import notes
from ledger.entries import Send
from ledger.errors import Behind, EvidenceInvalid, Frozen, LedgerError
from ledger.evidence import build, build_split
from ledger.fold.fold import fold
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Changes, Store
from ledger.witness import Witness

from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, CAROL, GENESIS, NOW, RUN_LOG, WITNESS, certify, fill, key_of

CAROL_LOG = GENESIS.origin(CAROL.public)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as opened:
        yield opened


def send(amount=1):
    return Send(to=BOB.public, amount=amount)


def tree_of(*amounts):
    return Tree([leaf_hash(send(amount).encode()) for amount in amounts])


def head_of(tree, key=ALICE, origin=None):
    origin = origin or GENESIS.origin(key.public)
    return notes.sign_head(Checkpoint(origin=origin, size=tree.size, root=tree.root()), key)


def fork_of(key=ALICE, last=3):
    one, two = tree_of(1, 2), tree_of(1, last, 4)
    return build(two, head_of(one, key), head_of(two, key))


def grow(store, origin, key, amount=1):
    store.append(origin, [send(amount)], key)
    certify(store, origin)


def test_changes_are_told_once_the_oldest_first_and_the_last_of_each_log_only(store):
    assert store.changes(0) == Changes(cursor=0, heads=(), evidence=())
    for origin, key in ((ALICE_LOG, ALICE), (CAROL_LOG, CAROL), (ALICE_LOG, ALICE)):
        grow(store, origin, key)
    first = store.changes(0)
    assert (first.heads, first.evidence) == (((CAROL_LOG, 1), (ALICE_LOG, 2)), ())
    assert store.changes(first.cursor) == Changes(cursor=first.cursor, heads=(), evidence=())
    store.append(ALICE_LOG, [send()], ALICE)
    assert store.changes(first.cursor).heads == ()  # not certified
    assert store.add_evidence(fork_of(CAROL))
    second = store.changes(first.cursor)
    assert (second.heads, second.evidence) == ((), (CAROL_LOG,))
    assert store.changes(0).heads == first.heads


def test_changes_come_in_pages(store):
    keys = [key_of(f"member {number}") for number in range(5)]
    for key in keys:
        grow(store, GENESIS.origin(key.public), key)
    cursor, seen = 0, []
    while (page := store.changes(cursor, limit=2)).heads:
        assert len(page.heads) <= 2
        cursor, seen = page.cursor, [*seen, *page.heads]
    assert seen == [(GENESIS.origin(key.public), 1) for key in keys]


def test_a_cursor_that_was_never_reached_counts_as_the_beginning(store):
    grow(store, ALICE_LOG, ALICE)
    for cursor in (99, -1):
        assert store.changes(cursor).heads == ((ALICE_LOG, 1),)


def test_cursors_and_the_name_of_the_store_outlive_the_process(store, tmp_path):
    grow(store, ALICE_LOG, ALICE)
    instance, cursor = store.instance(), store.changes(0).cursor
    store.close()
    with Store.open(tmp_path / "ledger.db", GENESIS) as again:
        assert again.instance() == instance
        assert bytes.fromhex(instance) != bytes(16)
        assert again.changes(cursor).heads == ()
        grow(again, ALICE_LOG, ALICE)
        assert again.changes(cursor).cursor > cursor
    with Store.open(tmp_path / "other.db", GENESIS, create=True) as other:
        assert other.instance() != instance


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from([ALICE, BOB, CAROL, "ask"]), max_size=12))
def test_whoever_follows_the_changes_knows_every_head(tmp_path_factory, steps):
    follower, cursor = {}, 0
    with Store.open(tmp_path_factory.mktemp("changes") / "ledger.db", GENESIS, create=True) as store:
        for step in [*steps, "ask"]:
            if step == "ask":
                page = store.changes(cursor)
                assert page.cursor >= cursor
                cursor, follower = page.cursor, {**follower, **dict(page.heads)}
            else:
                grow(store, GENESIS.origin(step.public), step)
        assert follower == {origin: store.certified(origin).size for origin in store.origins()}


def test_prefixes_are_what_the_balances_follow_from(store):
    fill(store)
    store.append(ALICE_LOG, [send()], ALICE)
    prefixes = store.prefixes()
    assert {origin: len(entries) for origin, entries in prefixes.items()} == {ALICE_LOG: 1, RUN_LOG: 10}
    assert fold(prefixes, GENESIS.terms) == store.ledger()
    assert store.known(ALICE_LOG) == (2, 1, False)
    assert store.known(BOB_LOG) == (0, 0, False)


def test_what_a_witness_promised_can_be_read(store):
    assert store.promised(ALICE_LOG) is None
    head = store.append(ALICE_LOG, [send()], ALICE)
    assert store.promised(ALICE_LOG) is None
    Witness(store, GENESIS, WITNESS, "witness").cosign(ALICE_LOG, 1, [], head, NOW)
    assert store.promised(ALICE_LOG) == head


def test_evidence_that_is_brought_freezes_the_log_and_changes_no_balance(store):
    grow(store, ALICE_LOG, ALICE)
    before = store.ledger()
    assert store.add_evidence(fork_of())
    assert not store.add_evidence(fork_of())
    assert not store.add_evidence(fork_of(last=9))  # one proof of each writer is enough
    assert store.evidence(ALICE_LOG) == [fork_of()]
    assert store.known(ALICE_LOG)[2]
    for call in (
        lambda: store.append(ALICE_LOG, [send()], ALICE),
        lambda: store.append(ALICE_LOG, [], ALICE),
        lambda: Witness(store, GENESIS, WITNESS, "witness").cosign(ALICE_LOG, 1, [], store.head(ALICE_LOG), NOW),
    ):
        with pytest.raises(Frozen):
            call()
    assert store.ledger() == before
    grow(store, CAROL_LOG, CAROL)  # no other log is


def test_certified_entries_of_a_frozen_log_are_still_taken_over_and_count(store, tmp_path):
    with Store.open(tmp_path / "other.db", GENESIS, create=True) as other:
        grow(other, ALICE_LOG, ALICE, 7)
        assert store.add_evidence(fork_of())
        store.accept(ALICE_LOG, 0, other.entries(ALICE_LOG, 0, 1), other.certified(ALICE_LOG).note)
        assert store.ledger() == other.ledger()
        assert store.ledger().claimable == {BOB.public: {ALICE_LOG: 7}}


def test_evidence_outlives_the_process(store, tmp_path):
    store.add_evidence(fork_of())
    store.close()
    with Store.open(tmp_path / "ledger.db", GENESIS) as again:
        assert again.evidence(ALICE_LOG) == [fork_of()]
        with pytest.raises(Frozen):
            again.append(ALICE_LOG, [send()], ALICE)


def test_evidence_about_a_log_that_nobody_refers_to_is_not_kept(store):
    stranger = key_of("stranger")
    assert not store.add_evidence(fork_of(stranger))
    assert store.origins() == []
    store.append(ALICE_LOG, [Send(to=stranger.public, amount=1)], ALICE)
    certify(store, ALICE_LOG)
    assert store.add_evidence(fork_of(stranger))


def test_evidence_that_proves_nothing_is_refused(store):
    another = Genesis.create(name="another", witnesses=[("w", WITNESS.public)])
    one, two = tree_of(1), tree_of(2)
    heads = [head_of(tree, ALICE, another.origin(ALICE.public)) for tree in (one, two)]
    with pytest.raises(EvidenceInvalid, match="origin"):
        store.add_evidence(build(two, *heads))
    cosigned = [notes.combine(head_of(tree), [notes.cosign(head_of(tree), "witness", BOB, NOW)]) for tree in (one, two)]
    with pytest.raises(EvidenceInvalid):
        store.add_evidence(build_split(two, *cosigned, GENESIS))
    assert store.evidence(ALICE_LOG) == []


def test_a_log_that_cannot_be_is_no_key_error(store):
    for call in (store.known, store.promised, store.evidence, lambda origin: store.entries(origin, 0, 1)):
        for origin in ("", "x", GENESIS.id, ALICE_LOG.upper()):
            try:
                assert not call(origin)
            except LedgerError:
                continue
    with pytest.raises(Behind):
        store.inclusion(ALICE_LOG, 0)
