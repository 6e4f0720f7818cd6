"""Economics: spending what is not there, twice, or what is not one's own; all certified, as witnesses judge no amounts.

What an entry alone or its log refuses makes the log invalid there; what depends on other logs has no effect (void), or
waits (pending). Either way the entry and the rule are named, and no credit comes of it.
"""

from dataclasses import replace

import pytest

from ledger.codec import MAX_INT
from ledger.entries import Begin, Issue, Open, Seat, Send, Settle, run_id
from ledger.errors import CodecInvalid, EntryInvalid, GenesisInvalid
from ledger.genesis import Genesis
from tests.ledger.world import blob, spec_of

from .kit import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    CAROL,
    CAROL_LOG,
    DATA,
    DAVE_LOG,
    END,
    GENESIS,
    LOGS,
    MALLORY,
    MALLORY_LOG,
    RUN,
    RUN_LOG,
    SUPPLY,
    TAIL,
    certificate,
    claim,
    cosigned,
    head,
    opened,
    receipt,
    settled,
)
from .lines import named


class TestOverdraft:
    """A send above what the log has at that entry."""

    @pytest.mark.parametrize("more", [1, 10**9, MAX_INT - 466])
    def test_is_void_and_nothing_of_it_is_sent(self, ledger, more):
        have = ledger.sound().ledger.balances[BOB.public]
        ledger.forge(BOB_LOG, [*LOGS[BOB_LOG], Send(to=CAROL.public, amount=have + more)])
        assert ledger.void() == (BOB_LOG, 3, "amount")
        found = ledger.sound().ledger
        assert (found.balances[BOB.public], found.claimable[CAROL.public]) == (have, {BOB_LOG: 50})
        assert f"at most {have}, the balance at this entry" in str(found.voids[0])

    def test_what_is_owed_but_not_received_is_not_there_yet(self, ledger):
        assert ledger.sound().ledger.claimable[BOB.public] == {DAVE_LOG: 100}
        ledger.forge(BOB_LOG, [*LOGS[BOB_LOG], Send(to=CAROL.public, amount=467)])
        assert ledger.void() == (BOB_LOG, 3, "amount")

    def test_a_run_does_not_pay_above_what_it_has(self, ledger):
        ledger.forge(ALICE_LOG, [replace(LOGS[ALICE_LOG][1], amount=25)])
        run = [LOGS[RUN_LOG][0], claim(ALICE_LOG, [replace(LOGS[ALICE_LOG][1], amount=25)])]
        first = len(run) + 1
        run += [opened(1), *LOGS[RUN_LOG][4:6], settled(1, first, first + 1)]
        run += [opened(2), *LOGS[RUN_LOG][8:10], settled(2, first + 4, first + 5)]
        ledger.forge(RUN_LOG, run)
        voids = [(void.index, void.rule) for void in ledger.sound().ledger.voids if void.origin == RUN_LOG]
        assert voids == [(6, "roster"), (9, "round")]
        assert sum(ledger.sound().ledger.runs[RUN].paid.values()) == 18


class TestDoubleClaim:
    """What was received once is received again."""

    @pytest.mark.parametrize("index", [0, 1])
    def test_is_void(self, ledger, index):
        before = ledger.sound().ledger.balances
        ledger.forge(CAROL_LOG, [*LOGS[CAROL_LOG], claim(DAVE_LOG, LOGS[DAVE_LOG], index)])
        assert ledger.void() == (CAROL_LOG, 2, "index")
        assert ledger.sound().ledger.balances == before

    def test_a_later_claim_gives_only_what_is_new(self, ledger):
        dave = [*LOGS[DAVE_LOG], Issue(to=CAROL.public, amount=7)]
        before = ledger.sound().ledger.balances[CAROL.public]
        ledger.forge(DAVE_LOG, dave)
        ledger.forge(CAROL_LOG, [*LOGS[CAROL_LOG], claim(DAVE_LOG, dave)])
        assert ledger.sound().ledger.balances[CAROL.public] == before + 7

    def test_of_a_runs_funding_is_void_too(self, ledger):
        log = [*LOGS[RUN_LOG], claim(ALICE_LOG, LOGS[ALICE_LOG][:2])]
        ledger.forge(RUN_LOG, log)
        assert ledger.void() == (RUN_LOG, END, "index")


