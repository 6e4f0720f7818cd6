"""Structure: entries in another order, too many, too few, twice; proofs of another length or place."""

from dataclasses import replace

import pytest

from ledger import merkle, notes, proof
from ledger.entries import Send
from ledger.errors import Behind, Conflict, EntryInvalid, ProofInvalid, QuorumMissing, StoreUnreadable
from ledger.merkle import leaf_hash
from ledger.store.store import Store

from .kit import ALICE, ALICE_LOG, BOB, BOB_LOG, DATA, GENESIS, LOGS, RUN_LOG, certificate, head, receipt

SIZE = len(DATA[RUN_LOG])


class TestReorder:
    """Two entries change places."""

    @pytest.mark.parametrize("index", range(SIZE - 1))
    def test_without_their_hashes_the_first_is_named(self, ledger, index):
        ledger.set(RUN_LOG, index, DATA[RUN_LOG][index + 1])
        ledger.set(RUN_LOG, index + 1, DATA[RUN_LOG][index])
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, index, "leaf hash")

    @pytest.mark.parametrize(("index", "entry", "rule"), [
        (0, 0, "order"), (1, None, f"root of {SIZE} entries"), (2, None, f"root of {SIZE} entries"),
        (3, 3, "round"), (4, None, f"root of {SIZE} entries"), (5, 5, "receipts"), (6, 6, "round"),
    ])  # fmt: skip
    def test_with_their_hashes_the_rules_or_the_root_tell(self, ledger, index, entry, rule):
        log = list(DATA[RUN_LOG])
        log[index], log[index + 1] = log[index + 1], log[index]
        ledger.write(RUN_LOG, log)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, entry, rule)

    def test_no_replica_takes_it(self, replica):
        first, second, *rest = DATA[ALICE_LOG]
        with pytest.raises(Conflict, match="root"):
            replica.accept(ALICE_LOG, 0, [second, first, *rest], certificate(ALICE_LOG, DATA[ALICE_LOG]))


class TestInsert:
    """An entry that was not there is slipped in."""

    @pytest.mark.parametrize("index", range(4))
    def test_anywhere_the_certified_root_tells(self, ledger, replica, index):
        log = list(DATA[ALICE_LOG])
        log.insert(index, Send(to=BOB.public, amount=7).encode())
        ledger.write(ALICE_LOG, log)
        if index == len(DATA[ALICE_LOG]):  # behind all that is certified it counts for nothing
            assert ledger.sound().ledger.decided[ALICE_LOG] == 3
            return
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (ALICE_LOG, "root of 3 entries")
        with pytest.raises(Conflict, match="root"):
            replica.accept(ALICE_LOG, 0, log, certificate(ALICE_LOG, DATA[ALICE_LOG]))

    def test_a_second_receipt_of_a_member_is_named_even_when_all_signed_it(self, ledger, replica):
        log = [*LOGS[RUN_LOG][:6], receipt(BOB, 1, 10, 2), *LOGS[RUN_LOG][6:]]
        ledger.forge(RUN_LOG, log)
        assert (ledger.fault().entry, ledger.fault().rule) == (6, "slots")
        with pytest.raises(EntryInvalid) as caught:
            replica.accept(RUN_LOG, 0, [item.encode() for item in log], certificate(RUN_LOG, log))
        assert (caught.value.index, caught.value.rule) == (6, "slots")


class TestDelete:
    """An entry is taken out."""

    @pytest.mark.parametrize("index", range(SIZE - 1))
    def test_a_gap_is_named(self, ledger, index):
        ledger.sql("DELETE FROM entry WHERE log = ? AND idx = ?", ledger.row(RUN_LOG), index)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.got) == (RUN_LOG, index, "missing")

    @pytest.mark.parametrize("index", range(SIZE))
    def test_a_closed_gap_is_named_by_the_rules_or_the_root(self, ledger, index):
        ledger.write(RUN_LOG, DATA[RUN_LOG][:index] + DATA[RUN_LOG][index + 1 :])
        fault = ledger.fault()
        assert fault.origin == RUN_LOG
        assert fault.entry is not None or fault.rule == f"head at {SIZE}"

    def test_no_replica_takes_it(self, replica):
        with pytest.raises(Behind) as caught:
            replica.accept(ALICE_LOG, 0, DATA[ALICE_LOG][:2], certificate(ALICE_LOG, DATA[ALICE_LOG]))
        assert caught.value.size == 2
        assert replica.origins() == []


