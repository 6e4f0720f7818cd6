"""Context: another network's genesis, another version of the rules."""

import json

import pytest

from ledger import codec
from ledger.errors import Conflict, EntryInvalid, GenesisInvalid, NoteInvalid, StoreUnreadable
from ledger.genesis import Genesis, parse_network
from ledger.store.store import Store
from ledger.verify.verify import verify_store

from .kit import ALICE, ALICE_LOG, BOB, DATA, GENESIS, RUN_LOG, SUPPLY, WITNESSES, certificate, cosigned, head

OTHERS = {
    "another name": Genesis.create(name="other", supply=GENESIS.supply, witnesses=GENESIS.witnesses),
    "more supply": Genesis.create(
        name=GENESIS.name, supply={ALICE.public: 10**9 + 1}, witnesses=GENESIS.witnesses, issuers=GENESIS.issuers
    ),
    "a lower f": Genesis.create(
        name=GENESIS.name, supply=GENESIS.supply, witnesses=GENESIS.witnesses, issuers=GENESIS.issuers, f=0
    ),
    "another order": Genesis.create(
        name=GENESIS.name, supply=GENESIS.supply[::-1], witnesses=GENESIS.witnesses, issuers=GENESIS.issuers
    ),
}


class TestWrongGenesis:
    """A ledger is judged by its own genesis only."""

    @pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
    def test_another_one_is_refused_before_anything_is_judged(self, ledger, other):
        with pytest.raises(GenesisInvalid, match="give its own network file"):
            verify_store(ledger.path, other)
        with pytest.raises(GenesisInvalid):
            Store.open(ledger.path, other)

    @pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
    def test_one_slipped_into_the_file_is_refused(self, ledger, other):
        ledger.sql("UPDATE meta SET value = ? WHERE name = 'genesis'", other.encode())
        with pytest.raises(GenesisInvalid):
            ledger.report()

    @pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
    def test_where_both_are_exchanged_every_log_is_of_another_network(self, ledger, other):
        ledger.sql("UPDATE meta SET value = ? WHERE name = 'genesis'", other.encode())
        report = verify_store(ledger.path, other)
        assert {fault.rule for fault in report.faults} == {"origin"}
        assert len(report.faults) == len(DATA)

    def test_a_missing_one_is_refused(self, ledger):
        ledger.sql("DELETE FROM meta WHERE name = 'genesis'")
        with pytest.raises(GenesisInvalid, match="none"):
            ledger.report()

    def test_a_log_of_another_network_is_refused_with_its_entry(self, ledger, replica):
        other = OTHERS["another name"]
        origin, data = other.origin(ALICE.public), DATA[ALICE_LOG]
        note = cosigned(head(origin, data, ALICE))
        with pytest.raises(EntryInvalid, match="origin"):
            replica.accept(origin, 0, data, note)
        with pytest.raises(NoteInvalid, match="wanted"):
            replica.accept(ALICE_LOG, 0, data, note)
        ledger.sql("UPDATE log SET origin = ? WHERE origin = ?", origin, ALICE_LOG)
        fault = next(fault for fault in ledger.report().faults if fault.origin == origin)
        assert fault.rule == "origin"

    def test_the_first_16_digits_alone_do_not_make_a_network(self, replica):
        other = OTHERS["another name"]
        begin = DATA[RUN_LOG]
        forged = [data.replace(GENESIS.id[16:].encode(), other.id[16:].encode()) for data in begin]
        with pytest.raises((EntryInvalid, Conflict)) as caught:
            replica.accept(RUN_LOG, 0, forged, certificate(RUN_LOG, forged))
        assert getattr(caught.value, "rule", "") == "network"  # receipts name the whole id

    def test_a_supply_that_the_genesis_does_not_give_is_not_there(self, ledger):
        assert ledger.sound().ledger.issued == SUPPLY + 500
        assert BOB.public not in dict(GENESIS.supply)


class TestOtherRulesVersion:
    """Rules of another version are not followed by guess."""

    @pytest.mark.parametrize("rules", [0, 2, 3, 2**53 - 1])
    def test_a_genesis_of_another_version_is_refused_and_says_so(self, rules):
        body = {**json.loads(GENESIS.encode()), "rules": rules}
        with pytest.raises(GenesisInvalid, match=f"rules is {rules}, this program follows 1; use its version"):
            Genesis.parse(codec.encode(body))
        with pytest.raises(GenesisInvalid, match="rules"):
            parse_network(json.dumps({"genesis": body, "bootstrap": []}).encode())

    @pytest.mark.parametrize("rules", ["1", 1.0, True, None, [1]])
    def test_a_version_that_is_no_plain_number_is_refused(self, rules):
        with pytest.raises(GenesisInvalid, match="rules"):
            parse_network(json.dumps({**json.loads(GENESIS.encode()), "rules": rules}).encode())

    def test_a_file_whose_genesis_is_of_another_version_is_refused(self, ledger):
        body = {**json.loads(GENESIS.encode()), "rules": 2}
        ledger.sql("UPDATE meta SET value = ? WHERE name = 'genesis'", codec.encode(body))
        with pytest.raises(GenesisInvalid):
            ledger.report()

    @pytest.mark.parametrize("pragma", ["user_version = 99", "user_version = 0", "application_id = 7"])
    def test_a_file_of_another_layout_is_unreadable_not_unsound(self, ledger, pragma):
        ledger.sql(f"PRAGMA {pragma}")
        with pytest.raises(StoreUnreadable, match="ledger"):
            ledger.report()

    def test_the_network_of_four_needs_three(self):
        assert (len(WITNESSES), GENESIS.f, GENESIS.quorum) == (4, 1, 3)
