"""`forge-ledger history`, `why` and `runs`: whose credits went where, and why.

IO: a store in a temporary folder.
"""

import json
import re

import pytest

from ledger.entries import Close, Open, Seat, Settle
from ledger.store.store import Store

from .cli_kit import call, call_json
from .world import ALICE, ALICE_LOG, BOB, CAROL, GENESIS, RUN, RUN_LOG, blob, certify, fund, receipt_of, run_log


def lines_of(*arguments):
    return call(*arguments).stdout.splitlines()


def test_a_history_ends_in_the_balance(home):
    for owner in (ALICE.public, BOB.public, CAROL.public):
        lines = call_json("history", owner, "--home", home)["lines"]
        balance = call_json("balance", owner, "--home", home)["accounts"][owner]["balance"]
        assert lines[-1]["balance"] == balance
        assert sum(line["delta"] for line in lines) == balance


def test_a_history_shows_every_entry_with_the_balance_after_it(home):
    lines = lines_of("history", ALICE.public[:6], "--home", home)
    assert lines[0] == ALICE.public
    assert re.fullmatch(r"entry +what +amount +change +balance", lines[1])
    assert re.fullmatch(r"genesis +supply +1,000 +\+1,000 +1,000", lines[2])
    assert re.search(r":0 +send +1 +-1 +999  to run/b.*…: fund$", lines[3])
    assert re.search(r":5 +earn +0.00001 +999  round 1 of run/", lines[4])
    assert "void" in lines[7]
    assert "wanted at most 999000020" in lines[7]
    assert lines[8] == "(amounts within reasons are micro-credits)"
    run = lines_of("history", f"run/{RUN}", "--home", home)
    assert re.search(r":5 +return +0.000002 +\+0.000002 +0.999982  not used in round 1", run[5])


def test_a_long_history_shows_its_end(home):
    lines = lines_of("history", ALICE.public, "--last", 2, "--home", home)
    assert lines[1] == "(4 earlier; --last 0 shows all)"
    assert len(lines) == 6
    assert len(call_json("history", ALICE.public, "--last", 2, "--home", home)["lines"]) == 2


def test_why_of_a_receipt_says_where_it_was_settled_and_who_was_paid(home):
    lines = lines_of("why", f"run/{RUN}:3", "--home", home)
    assert lines[1] == "status  effective; settled at entry 5"
    assert re.search(r"did     d5bf4a3fcce7… earns 0.00001: round 1 .*:5\]", lines[2])
    assert re.search(r"then    d5bf4a3fcce7… receives 0.00002: .*:1\]", lines[3])
    body = call_json("why", f"run/{RUN}:4", "--home", home)
    assert (body["settled_at"], body["did"][0]["amount"], body["after"]) == (5, 8, [])


@pytest.mark.parametrize(("entry", "words"), [
    (f"{ALICE_LOG}:0", ["sends 1: to run/", "may claim 1", "then    run/.*receives 1"]),
    (f"{ALICE_LOG}:1", ["from    d5bf.* earns 0.00001: round 1", "earns 0.00001: round 2", "did .*receives 0.00002"]),
    (f"{ALICE_LOG}:2", ["status  void: amount is 1000000000000, wanted at most", "nothing for d5bf"]),
    (f"{ALICE_LOG}:3", ["status  not certified"]),
    (f"{RUN_LOG}:0", ["nothing to anybody's credits"]),
    (f"{RUN_LOG}:2", ["sets 0.00002 aside"]),
    (f"{RUN_LOG}:5", ["earns 0.00001", "earns 0.000008", "gets 0.000002 back", "then .*receives"]),
])  # fmt: skip
def test_why_explains_every_kind_of_entry(home, entry, words):
    output = call("why", entry, "--home", home).stdout
    for word in words:
        assert re.search(word, output), output