class TestWrongRecipient:
    """Somebody claims what was sent to another."""

    def test_gets_nothing_and_what_it_spends_of_it_is_void(self, ledger):
        before = ledger.sound().ledger
        claims = [claim(ALICE_LOG, LOGS[ALICE_LOG]), claim(RUN_LOG, LOGS[RUN_LOG]), claim(DAVE_LOG, LOGS[DAVE_LOG])]
        ledger.forge(MALLORY_LOG, [*claims, Send(to=BOB.public, amount=1)])
        assert ledger.void() == (MALLORY_LOG, 3, "amount")
        found = ledger.sound().ledger
        assert found.balances == {**before.balances, MALLORY.public: 0}
        assert found.claimable == before.claimable  # and those whom it is owed have it still

    def test_a_run_gets_nothing_that_was_sent_to_an_account(self, ledger, replica):
        log = [*LOGS[RUN_LOG], claim(DAVE_LOG, LOGS[DAVE_LOG])]
        before = ledger.sound().ledger.runs[RUN]
        ledger.forge(RUN_LOG, log)
        assert ledger.sound().ledger.runs[RUN] == before
        named(ledger, replica, [*LOGS[RUN_LOG], claim(RUN_LOG, LOGS[RUN_LOG])], "origin")


class TestClaimOfAVoidSend:
    """A claim on a send that its sender could not pay."""

    def test_gives_nothing(self, ledger):
        bob = [*LOGS[BOB_LOG], Send(to=MALLORY.public, amount=10**6)]
        ledger.forge(BOB_LOG, bob)
        ledger.forge(MALLORY_LOG, [claim(BOB_LOG, bob), Send(to=CAROL.public, amount=10**6)])
        voids = {(void.origin, void.index, void.rule) for void in ledger.sound().ledger.voids}
        assert voids == {(BOB_LOG, 3, "amount"), (MALLORY_LOG, 1, "amount")}
        assert ledger.sound().ledger.balances[MALLORY.public] == 0


class TestClaimOfAnUncertifiedSend:
    """A claim on an entry that is there but that no quorum has seen."""

    def test_waits_and_names_what_for(self, ledger):
        bob = [*LOGS[BOB_LOG], TAIL]
        assert ledger.sound().ledger.decided[BOB_LOG] == 3  # the fourth is stored, not certified
        ledger.forge(ALICE_LOG, [*LOGS[ALICE_LOG], claim(BOB_LOG, bob)])
        [pending] = ledger.sound().ledger.pendings
        assert (pending.origin, pending.index, pending.rule) == (ALICE_LOG, 3, "size")
        assert (pending.got, pending.wanted) == (f"{BOB_LOG} known up to 3", "up to 4")

    def test_becomes_good_with_the_certificate(self, ledger):
        bob = [*LOGS[BOB_LOG], TAIL]
        before = ledger.sound().ledger.balances[ALICE.public]
        ledger.forge(ALICE_LOG, [*LOGS[ALICE_LOG], claim(BOB_LOG, bob)])
        ledger.forge(BOB_LOG, bob)
        assert ledger.sound().ledger.balances[ALICE.public] == before + 5


class TestIssuerOverBudget:
    """More issued than the genesis allows, or by somebody to whom it allows nothing."""

    @pytest.mark.parametrize("amount", [501, 1000, MAX_INT])
    def test_is_void(self, ledger, amount):
        ledger.forge(DAVE_LOG, [*LOGS[DAVE_LOG], Issue(to=MALLORY.public, amount=amount)])
        assert ledger.void() == (DAVE_LOG, 2, "issue")
        found = ledger.sound().ledger
        assert "at most 500, what is left of the budget" in str(found.voids[0])
        assert found.issued == SUPPLY + 500

    def test_in_many_small_steps_is_void_from_the_budget_on(self, ledger):
        more = [Issue(to=MALLORY.public, amount=200) for _ in range(4)]
        ledger.forge(DAVE_LOG, [*LOGS[DAVE_LOG], *more])
        assert [void.index for void in ledger.sound().ledger.voids] == [4, 5]
        assert ledger.sound().ledger.issued == SUPPLY + 900

    @pytest.mark.parametrize("origin", [ALICE_LOG, MALLORY_LOG])
    def test_by_no_issuer_is_refused_with_its_entry(self, ledger, replica, origin):
        log = [*LOGS.get(origin, []), Issue(to=MALLORY.public, amount=1)]
        ledger.forge(origin, log)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (origin, len(log) - 1, "issuer")
        with pytest.raises(EntryInvalid, match="issuer"):
            replica.accept(origin, 0, [entry.encode() for entry in log], certificate(origin, log))


