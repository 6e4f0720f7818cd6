"""History: rolled back, forked, or referring to itself and to what is not there."""

import pytest

from ledger import notes
from ledger.entries import Recv, Send
from ledger.errors import Conflict, Frozen
from ledger.fold.fold import conservation
from ledger.store.store import Store
from ledger.witness import Witness
from tests.ledger.world import NOW

from .kit import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    CAROL,
    CAROL_LOG,
    DATA,
    GENESIS,
    LOGS,
    RUN_LOG,
    WITNESSES,
    certificate,
    claim,
    data_of,
    head,
)

FORK = [*LOGS[ALICE_LOG][:1], Send(to=CAROL.public, amount=10**6), *LOGS[ALICE_LOG][2:]]


@pytest.fixture
def store(ledger):
    """Witness w0's own store."""
    with Store.open(ledger.path, GENESIS) as opened:
        yield opened


@pytest.fixture
def witness(store):
    return Witness(store, GENESIS, WITNESSES["w0"], "w0")


class TestRollback:
    """An older state, certified in its time, is shown as the newest."""

    def test_a_replica_keeps_the_newer_one(self, store):
        store.accept(ALICE_LOG, 0, DATA[ALICE_LOG][:1], certificate(ALICE_LOG, DATA[ALICE_LOG][:1]))
        assert store.certified(ALICE_LOG).size == 3

    def test_a_witness_keeps_its_promise(self, store, witness, ledger):
        before = ledger.note(ALICE_LOG, "promise")
        witness.cosign(ALICE_LOG, 0, DATA[ALICE_LOG][:1], head(ALICE_LOG, DATA[ALICE_LOG][:1]), NOW)
        assert ledger.note(ALICE_LOG, "promise") == before
        with pytest.raises(Conflict):
            witness.cosign(ALICE_LOG, 1, data_of(FORK)[1:2], head(ALICE_LOG, FORK[:2]), NOW)

    @pytest.mark.parametrize("size", [1, 2])
    def test_the_verifier_names_it_where_it_is_given_the_certificates_of_an_earlier_time(self, ledger, size):
        earlier = {ALICE_LOG: ledger.note(ALICE_LOG), BOB_LOG: ledger.note(BOB_LOG)}
        ledger.sound()
        assert ledger.report(earlier).ok
        ledger.forge(ALICE_LOG, DATA[ALICE_LOG][:size])
        ledger.sound()  # by itself an older state is a sound one
        assert (ledger.fault(earlier).origin, ledger.fault(earlier).entry) == (ALICE_LOG, None)

    def test_a_log_that_is_gone_altogether_is_named_too(self, ledger):
        earlier = {ALICE_LOG: ledger.note(ALICE_LOG)}
        for table in ("entry", "head", "certificate", "promise"):
            ledger.sql(f"DELETE FROM {table} WHERE log = ?", ledger.row(ALICE_LOG))
        ledger.sql("DELETE FROM log WHERE origin = ?", ALICE_LOG)
        ledger.sound()
        assert ledger.fault(earlier).origin == ALICE_LOG

    def test_heads_that_stayed_behind_the_entries_show_it(self, ledger):
        old = certificate(ALICE_LOG, DATA[ALICE_LOG][:1])
        ledger.forge(ALICE_LOG, DATA[ALICE_LOG][:1], old)
        ledger.write(ALICE_LOG, DATA[ALICE_LOG])
        report = ledger.sound()  # a longer log under an older certificate: the rest counts for nothing
        assert report.ledger.decided[ALICE_LOG] == 1
        assert report.ledger.balances[ALICE.public] == 10**9 - 500

    def test_what_others_received_from_the_part_that_was_rolled_back_waits(self, ledger):
        ledger.forge(ALICE_LOG, DATA[ALICE_LOG][:1])
        pendings = {(pending.origin, pending.index, pending.rule) for pending in ledger.sound().ledger.pendings}
        assert pendings == {(RUN_LOG, 1, "size"), (BOB_LOG, 0, "size")}


