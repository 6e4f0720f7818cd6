"""The fold, one hand-made story after another."""

import pytest

from ledger.entries import Audit, Close, Entry, Issue, Open, Recv, Seat, Send, Settle
from ledger.errors import EntryInvalid
from ledger.fold.fold import Ledger, conservation, fold

from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    CAROL,
    GENESIS,
    RUN,
    RUN_LOG,
    blob,
    fund,
    receipt_of,
    recv_of,
    root_of,
    run_log,
)  # fmt: skip

CAROL_LOG = GENESIS.origin(CAROL.public)
S0 = blob("state")


def folded(**logs: list[Entry]) -> Ledger:
    """The ledger of these logs, which must conserve credits."""
    names = {"alice": ALICE_LOG, "bob": BOB_LOG, "carol": CAROL_LOG, "run": RUN_LOG}
    ledger = fold({names[name]: log for name, log in logs.items()}, GENESIS.terms)
    assert conservation(ledger)
    return ledger


def test_the_supply_is_there_before_any_log():
    ledger = folded()
    assert ledger.balances == {ALICE.public: 10**9, CAROL.public: 10**6}
    assert ledger.issued == 10**9 + 10**6


def test_a_send_is_spendable_only_once_it_is_received():
    alice: list[Entry] = [Send(to=BOB.public, amount=10)]
    spend = Send(to=CAROL.public, amount=4)
    ledger = folded(alice=alice, bob=[spend])
    assert ledger.claimable[BOB.public] == {ALICE_LOG: 10}
    assert [void.rule for void in ledger.voids] == ["amount"]
    assert folded(alice=alice, bob=[recv_of(ALICE_LOG, alice), spend]).balances[BOB.public] == 6


def test_a_send_above_the_balance_is_void_and_the_log_goes_on():
    ledger = folded(carol=[Send(to=BOB.public, amount=10**6 + 1), Send(to=BOB.public, amount=1)])
    assert (ledger.balances[CAROL.public], ledger.decided[CAROL_LOG]) == (10**6 - 1, 2)
    assert "at most 1000000, the balance" in str(ledger.voids[0])


def test_a_claim_is_good_once():
    alice: list[Entry] = [Send(to=BOB.public, amount=10)]
    ledger = folded(alice=alice, bob=[recv_of(ALICE_LOG, alice), recv_of(ALICE_LOG, alice)])
    assert (ledger.balances[BOB.public], len(ledger.voids)) == (10, 1)


def test_a_claim_reaches_to_its_index_only():
    alice: list[Entry] = [Send(to=BOB.public, amount=10), Send(to=BOB.public, amount=5)]
    assert folded(alice=alice, bob=[recv_of(ALICE_LOG, alice, index=0)]).balances[BOB.public] == 10


def test_a_claim_on_another_root_is_void():
    alice: list[Entry] = [Send(to=BOB.public, amount=10)]
    ledger = folded(alice=alice, bob=[Recv(origin=ALICE_LOG, index=0, size=1, root="00" * 32)])
    assert (ledger.balances[BOB.public], ledger.voids[0].rule) == (0, "root")


def test_a_claim_on_what_is_not_known_is_pending_with_all_behind_it():
    alice: list[Entry] = [Send(to=BOB.public, amount=10)]
    bob = [recv_of(ALICE_LOG, alice), Send(to=CAROL.public, amount=1)]
    ledger = folded(bob=bob)
    assert (ledger.pendings[0].index, ledger.pendings[0].behind, ledger.decided[BOB_LOG]) == (0, 1, 0)
    assert folded(bob=bob, alice=alice).pendings == ()


def test_two_logs_that_wait_for_each_other_stay_pending():
    waits = Recv(origin=BOB_LOG, index=4, size=5, root="00" * 32)
    ledger = folded(alice=[waits], bob=[Recv(origin=ALICE_LOG, index=4, size=5, root="00" * 32)])
    assert len(ledger.pendings) == 2


def test_an_issuer_cannot_issue_above_its_budget():
    amounts = ((CAROL, 900), (CAROL, 101), (BOB, 100))
    bob: list[Entry] = [Issue(to=key.public, amount=amount) for key, amount in amounts]
    ledger = folded(bob=bob, carol=[recv_of(BOB_LOG, bob)])
    assert (ledger.issued, ledger.balances[CAROL.public]) == (10**9 + 10**6 + 1000, 10**6 + 900)
    assert [void.index for void in ledger.voids] == [1]


def test_a_run_pays_by_tokens_and_price_and_takes_back_what_quotas_left():
    ledger = folded(alice=fund(100), run=run_log(2, funding=fund(100)))
    run = ledger.runs[RUN]
    assert run.paid == {ALICE.public: 20, BOB.public: 16}
    assert (run.balance, run.reserved, run.burned, run.rounds_settled, run.slot_cursor) == (64, 0, 0, 2, 40)
    assert ledger.claimable == {ALICE.public: {RUN_LOG: 20}, BOB.public: {RUN_LOG: 16}}
    assert (run.funders, run.state, run.name, run.closed) == ({ALICE.public: 100}, blob("after 2"), "tiny", False)


def test_an_open_round_is_reserved():
    ledger = folded(alice=fund(100), run=run_log(1, funding=fund(100))[:4])
    assert (ledger.runs[RUN].reserved, ledger.runs[RUN].balance, ledger.runs[RUN].round_open) == (20, 80, 1)


