"""`forge-ledger prove` and `check`: a receipt shown to somebody who has only the network file.

IO: a store in a temporary folder, `forge-ledger` in this process and as a process.
"""

import json
import re
import subprocess
import sys

import pytest

from ledger import codec
from ledger.entries import Send
from ledger.genesis import Genesis
from ledger.merkle import leaf_hash
from ledger.store.store import Store

from .cli_kit import call, call_json
from .world import ALICE, ALICE_LOG, BOB, GENESIS, RUN, RUN_LOG, key_of, run_log


@pytest.fixture
def proof(home, tmp_path):
    path = tmp_path / "proof.txt"
    path.write_bytes(call("prove", f"run/{RUN}:4", "--home", home).stdout_bytes)
    return path


@pytest.fixture
def network(home):
    return home / "network.json"


def test_a_receipt_is_proven_to_somebody_who_has_only_the_network_file(proof, network):
    output = call("check", proof, "--network", network).stdout
    assert output.startswith("PROVEN\n")
    for part in (
        RUN_LOG, f"'tiny' {RUN}", f"receipt of   {BOB.public}", "round        1",
        "8000 tokens, slots 10 to 17, 5 steps",
        f"signed by    {ALICE.public}", "by 1 of 1 witnesses", "witness at 2023-11-14 22:13:20 UTC", "not proven:",
    ):  # fmt: skip
        assert part in output
    body = call_json("check", proof, "--network", network)
    assert (body["ok"], body["index"], body["entry"]["account"], body["run"]["name"]) == (True, 4, BOB.public, "tiny")
    assert body["witnessed"] == [{"witness": "witness", "time_s": 1_700_000_000}]


@pytest.mark.parametrize("name", [
    RUN_LOG + ":4", RUN[:8] + ":4", f"run/{RUN[:12]}…:4", leaf_hash(run_log()[4].encode()).hex(),
    leaf_hash(run_log()[4].encode()).hex()[:10], run_log()[4].update, run_log()[4].update[:9],
])  # fmt: skip
def test_an_entry_can_be_named_in_many_ways(home, name):
    body = call_json("prove", name, "--home", home)
    assert (body["origin"], body["index"]) == (RUN_LOG, 4)


def test_an_account_s_entry_is_proven_too(home, network):
    text = call("prove", ALICE_LOG + ":0", "--home", home).stdout
    found = subprocess.run(
        [sys.executable, "-c", "from ledger.cli.main import main; main()", "check", "-", "--network", str(network)],
        input=text.encode(), capture_output=True, check=True,
    )  # fmt: skip
    assert f"send         1 credits to run/{RUN} ('fund')".encode() in found.stdout


@pytest.mark.parametrize(("name", "words"), [
    ("nothing:0", "no"), (RUN_LOG + ":10", "0 to 9"), (RUN_LOG + ":-1", "no entry"), (RUN_LOG + ":04", "no entry"),
    (RUN_LOG + ":", "no entry"), ("", "LOG:INDEX"), ("ffff" * 16, "no leaf hash"), ("xyz", "LOG:INDEX"),
    (RUN[:10], "no leaf hash"),
])  # fmt: skip
def test_an_entry_that_is_not_there_is_told_in_one_line(home, name, words):
    error = call("prove", name, "--home", home, code=2)
    assert re.fullmatch(f"FP-208: .*{words}.*\n", error.stderr)
    assert error.stdout == ""


def test_an_entry_that_is_not_certified_cannot_be_proven(home):
    assert "is not certified" in call("prove", ALICE_LOG + ":3", "--home", home, code=1).stderr


def test_an_ambiguous_name_lists_what_it_may_mean(tmp_path):
    twin = Send(to=BOB.public, amount=1)
    with Store.open(tmp_path / "l.db", GENESIS, create=True) as store:
        store.append(ALICE_LOG, [twin, twin], ALICE)
    (tmp_path / "n.json").write_bytes(GENESIS.encode())
    name = leaf_hash(twin.encode()).hex()[:12]
    error = call("prove", name, "--store", tmp_path / "l.db", "--network", tmp_path / "n.json", code=2)
    assert re.search(r"2 entries fit \(d5bf.*:0, d5bf.*:1\)", error.stderr)


def test_a_proof_that_does_not_hold_exits_with_1(proof, network, tmp_path):
    proof.write_text(proof.read_text().replace("index 4", "index 3"))
    result = call("check", proof, "--network", network, code=1)
    assert result.stdout == "PROVES NOTHING\n"
    assert re.fullmatch("FP-204: the proof leads to root .*\n", result.stderr)
    assert call_json("check", proof, "--network", network, code=1)["error"]["code"] == "FP-204"
    other = Genesis.create(name="other", supply={}, witnesses=[("witness", key_of("else").public)])
    (tmp_path / "other.json").write_bytes(other.encode())
    assert "PROVES NOTHING" in call("check", proof, "--network", tmp_path / "other.json", code=1).stdout


@pytest.mark.parametrize("damage", ["no proof", "no network", "empty", "folder", "huge", "binary", "bad network"])
def test_what_cannot_be_read_exits_with_2(proof, network, tmp_path, damage):
    if damage == "no proof":
        proof.unlink()
    elif damage == "folder":
        proof.unlink()
        proof.mkdir()
    elif damage in ("empty", "huge", "binary"):
        proof.write_bytes({"empty": b"", "huge": bytes(10**6), "binary": bytes(range(256))}[damage])
    elif damage == "bad network":
        network = tmp_path / "bad.json"
        network.write_bytes(codec.encode({"name": "x"}))
    else:
        network = tmp_path / "none.json"
    error = call("check", proof, "--network", network, code=2)
    assert re.fullmatch(r"FP-20[47]: .+\n", error.stderr)
    assert "error" in json.loads(call("check", proof, "--network", network, "--json", code=2).stdout)


def test_exit_codes_reach_the_shell(proof, network):
    command = [sys.executable, "-c", "from ledger.cli.main import main; main()", "check", str(proof), "--network"]
    codes = []
    for text in (proof.read_text(), proof.read_text().replace("index 4", "index 5"), "?"):
        proof.write_text(text)
        codes.append(subprocess.run([*command, str(network)], capture_output=True, check=False).returncode)
    assert codes == [0, 1, 2]


def test_a_likely_command_is_named():
    assert "did you mean 'prove'" in call("prov", code=2).stderr
    assert "there are" in call("xyzzy", code=2).stderr