class TestForkAtEqualSize:
    """Two heads of one size with two roots."""

    def test_a_witness_cosigns_one_keeps_both_as_proof_and_cosigns_the_log_no_more(self, store, witness):
        with pytest.raises(Conflict, match="entry 1"):
            witness.cosign(ALICE_LOG, 0, data_of(FORK), head(ALICE_LOG, FORK), NOW)
        assert len(store.evidence(ALICE_LOG)) == 1
        with pytest.raises(Frozen):
            witness.cosign(ALICE_LOG, 3, [], head(ALICE_LOG, DATA[ALICE_LOG]), NOW)
        with pytest.raises(Frozen):
            store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)

    def test_with_two_quorums_a_replica_keeps_the_first_and_says_what_that_means(self, store):
        with pytest.raises(Conflict, match="certified with two roots; over f witnesses are faulty"):
            store.accept(ALICE_LOG, 0, data_of(FORK), certificate(ALICE_LOG, FORK))
        assert store.entries(ALICE_LOG, 0, 9) == DATA[ALICE_LOG]

    def test_the_verifier_names_another_history_than_that_of_an_earlier_time(self, ledger):
        earlier = {ALICE_LOG: ledger.note(ALICE_LOG)}
        ledger.forge(ALICE_LOG, FORK)  # a quorum that signs two histories
        ledger.sound()
        assert ledger.fault(earlier).origin == ALICE_LOG

    def test_the_verifier_names_a_promise_and_a_certificate_of_two_histories(self, ledger):
        promise = ledger.sql("SELECT size, root, note FROM promise WHERE log = ?", ledger.row(ALICE_LOG))[0]
        ledger.forge(ALICE_LOG, FORK)
        ledger.sql("INSERT INTO promise VALUES (?, ?, ?, ?)", ledger.row(ALICE_LOG), *promise)
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (ALICE_LOG, "root of 3 entries")
        assert "promise" in fault.wanted


class TestForkAtADifferentSize:
    """Two heads of two sizes, neither of which continues the other."""

    LONGER = (*FORK, Send(to=BOB.public, amount=1))

    @pytest.mark.parametrize("log", [FORK[:2], [*FORK, Send(to=BOB.public, amount=1)]])
    def test_a_witness_cosigns_one_and_keeps_both_as_proof(self, store, witness, log):
        with pytest.raises(Conflict):
            witness.cosign(ALICE_LOG, 0, data_of(log), head(ALICE_LOG, log), NOW)
        assert len(store.evidence(ALICE_LOG)) == 1

    def test_with_two_quorums_a_replica_keeps_the_first(self, store):
        with pytest.raises(Conflict):
            store.accept(ALICE_LOG, 0, data_of(self.LONGER), certificate(ALICE_LOG, self.LONGER))
        with pytest.raises(Conflict, match="two roots"):
            store.accept(ALICE_LOG, 0, data_of(FORK[:2]), certificate(ALICE_LOG, FORK[:2]))
        assert store.entries(ALICE_LOG, 0, 9) == DATA[ALICE_LOG]

    def test_the_verifier_names_heads_of_two_histories(self, ledger):
        old = ledger.sql("SELECT size, root, note FROM promise WHERE log = ?", ledger.row(ALICE_LOG))[0]
        ledger.forge(ALICE_LOG, self.LONGER)
        ledger.sql("INSERT INTO promise VALUES (?, ?, ?, ?)", ledger.row(ALICE_LOG), *old)
        assert (ledger.fault().origin, ledger.fault().rule) == (ALICE_LOG, "root of 3 entries")

    @pytest.mark.parametrize("size", [2, 4])
    def test_the_verifier_names_another_history_than_that_of_an_earlier_time(self, ledger, size):
        earlier = {ALICE_LOG: ledger.note(ALICE_LOG)}
        ledger.forge(ALICE_LOG, self.LONGER[:size])
        ledger.sound()
        assert ledger.fault(earlier).origin == ALICE_LOG

    def test_what_was_received_from_the_other_history_is_void(self, ledger):
        ledger.forge(ALICE_LOG, self.LONGER)
        voids = {(void.origin, void.index, void.rule) for void in ledger.sound().ledger.voids}
        assert {(RUN_LOG, 1, "root"), (BOB_LOG, 0, "root")} <= voids


