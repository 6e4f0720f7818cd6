"""`forge-ledger recover` and `evidence`: after an old backup was restored; and who contradicted itself.

IO: stores, folders and keys in temporary places; witnesses are told of, not asked.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from ledger import live
from ledger.entries import Send
from ledger.live import Tail
from ledger.store.store import Store

from .cli_kit import call, call_json
from .world import ALICE, ALICE_LOG, BOB, GENESIS, RUN_LOG, certify, fill, key_of, run_log


def open_(home):
    return Store.open(home / "ledger.db", GENESIS)


@pytest.fixture
def homes(tmp_path):
    """Alice's home as it went on, and an old backup of it: 3 entries of hers and 4 of her run came later."""
    going, backup = tmp_path / "going", tmp_path / "backup"
    (going / "keys").mkdir(parents=True)
    ALICE.save(going / "keys" / "account.key")
    (going / "network.json").write_text(json.dumps({"genesis": GENESIS.to_json(), "bootstrap": ["/ip4/x/p2p/a"]}))
    with Store.open(going / "ledger.db", GENESIS, create=True) as store:
        fill(store, rounds=1)
    shutil.copytree(going, backup)
    with open_(going) as store:
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=1), Send(to=BOB.public, amount=2)], ALICE)
        certify(store, ALICE_LOG)
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=3)], ALICE)  # a witness may have this one already
        store.append(RUN_LOG, run_log(2)[6:], ALICE)
        certify(store, RUN_LOG)
    return going, backup


def sizes(home):
    with open_(home) as store:
        return store.size(ALICE_LOG), store.size(RUN_LOG)


def asking(monkeypatch, source, *errors, **changes) -> list[object]:
    """Witnesses, one of which has what this home has; gives a list of what they are asked."""
    asked: list[object] = []

    class Witnesses:
        def entries(self, genesis, bootstrap, starts, timeout_s):
            asked.append((list(bootstrap), dict(starts)))
            found = {}
            with Store.open(source / "ledger.db", GENESIS, read_only=True) as store:
                for log, start in starts.items():
                    note = store.head(log) or b""
                    entries, sealed = tuple(store.entries(log, start, store.size(log))), store.certified(log).note
                    tail = Tail(entries=entries, note=note, certificate=sealed)
                    found[log] = {"witness": Tail(**{**vars(tail), **changes})}
                    found[log] |= {f"silent {number}": Tail(error=error) for number, error in enumerate(errors)}
            return found

    monkeypatch.setattr(live, "live", Witnesses)
    return asked


@pytest.mark.parametrize("source", ["home", "store", "live"])
def test_a_restored_backup_gets_back_what_its_key_signed_since(homes, monkeypatch, source):
    going, backup = homes
    extra = {"home": ["--from", going], "store": ["--from", going / "ledger.db"], "live": []}[source]
    asked = asking(monkeypatch, going, "no answer")
    output = call("recover", "--home", backup, *extra).stdout
    assert sizes(backup) == sizes(going) == (4, 10)
    assert re.search(r"d5bf4a3fcce7… +1 +3 +4 ", output)
    assert re.search(r"run/b439733f2c4b… +6 +4 +10 ", output)
    if source == "live":
        assert asked == [(["/ip4/x/p2p/a"], {ALICE_LOG: 1, RUN_LOG: 6})]
        assert "silent 0: no answer" in output
    with open_(backup) as store:
        assert (store.certified(ALICE_LOG).size, store.certified(RUN_LOG).size) == (3, 10)
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=4)], ALICE)  # and it goes on
        certify(store, ALICE_LOG)
    assert "SOUND" in call("verify", "--home", backup).stdout


def test_an_archive_gives_back_what_was_certified(homes, tmp_path):
    going, backup = homes
    call("export", tmp_path / "out", "--home", going)
    body = call_json("recover", "--home", backup, "--from", tmp_path / "out")
    assert body["ok"]
    assert {log["origin"]: (log["had"], log["has"]) for log in body["logs"]} == {ALICE_LOG: (1, 3), RUN_LOG: (6, 10)}
    with open_(backup) as store:
        assert store.certified(ALICE_LOG).size == 3


def test_a_run_that_the_backup_does_not_know_comes_back_too(homes, tmp_path):
    going, backup = homes
    (backup / "ledger.db").unlink()
    Store.open(backup / "ledger.db", GENESIS, create=True).close()
    call("export", tmp_path / "out", "--home", going)
    call("recover", "--home", backup, "--from", tmp_path / "out")
    assert sizes(backup) == (3, 10)


def test_where_nothing_is_missing_nothing_happens(homes, monkeypatch):
    going, backup = homes
    output = call("recover", "--home", going, "--from", backup).stdout
    assert output == "nothing to recover: nobody who answered has more of your logs than is here\n"
    assert sizes(going) == (4, 10)