class TestTruncateBelowACertifiedSize:
    """A log ends before what its certificate covers."""

    @pytest.mark.parametrize("size", range(SIZE))
    def test_the_verifier_names_what_is_missing(self, ledger, size):
        ledger.sql("DELETE FROM entry WHERE log = ? AND idx >= ?", ledger.row(RUN_LOG), size)
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (RUN_LOG, f"head at {SIZE}")
        assert f"at most {size}: later ones are missing" in fault.wanted

    def test_even_when_the_uncertified_head_is_removed_with_them(self, ledger):
        row = ledger.row(RUN_LOG)
        ledger.sql("DELETE FROM entry WHERE log = ? AND idx >= 9", row)
        ledger.sql("DELETE FROM head WHERE log = ?", row)
        assert (ledger.fault().origin, ledger.fault().rule) == (RUN_LOG, f"certificate at {SIZE}")

    def test_a_store_does_not_work_on_with_it(self, ledger):
        ledger.sql("DELETE FROM entry WHERE log = ? AND idx >= 9", ledger.row(RUN_LOG))
        with Store.open(ledger.path, GENESIS, read_only=True) as store:
            with pytest.raises(StoreUnreadable, match=f"{SIZE} entries are certified, 9 are here"):
                store.inclusion(RUN_LOG, 5)
            assert store.inclusion(ALICE_LOG, 0).size == 3

    def test_a_store_does_not_drop_what_is_certified(self, ledger):
        other = [*DATA[ALICE_LOG][:1], Send(to=BOB.public, amount=1).encode(), *DATA[ALICE_LOG][2:], b"{}"]
        with Store.open(ledger.path, GENESIS) as store, pytest.raises(Conflict):
            store.accept(ALICE_LOG, 0, other, certificate(ALICE_LOG, other))


class TestDuplicateIndex:
    """Two entries claim one index."""

    @pytest.mark.parametrize("index", [0, 4, SIZE - 1])
    @pytest.mark.parametrize("same", [True, False])
    def test_the_verifier_names_the_entry(self, ledger, index, same):
        ledger.sql("ALTER TABLE entry RENAME TO old")
        ledger.sql("CREATE TABLE entry (log INTEGER, idx INTEGER, leaf BLOB, data BLOB) STRICT")
        ledger.sql("INSERT INTO entry SELECT log, idx, leaf, data FROM old")
        data = DATA[RUN_LOG][index if same else 1]
        ledger.sql("INSERT INTO entry VALUES (?, ?, ?, ?)", ledger.row(RUN_LOG), index, leaf_hash(data), data)
        fault = ledger.fault()
        assert fault.origin == RUN_LOG
        assert fault.entry in (index, index + 1)

    @pytest.mark.parametrize("index", [-1, 2**40])
    def test_an_index_that_no_log_has_is_named_or_counts_for_nothing(self, ledger, index):
        before, data = ledger.sound().ledger, DATA[RUN_LOG][1]
        ledger.sql("INSERT INTO entry VALUES (?, ?, ?, ?)", ledger.row(RUN_LOG), index, leaf_hash(data), data)
        report = ledger.report()
        assert report.ledger == before
        if index > 0:
            assert (ledger.fault().origin, ledger.fault().entry) == (RUN_LOG, SIZE)

    def test_the_table_itself_refuses_it(self, ledger):
        with pytest.raises(Exception, match="UNIQUE"):
            ledger.sql("INSERT INTO entry SELECT * FROM entry WHERE idx = 1")

    def test_a_replica_that_is_given_an_index_again_keeps_what_it_has(self, replica):
        for _ in range(2):
            replica.accept(ALICE_LOG, 0, DATA[ALICE_LOG], certificate(ALICE_LOG, DATA[ALICE_LOG]))
        assert replica.entries(ALICE_LOG, 0, 9) == DATA[ALICE_LOG]