@pytest.fixture
def odd(tmp_path):
    """A run that leaves a receipt out, gives a round up, and claims what nobody knows."""
    rounds = run_log(1)
    rounds[-1] = Settle(round=1, receipts=(3,), state=blob("after 1"))
    later = Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 20, 5),))
    receipt = receipt_of(BOB, 2, blob("after 1"), 20, 5)
    open_again = Open(round=2, state=blob("after 1"), roster=(Seat(BOB.public, 30, 5),))
    waiting = receipt_of(BOB, 2, blob("after 1"), 30, 5)
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        for origin, log in ((ALICE_LOG, fund()), (RUN_LOG, [*rounds, later, receipt, open_again, waiting])):
            store.append(origin, log, ALICE)
            certify(store, origin)
    (tmp_path / "network.json").write_bytes(GENESIS.encode())
    return tmp_path


@pytest.mark.parametrize(("index", "words"), [
    (3, "settled at entry 5"), (4, "left out of the settle at entry 5"), (7, "never settled: entry 8 gives its round"),
    (9, "not settled yet"),
])  # fmt: skip
def test_why_tells_a_receipt_s_fate(odd, index, words):
    body = call_json("why", f"{RUN_LOG}:{index}", "--home", odd)
    assert words in body["fate"]
    assert bool(body["did"]) == (index == 3)
    assert words in call("why", f"{RUN_LOG}:{index}", "--home", odd).stdout


def test_pending_entries_and_what_waits_behind_them_are_told(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        store.append(RUN_LOG, run_log(1), ALICE)
        certify(store, RUN_LOG)  # without Alice's log nobody knows what its recv claims
    (tmp_path / "network.json").write_bytes(GENESIS.encode())
    said = call("why", f"{RUN_LOG}:1", "--home", tmp_path).stdout
    assert re.search("status  pending: size is .* known up to 0", said)
    assert "status  pending: behind entry 1" in call("why", f"{RUN_LOG}:2", "--home", tmp_path).stdout
    assert "[pending: behind entry 1]" in lines_of("log", RUN_LOG, "--home", tmp_path)[2]


def test_runs_lists_runs_and_says_when_there_are_none(home, tmp_path):
    assert re.search(r"run/b4.* tiny +2 +running +2 +0.999964 +0.000036", call("runs", "--home", home).stdout)
    assert call_json("runs", "--home", home)["runs"][RUN]["rounds_settled"] == 2
    Store.open(tmp_path / "ledger.db", GENESIS, create=True).close()
    (tmp_path / "network.json").write_text(json.dumps(GENESIS.to_json()))
    assert call("runs", "--home", tmp_path).stdout == "no run has begun\n"
    assert "no such" not in call("history", ALICE.public, "--home", tmp_path).stdout


def test_a_closed_run_shows_as_closed(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        for origin, log in ((ALICE_LOG, fund()), (RUN_LOG, [*run_log(1), Close(state=blob("after 1"), reason="done")])):
            store.append(origin, log, ALICE)
            certify(store, origin)
    (tmp_path / "network.json").write_bytes(GENESIS.encode())
    assert "closed" in call("runs", "--home", tmp_path).stdout
    assert re.search("refund", call("history", f"run/{RUN}", "--home", tmp_path).stdout)


@pytest.mark.parametrize("arguments", [["history", "zz"], ["history", ""], ["why", "zz:0"], ["why", f"{RUN_LOG}:99"]])
def test_what_is_not_there_is_told_in_one_line(home, arguments):
    assert re.fullmatch("FP-208: .+\n", call(*arguments, "--home", home, code=2).stderr)


def test_a_mistyped_name_gets_a_likely_one(home):
    wrong = "0" + ALICE.public[1:20]
    assert f"did you mean '{ALICE.public[:20]}'?" in call("log", wrong, "--home", home, code=2).stderr
    assert f"did you mean '{ALICE.public[:20]}'?" in call("balance", wrong, "--home", home, code=2).stderr