class TestCyclicReference:
    """Logs that refer to each other's future, or to their own."""

    def test_two_logs_that_wait_for_each_other_count_up_to_there(self, ledger):
        ahead = {BOB_LOG: 9, CAROL_LOG: 9}
        for origin, other in ((BOB_LOG, CAROL_LOG), (CAROL_LOG, BOB_LOG)):
            wait = Recv(origin=other, index=ahead[other] - 1, size=ahead[other], root="00" * 32)
            ledger.forge(origin, [*LOGS[origin], wait])
        found = ledger.sound().ledger
        waiting = {(pending.origin, pending.rule) for pending in found.pendings}
        assert waiting == {(BOB_LOG, "size"), (CAROL_LOG, "size")}
        assert conservation(found)

    def test_claims_on_each_others_claim_name_roots_that_cannot_be_and_are_void(self, ledger):
        sizes = {origin: len(LOGS[origin]) + 1 for origin in (BOB_LOG, CAROL_LOG)}
        for origin, other in ((BOB_LOG, CAROL_LOG), (CAROL_LOG, BOB_LOG)):
            wait = Recv(origin=other, index=sizes[other] - 1, size=sizes[other], root="00" * 32)
            ledger.forge(origin, [*LOGS[origin], wait])
        found = ledger.sound().ledger  # both are known far enough, so neither root fits: both are void
        assert {(void.origin, void.index, void.rule) for void in found.voids} == {
            (BOB_LOG, sizes[BOB_LOG] - 1, "root"), (CAROL_LOG, sizes[CAROL_LOG] - 1, "root"),
        }  # fmt: skip

    def test_a_log_that_claims_its_own_entry_gains_nothing(self, ledger):
        log = [*LOGS[CAROL_LOG], Recv(origin=CAROL_LOG, index=2, size=3, root="00" * 32)]
        ledger.forge(CAROL_LOG, log)
        assert ledger.void() == (CAROL_LOG, 2, "root")


class TestFutureReference:
    """A recv of entries that nobody certified yet."""

    def test_waits_with_all_behind_it_and_names_what_it_waits_for(self, ledger):
        more = [*LOGS[ALICE_LOG], Send(to=BOB.public, amount=1000)]
        ledger.forge(BOB_LOG, [*LOGS[BOB_LOG], claim(ALICE_LOG, more), Send(to=CAROL.public, amount=1)])
        [pending] = ledger.sound().ledger.pendings
        assert (pending.origin, pending.index, pending.rule, pending.behind) == (BOB_LOG, 3, "size", 1)
        assert pending.got == f"{ALICE_LOG} known up to 3"
        assert pending.wanted == "up to 4"

    def test_of_a_log_that_nobody_knows_waits_too(self, ledger):
        nobody = GENESIS.origin("ab" * 32)
        ledger.forge(BOB_LOG, [*LOGS[BOB_LOG], Recv(origin=nobody, index=0, size=1, root="00" * 32)])
        assert [pending.rule for pending in ledger.sound().ledger.pendings] == ["size"]

    @pytest.mark.parametrize("size", [2**53 - 1, 4])
    def test_a_size_that_never_comes_is_never_credited(self, ledger, size):
        before = ledger.sound().ledger.balances[BOB.public]
        ledger.forge(BOB_LOG, [*LOGS[BOB_LOG], Recv(origin=ALICE_LOG, index=0, size=size, root="00" * 32)])
        assert ledger.sound().ledger.balances[BOB.public] == before


def test_a_note_is_bound_to_its_size(ledger):
    found = notes.checkpoint(notes.parse(ledger.note(RUN_LOG)))
    assert (found.origin, found.size) == (RUN_LOG, len(DATA[RUN_LOG]))
