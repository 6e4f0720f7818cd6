"""Log-local rules: which entry may follow."""

from copy import deepcopy
from dataclasses import replace

import pytest

from ledger.entries import Audit, Begin, Close, Issue, Open, Recv, Seat, Send, Settle
from ledger.errors import EntryInvalid
from ledger.rules import rules_of

from .test_keys import MIXED_ORDER
from .world import (
    ALICE,
    ALICE_LOG,
    BOB,
    BOB_LOG,
    CAROL,
    GENESIS,
    RUN_LOG,
    SPEC,
    blob,
    fund,
    receipt_of,
    recv_of,
    run_log,
    spec_of,
)  # fmt: skip

S0 = blob("state")
TERMS = GENESIS.terms


def after(count: int):
    """The run's rules after the first entries of a one-round run."""
    rules = rules_of(TERMS, RUN_LOG)
    for entry in run_log(1)[:count]:
        rules.apply(entry)
    return rules


def refused(rules, entry, rule):
    """Check that the entry is refused by this rule and that nothing changed."""
    before = deepcopy(vars(rules))
    with pytest.raises(EntryInvalid) as caught:
        rules.apply(entry)
    assert caught.value.rule == rule, caught.value
    assert caught.value.index == rules.size
    assert vars(rules) == before


def test_a_whole_run_is_accepted():
    rules = rules_of(TERMS, RUN_LOG)
    for entry in run_log(3, close=True):
        rules.apply(entry)
    assert (rules.settled, rules.slot_cursor, rules.closed, rules.writers) == (3, 60, True, (ALICE.public,))


@pytest.mark.parametrize("origin", [
    "", ALICE_LOG[:-1], ALICE_LOG + "0", ALICE_LOG.upper(), ALICE_LOG.replace("/", "//", 1),
    RUN_LOG.replace("run", "ran"),
    f"p2p-llm-forge/{'0' * 16}/{ALICE.public}",
])  # fmt: skip
def test_logs_of_other_networks_have_no_place(origin):
    with pytest.raises(EntryInvalid, match="origin"):
        rules_of(TERMS, origin)


def test_the_first_entry_of_a_run_is_its_begin_and_only_the_first():
    refused(after(0), recv_of(ALICE_LOG, fund()), "order")
    refused(after(1), Begin(spec=SPEC), "order")


def test_a_run_begins_with_the_spec_its_origin_names():
    refused(after(0), Begin(spec=spec_of(price=0)), "run id")


def test_nothing_follows_a_close():
    rules = after(6)
    rules.apply(Close(state=blob("after 1"), reason=""))
    for entry in (recv_of(ALICE_LOG, fund()), Audit(round=1, account=BOB.public, verdict="", data=0)):
        refused(rules, entry, "order")


def test_a_close_states_the_last_state():
    refused(after(6), Close(state=S0, reason=""), "state")


def test_account_and_run_logs_hold_their_own_kinds_of_entries():
    refused(after(1), Send(to=BOB.public, amount=1), "type")
    refused(rules_of(TERMS, ALICE_LOG), Begin(spec=SPEC), "type")


def test_only_issuers_issue():
    refused(rules_of(TERMS, ALICE_LOG), Issue(to=BOB.public, amount=1), "issuer")
    rules_of(TERMS, BOB_LOG).apply(Issue(to=CAROL.public, amount=1))


def test_a_source_is_a_log_of_this_network_and_for_a_run_an_account():
    other = Recv(origin=f"p2p-llm-forge/{'0' * 16}/{ALICE.public}", index=0, size=1, root="00" * 32)
    refused(rules_of(TERMS, BOB_LOG), other, "origin")
    refused(after(1), recv_of(RUN_LOG, run_log(1)), "origin")


@pytest.mark.parametrize(("entry", "rule"), [
    (Open(round=2, state=S0, roster=(Seat(BOB.public, 0, 1),)), "round"),
    (Open(round=1, state=blob("x"), roster=(Seat(BOB.public, 0, 1),)), "state"),
    (Open(round=1, state=S0, roster=(Seat(BOB.public, 0, 1), Seat(BOB.public, 1, 1))), "roster"),
    (Open(round=1, state=S0, roster=(Seat(BOB.public, 0, 2), Seat(ALICE.public, 1, 1))), "roster"),
    (Open(round=1, state=S0, roster=(Seat(MIXED_ORDER, 0, 2),)), "key"),
    (Settle(round=1, receipts=(), state=S0), "round"),
    (receipt_of(ALICE, 1, S0, 0, 10), "round"),
])  # fmt: skip
def test_an_open_that_may_not_come_is_refused(entry, rule):
    refused(after(2), entry, rule)


def test_slots_are_given_out_once_even_when_a_round_is_opened_again():
    rules = after(3)
    refused(rules, Open(round=1, state=S0, roster=(Seat(BOB.public, 19, 1),)), "roster")
    rules.apply(Open(round=1, state=S0, roster=(Seat(BOB.public, 20, 1),)))
    refused(rules, receipt_of(ALICE, 1, S0, 0, 10), "account")


@pytest.mark.parametrize(("changes", "rule"), [
    ({"network": "00" * 32}, "network"), ({"run": "00" * 32}, "run"), ({"round": 2}, "round"),
    ({"state_in": blob(9)}, "state_in"),
    ({"tokens": 9999}, "tokens"), ({"slots": (1, 9), "tokens": 9000}, "slots"),
    ({"slots": (0, 11), "tokens": 11000}, "slots"),
    ({"key": CAROL}, "account"),
])  # fmt: skip
def test_a_receipt_that_does_not_fit_the_open_is_refused_by_name(changes, rule):
    good = {"key": ALICE, "round_": 1, "state": S0, "start": 0, "count": 10}
    refused(after(3), receipt_of(**good | _moved(changes)), rule)


def _moved(changes):
    """`round` is called `round_` where the receipt is made."""
    return {"round_" if name == "round" else name: value for name, value in changes.items()}


def test_a_receipt_with_a_bad_signature_is_refused():
    forged = replace(receipt_of(ALICE, 1, S0, 0, 10), loss=1)
    refused(after(3), forged, "signature")
    trusting = rules_of(TERMS, RUN_LOG, signatures=False)
    for entry in [*run_log(1)[:3], forged]:
        trusting.apply(entry)


def test_a_member_has_one_receipt_per_round():
    refused(after(4), receipt_of(ALICE, 1, S0, 0, 5), "slots")


@pytest.mark.parametrize(("entry", "rule"), [
    (Settle(round=2, receipts=(), state=S0), "round"), (Settle(round=1, receipts=(2,), state=S0), "receipts"),
    (Settle(round=1, receipts=(3, 5), state=S0), "receipts"),
    (Settle(round=1, receipts=(), state=S0, validation=(2, 1)), "validation"),
])  # fmt: skip
def test_a_settle_that_does_not_fit_the_open_is_refused(entry, rule):
    refused(after(5), entry, rule)


def test_a_copy_is_independent():
    rules = after(3)
    twin = rules.copy()
    twin.apply(receipt_of(ALICE, 1, S0, 0, 10))
    assert (rules.size, rules.receipts) == (3, {})