def test_a_round_that_the_balance_does_not_cover_is_void_and_pays_nobody():
    ledger = folded(alice=fund(25), run=run_log(2, funding=fund(25)))
    assert ledger.runs[RUN].paid == {ALICE.public: 10, BOB.public: 8}
    assert [(void.index, void.rule) for void in ledger.voids] == [(6, "roster"), (9, "round")]
    assert ledger.runs[RUN].balance == 7


def test_a_reservation_never_settled_is_burned_by_the_next_open_or_the_close():
    log = run_log(1, funding=fund(100))[:3]
    again = Open(round=1, state=S0, roster=(Seat(BOB.public, 20, 5),))
    ledger = folded(alice=fund(100), run=[*log, again, Close(state=S0, reason="")])
    assert (ledger.burned, ledger.claimable) == (25, {ALICE.public: {RUN_LOG: 75}})


def test_a_close_refunds_the_funders_pro_rata_and_burns_the_dust():
    carol: list[Entry] = [Send(to=f"run/{RUN}", amount=50)]
    log = run_log(1, funding=fund(100))
    log[2:2] = [recv_of(CAROL_LOG, carol)]
    log[-1:] = [Settle(round=1, receipts=(4, 5), state=blob(1)), Close(state=blob(1), reason="")]
    ledger = folded(alice=fund(100), carol=carol, run=log)
    assert ledger.runs[RUN].refunded == {ALICE.public: 88, CAROL.public: 44}  # 132 left of 150
    assert (ledger.burned, ledger.runs[RUN].balance) == (0, 0)
    log[3:] = [Open(round=1, state=S0, roster=(Seat(BOB.public, 0, 11),)), Close(state=S0, reason="")]
    ledger = folded(alice=fund(100), carol=carol, run=log)
    assert ledger.runs[RUN].refunded == {ALICE.public: 92, CAROL.public: 46}  # 139 left, 1 is dust
    assert ledger.burned == 11 + 1


def test_what_a_closed_run_had_not_received_goes_back_and_nothing_is_sent_there_after():
    late: list[Entry] = [*fund(100), Send(to=f"run/{RUN}", amount=30)]
    run = [*run_log(0, funding=fund(100)), Close(state=S0, reason="")]
    assert folded(alice=late, run=run).claimable == {ALICE.public: {RUN_LOG: 130}}
    after = [*late, recv_of(RUN_LOG, run), Send(to=f"run/{RUN}", amount=5)]
    ledger = folded(alice=after, run=run)
    assert (ledger.balances[ALICE.public], ledger.claimable) == (10**9, {})
    assert [(void.index, void.rule) for void in ledger.voids] == [(3, "to")]


def test_a_claim_beyond_the_close_gives_nothing_back_twice():
    late: list[Entry] = [*fund(100), Send(to=f"run/{RUN}", amount=30)]
    run = [*run_log(0, funding=fund(100)), Close(state=S0, reason=""), Close(state=S0, reason="again")]
    ledger = folded(alice=[*late, recv_of(RUN_LOG, run, index=2), recv_of(RUN_LOG, run, index=3)], run=run)
    assert (ledger.balances[ALICE.public], ledger.invalid[0].index) == (10**9, 3)


def test_an_invalid_entry_ends_its_log_and_claims_before_it_stand():
    alice: list[Entry] = [Send(to=BOB.public, amount=10), Issue(to=BOB.public, amount=5), Send(to=BOB.public, amount=7)]
    ledger = folded(alice=alice, bob=[recv_of(ALICE_LOG, alice)])
    assert ledger.balances[BOB.public] == 10
    assert (ledger.invalid[0].index, ledger.invalid[0].rule, ledger.invalid[0].behind) == (1, "issuer", 1)


def test_bytes_that_are_no_entry_end_a_log():
    ledger = fold({ALICE_LOG: [b"{}", fund()[0].encode()]}, GENESIS.terms)
    assert (ledger.invalid[0].index, ledger.balances[ALICE.public]) == (0, 10**9)
    ledger = fold({ALICE_LOG: [b"{ }"]}, GENESIS.terms)
    assert ledger.invalid[0].rule == "encoding"


def test_a_forged_receipt_ends_the_run_where_signatures_are_checked():
    log = run_log(1)
    forged = receipt_of(BOB, 1, S0, 10, 8)
    log[4] = type(forged)(**{**vars(forged), "signature": "00" * 64})
    prefixes = {ALICE_LOG: fund(), RUN_LOG: log}
    assert fold(prefixes, GENESIS.terms).invalid[0].rule == "signature"
    assert fold(prefixes, GENESIS.terms, signatures=False).invalid == ()


def test_an_audit_has_no_effect():
    log = [*run_log(2), Audit(round=1, account=BOB.public, verdict="failed", data={})]
    assert folded(alice=fund(), run=log).runs == folded(alice=fund(), run=run_log(2)).runs


def test_a_log_of_another_network_is_refused():
    with pytest.raises(EntryInvalid):
        fold({ALICE_LOG.replace(GENESIS.id[:4], "0000"): []}, GENESIS.terms)


def test_entries_and_their_bytes_fold_alike():
    as_bytes = [entry.encode() for entry in run_log(2)]
    assert folded(alice=fund(), run=run_log(2)) == folded(alice=fund(), run=as_bytes)
    assert root_of(as_bytes) == root_of(run_log(2))