class TestWrongProofLengthOrIndex:
    """A proof with a hash too many or too few, or of another place."""

    @pytest.fixture
    def inclusion(self, ledger):
        with Store.open(ledger.path, GENESIS) as store:
            return store.inclusion(RUN_LOG, 5)

    @pytest.mark.parametrize("change", [
        {"path": ()}, {"index": 4}, {"index": 6}, {"index": SIZE}, {"entry": DATA[RUN_LOG][4]}, {"begin": b""},
        {"begin": DATA[RUN_LOG][1]}, {"note": head(RUN_LOG, DATA[RUN_LOG])},
        {"note": certificate(RUN_LOG, DATA[RUN_LOG][:9])},
    ])  # fmt: skip
    def test_a_proof_file_that_was_changed_proves_nothing_to_a_stranger(self, inclusion, change):
        whole = proof.parse(proof.write(inclusion, DATA[RUN_LOG][5], DATA[RUN_LOG][0]))
        assert proof.check(whole, GENESIS).entry == LOGS[RUN_LOG][5]
        with pytest.raises((ProofInvalid, QuorumMissing)):
            proof.check(replace(whole, **change), GENESIS)
        for path in (whole.path[:-1], (*whole.path, bytes(32)), whole.path[::-1]):
            with pytest.raises(ProofInvalid):
                proof.check(replace(whole, path=path), GENESIS)

    @staticmethod
    def check(found, **changes):
        """Check the proof with some of it changed."""
        root = notes.checkpoint(notes.parse(found.note)).root
        asked = {"leaf": found.leaf, "index": found.index, "size": found.size, "proof": found.path, "root": root}
        merkle.verify_inclusion(**{**asked, **changes})

    def test_the_right_one_holds(self, inclusion):
        self.check(inclusion)
        assert len(inclusion.path) == 4

    def test_another_length_is_refused(self, inclusion):
        with pytest.raises(ProofInvalid, match="too short"):
            self.check(inclusion, proof=inclusion.path[:-1])
        with pytest.raises(ProofInvalid, match="too long"):
            self.check(inclusion, proof=[*inclusion.path, bytes(32)])
        with pytest.raises(ProofInvalid, match="32-byte"):
            self.check(inclusion, proof=[*inclusion.path[:-1], bytes(31)])
        with pytest.raises(ProofInvalid):
            self.check(inclusion, proof=[])

    @pytest.mark.parametrize("index", [*range(-1, 5), *range(6, SIZE + 2)])
    def test_another_index_is_refused(self, inclusion, index):
        with pytest.raises(ProofInvalid):
            self.check(inclusion, index=index)

    @pytest.mark.parametrize("size", [0, 1, 5, 6, 7, 8, 2 * SIZE, 2**60])
    def test_a_size_at_which_the_path_has_another_shape_is_refused(self, inclusion, size):
        with pytest.raises(ProofInvalid):
            self.check(inclusion, size=size)

    def test_a_size_at_which_the_path_looks_the_same_is_bound_by_the_signed_checkpoint_alone(self, inclusion):
        self.check(inclusion, size=9)  # RFC 6962: a path does not say the size, the checkpoint does
        root = notes.checkpoint(notes.parse(inclusion.note))
        assert (root.size, inclusion.size) == (SIZE, SIZE)

    @pytest.mark.parametrize("change", [
        {"old_size": 0}, {"old_size": 4}, {"old_size": SIZE}, {"old_size": SIZE + 1}, {"size": SIZE + 5},
        {"proof": ()}, {"proof": (bytes(32),)},
    ])  # fmt: skip
    def test_a_consistency_proof_of_other_sizes_or_length_is_refused(self, ledger, change):
        tree = merkle.Tree(map(leaf_hash, DATA[RUN_LOG]))
        asked = {
            "old_size": 5, "size": SIZE, "old_root": tree.root(5), "root": tree.root(),
            "proof": tuple(tree.consistency_proof(5, SIZE)),
        }  # fmt: skip
        merkle.verify_consistency(**asked)
        with pytest.raises(ProofInvalid):
            merkle.verify_consistency(**{**asked, **change})
        with pytest.raises(ProofInvalid):
            merkle.verify_consistency(**{**asked, "proof": (*asked["proof"], bytes(32))})


def test_entries_of_another_log_do_not_fit_either(ledger):
    ledger.write(BOB_LOG, DATA[ALICE_LOG])
    assert (ledger.fault().origin, ledger.fault().rule) == (BOB_LOG, "head at 4")
    with Store.open(ledger.path, GENESIS) as store, pytest.raises(Conflict):
        store.accept(ALICE_LOG, 0, DATA[BOB_LOG], certificate(ALICE_LOG, DATA[BOB_LOG]))
    assert ALICE.public in ALICE_LOG