def test_a_real_fork_is_refused_saying_what_is_lost_and_kept_as_evidence(homes, tmp_path):
    going, backup = homes
    with open_(backup) as store:
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=99), Send(to=BOB.public, amount=98)], ALICE)
    output = call("recover", "--home", backup, "--from", going, code=1).stdout
    assert f"LOST {ALICE_LOG}: our key signed two histories from entry 1 on: 2 entries here, and 3 others" in output
    assert "no witness cosigns this log any more" in output
    assert sizes(backup)[0] == 3
    assert "d5bf4a3fcce7… contradicted itself" in call("show", "--home", backup).stdout
    assert call_json("show", "--home", backup)["accused"] == [ALICE_LOG]
    listed = call("evidence", "--home", backup, "--out", tmp_path / "proofs").stdout
    assert re.search(r"d5bf4a3fcce7… +3 and 4 +its writer d5bf4a3fcce7… +.*evidence-1.json", listed)
    network = backup / "network.json"
    checked = call("evidence", "--check", tmp_path / "proofs" / "evidence-1.json", "--network", network).stdout
    assert checked.startswith("PROVEN\n")
    assert f"signed by {ALICE.public}, its writer" in checked
    again = call_json("recover", "--home", backup, "--from", going, code=1)
    assert (again["ok"], bool(again["logs"][0]["lost"])) == (False, True)


@pytest.mark.parametrize("changes", [
    {"entries": (b"{}",)}, {"note": b"nonsense"}, {"entries": ()},
    {"entries": (Send(to=BOB.public, amount=9).encode(),) * 3},
], ids=["garbage", "no note", "nothing", "others"])  # fmt: skip
def test_a_witness_that_lies_does_no_harm_and_is_no_fork(homes, monkeypatch, changes):
    going, backup = homes
    asking(monkeypatch, going, **changes)
    output = call("recover", "--home", backup).stdout
    assert "not taken from witness: " in output
    assert "LOST" not in output
    assert sizes(backup) == (1, 6)


def test_when_nobody_answers_that_is_told(homes, monkeypatch):
    going, backup = homes
    asking(monkeypatch, going, error="no answer", entries=(), note=b"")
    output = call("recover", "--home", backup, code=2).stdout
    assert "witness: no answer" in output


HOLD = """
import sys, time
from pathlib import Path
from ledger.store.store import Store
from tests.ledger.world import GENESIS
with Store.open(Path(sys.argv[1]), GENESIS):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_the_daemon_must_be_stopped_first(homes):
    going, backup = homes
    command = [sys.executable, "-c", HOLD, str(backup / "ledger.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout.readline() == b"open\n"
        error = call("recover", "--home", backup, "--from", going, code=2).stderr
        daemon.stdin.close()
    assert "FP-209" in error
    assert "stop it first: forge-peer stop" in error


@pytest.mark.parametrize("damage", ["no key", "foreign archive", "no source", "no home"])
def test_what_recover_cannot_work_with_is_told_in_one_line(homes, tmp_path, damage):
    going, backup = homes
    arguments = ["recover", "--home", backup, "--from", going]
    if damage == "no key":
        (backup / "keys" / "account.key").unlink()
    elif damage == "foreign archive":
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "genesis.json").write_bytes(b"{}")
        arguments[-1] = tmp_path / "foreign"
    elif damage == "no source":
        arguments[-1] = tmp_path / "nothing"
    else:
        arguments = ["recover"]
    assert call(*arguments, code=2).stderr.strip()


# Evidence.


def test_without_evidence_there_is_none(homes):
    going, _ = homes
    assert call("evidence", "--home", going).stdout == "there is no evidence against anybody here\n"
    assert call_json("evidence", ALICE.public, "--home", going) == {"evidence": []}


@pytest.mark.parametrize(("damage", "code"), [("flip", 1), ("garbage", 2), ("missing", 2), ("network", 1)])
def test_evidence_that_proves_nothing_is_told_apart_from_what_is_none(homes, tmp_path, damage, code):
    going, backup = homes
    with open_(backup) as store:
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=99)], ALICE)
    call("recover", "--home", backup, "--from", going, code=1)
    call("evidence", "--home", backup, "--out", tmp_path)
    file, network = tmp_path / "evidence-1.json", backup / "network.json"
    if damage == "flip":
        body = json.loads(file.read_text())
        body["root"] = "00" * 32
        file.write_text(json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    elif damage == "garbage":
        file.write_bytes(b"x")
    elif damage == "missing":
        file.unlink()
    else:
        network = tmp_path / "other.json"
        body = {**GENESIS.to_json(), "witnesses": [["witness", key_of("else").public]]}
        network.write_text(json.dumps(body))
    result = call("evidence", "--check", file, "--network", network, code=code)
    assert "FP-214" in result.stderr
    assert ("PROVES NOTHING" in result.stdout) == (code == 1)