class TestIntegerOverflow:
    """Numbers and sums at and above 2^53-1."""

    def test_one_that_is_too_large_has_no_bytes(self, ledger):
        with pytest.raises(EntryInvalid, match=r"2\^53-1"):
            Send(to=BOB.public, amount=MAX_INT + 1)
        data = DATA[ALICE_LOG][0].replace(b'"amount":500', b'"amount":%d' % (MAX_INT + 1))
        ledger.forge(ALICE_LOG, [data])
        assert (ledger.fault().entry, ledger.fault().rule) == (0, "encoding")
        for wrapped in (2**63, 2**64, 2**64 + 500, 2**256):
            ledger.forge(ALICE_LOG, [DATA[ALICE_LOG][0].replace(b'"amount":500', b'"amount":%d' % wrapped)])
            assert (ledger.fault().entry, ledger.fault().rule) == (0, "encoding")

    def test_the_largest_send_is_void_and_the_largest_twice_too(self, ledger):
        ledger.forge(BOB_LOG, [*LOGS[BOB_LOG], *[Send(to=CAROL.public, amount=MAX_INT)] * 2])
        assert [void.rule for void in ledger.sound().ledger.voids] == ["amount", "amount"]

    def test_slots_that_end_beyond_it_are_refused_with_the_open(self, ledger, replica):
        for seat in (Seat(BOB.public, MAX_INT, 1), Seat(BOB.public, 60, MAX_INT), Seat(BOB.public, MAX_INT, MAX_INT)):
            log = [*LOGS[RUN_LOG], settled(3, END - 1), Open(round=4, state=blob("after 3"), roster=(seat,))]
            named(ledger, replica, log, "roster")

    def test_a_reservation_beyond_it_is_exact_and_void(self, ledger):
        spec = spec_of(price=MAX_INT, tokens_per_slot=MAX_INT)
        origin, begin = GENESIS.run_origin(run_id(spec)), Begin(spec=spec)
        roster = (Seat(ALICE.public, 0, 2**52), Seat(BOB.public, 2**52, 2**52 - 1))
        log = [begin, Open(round=1, state=begin.state, roster=roster), Settle(round=1, receipts=(), state=begin.state)]
        ledger.forge(origin, log, cosigned(head(origin, log, ALICE)))
        found = ledger.sound().ledger
        assert [(void.index, void.rule) for void in found.voids] == [(1, "roster"), (2, "round")]
        worth = sum(quota * MAX_INT * MAX_INT // 10**6 for quota in (2**52, 2**52 - 1))
        assert found.voids[0].got == f"worth {worth}"
        assert found.runs[run_id(spec)].slot_cursor == MAX_INT

    def test_supply_and_budgets_beyond_it_are_refused_by_the_genesis(self):
        with pytest.raises(GenesisInvalid, match=r"above 2\^53-1"):
            Genesis.create(
                name="x", witnesses=GENESIS.witnesses, supply={ALICE.public: MAX_INT}, issuers={BOB.public: 1}
            )
        with pytest.raises(GenesisInvalid):
            Genesis.create(name="x", witnesses=GENESIS.witnesses, supply={ALICE.public: MAX_INT + 1})

    def test_a_price_beyond_it_has_no_bytes(self):
        with pytest.raises(EntryInvalid, match=r"spec\.price"):
            Begin(spec=spec_of(price=MAX_INT + 1))

    def test_a_receipts_tokens_stay_below_it(self, ledger, replica):
        with pytest.raises(CodecInvalid, match=r"2\^53-1"):
            receipt(BOB, 3, 50, 4, tokens=MAX_INT + 1)
        named(ledger, replica, [*LOGS[RUN_LOG][:-1], receipt(BOB, 3, 50, 4, tokens=MAX_INT)], "tokens")
