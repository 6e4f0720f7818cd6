"""Runs with stages in a store: reopened at any entry, witnessed, verified by one process and several, told by commands.

IO: stores in temporary folders.
"""

import json

import pytest

from ledger import proof
from ledger.errors import EntryInvalid, ProofInvalid
from ledger.references import named_by
from ledger.store.store import Store
from ledger.verify.verify import verify_store

from . import stage_world
from .cli_kit import call, call_json
from .stage_world import DRIVERS, ENDS, MIDDLE, RUN, receipt, run_log, settled
from .test_stage_rules import begun
from .world import ALICE, ALICE_LOG, GENESIS, certify

ORIGIN = GENESIS.run_origin(RUN)


def fill(store, rounds=2, close=False):
    """A store with Alice's funding and a certified run with stages."""
    for origin, log in ((ALICE_LOG, stage_world.fund()), (ORIGIN, run_log(rounds, close=close))):
        store.append(origin, log, ALICE)
        certify(store, origin)


def network(folder):
    """The network file, put into the folder."""
    (folder / "network.json").write_text(json.dumps({"genesis": GENESIS.to_json(), "bootstrap": []}))


@pytest.fixture
def home(tmp_path):
    """A home with the network file and the ledger."""
    network(tmp_path)
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        fill(store)
    return tmp_path


def test_a_store_that_is_opened_again_knows_where_the_run_is(tmp_path):
    log = run_log(2, close=True)
    for size in range(1, len(log) + 1):
        with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
            store.append(ORIGIN, log[size - 1 : size], ALICE)
        with Store.open(tmp_path / "ledger.db", GENESIS) as store:
            assert vars(store.rules(ORIGIN)) == vars(begun(log[:size]))


def test_a_store_takes_no_settle_that_loses_a_microbatch(tmp_path):
    log = run_log(1)
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        store.append(ORIGIN, log[:-1], ALICE)
        with pytest.raises(EntryInvalid, match="entry 8: served is microbatch 1 in stage 0 and not in stage 1"):
            store.append(ORIGIN, [settled(1, (3, 4, 5, 7))], ALICE)
        store.append(ORIGIN, log[-1:], ALICE)
        assert store.size(ORIGIN) == 9


def test_verification_finds_the_same_with_one_process_and_with_several(home):
    one, several = (verify_store(home / "ledger.db", GENESIS, processes=number) for number in (1, 2))
    assert one.faults == ()
    assert one == several
    assert one.counts["receipts"] == 10
    assert sum(one.ledger.runs[RUN].paid.values()) == 150


def test_a_receipt_can_be_taken_away_and_its_signature_is_checked(home):
    with Store.open(home / "ledger.db", GENESIS, read_only=True) as store:
        inclusion, [begin] = store.inclusion(ORIGIN, 5), store.entries(ORIGIN, 0, 1)
        [data] = store.entries(ORIGIN, 5, 6)
    proven = proof.check(proof.parse(proof.write(inclusion, data, begin)), GENESIS)
    assert proven.entry == receipt(MIDDLE[0], 1, (0, 2, 4))
    with pytest.raises(ProofInvalid):
        proof.check(proof.parse(proof.write(inclusion, data.replace(b'"stage":1', b'"stage":2'), begin)), GENESIS)


def test_commands_tell_of_stages(home):
    told = call("log", RUN, "--home", home).stdout
    assert "open round 1: stage 0 " in told
    assert "for round 1: 6000 tokens in stage 1" in told
    explained = call("why", f"{RUN}:7", "--home", home).stdout
    assert "settled at entry 8" in explained
    assert "earns 0.000037" in explained
    left = call_json("why", f"{RUN}:2", "--home", home)
    assert [item["kind"] for item in left["did"]] == ["reserve"]
    lines = call_json("history", ENDS[0].public, "--home", home)["lines"]
    assert [(line["kind"], line["amount"]) for line in lines] == [("earn", 37), ("earn", 12)]
    [run] = call_json("runs", "--home", home)["runs"].values()
    assert (run["rounds_settled"], run["paid"][DRIVERS[0].public]) == (2, 30)


def test_a_receipt_that_was_left_out_is_told(tmp_path):
    network(tmp_path)
    log = run_log(1)[:-1]
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        store.append(ORIGIN, [*log, settled(1, ())], ALICE)
        certify(store, ORIGIN)
    assert "left out of the settle at entry 8" in call("why", f"{RUN}:3", "--home", tmp_path).stdout


def test_an_open_refers_to_its_members_and_nothing_else_of_a_round_does():
    log = run_log(1)
    members = [key.public for key in (*DRIVERS, *MIDDLE, *ENDS)]
    assert named_by(log[2], GENESIS.terms) == tuple(map(GENESIS.origin, members))
    assert {named_by(entry, GENESIS.terms) for entry in log[3:]} == {()}
