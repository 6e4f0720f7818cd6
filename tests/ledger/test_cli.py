"""`forge-ledger`: every command, and bad input for each."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from ledger.cli.main import main

from .cli_kit import call, call_json, tampered
from .world import ALICE, ALICE_LOG, BOB, CAROL, GENESIS, RUN, RUN_LOG


def test_verify_accepts_a_sound_ledger(home):
    output = call("verify", "--home", home).stdout
    assert "SOUND" in output
    assert "NOT SOUND" not in output
    assert "not proven:" in output
    report = call_json("verify", "--store", home / "ledger.db", "--network", home / "network.json")
    assert (report["ok"], report["counts"]["receipts"], report["counts"]["void"]) == (True, 4, 1)


def test_verify_names_a_changed_receipt_and_exits_with_1(home, tmp_path):
    copy = tampered(home, tmp_path)
    output = call("verify", "--home", copy, code=1).stdout
    assert re.search(f"NOT SOUND: 1 fault\n.*entry 3 .receipt of account {ALICE.public} round 1.: leaf hash is", output)
    report = call_json("verify", "--home", copy, code=1)
    [fault] = report["faults"]
    assert (report["ok"], fault["entry"], fault["origin"]) == (False, 3, RUN_LOG)
    assert fault["message"] in output


def test_the_home_can_come_from_the_environment(home):
    result = CliRunner().invoke(main, ["verify"], env={"FORGE_HOME": str(home)})
    assert result.exit_code == 0


def test_show_lists_network_logs_and_runs(home):
    output = call("show", "--home", home).stdout
    for part in (GENESIS.id, "quorum 1", "1,001 issued", f"run/{RUN[:12]}…", "tiny", "running"):
        assert part in output
    body = call_json("show", "--home", home)
    assert body["runs"][RUN]["paid"] == {ALICE.public: 20, BOB.public: 16}
    assert {log["origin"]: (log["entries"], log["certified"]) for log in body["logs"]}[ALICE_LOG] == (4, 3)


def test_log_lists_entries_with_what_became_of_them(home):
    output = call("log", ALICE.public[:8], "--home", home).stdout.splitlines()
    assert [line.split()[1] for line in output] == ["send", "receive", "send", "send"]
    assert "[void: amount is 1000000000000, wanted at most 999000020" in output[2]
    assert output[3].endswith("[not certified]")
    assert "receipt of" in call("log", f"run/{RUN}", "--start", 3, "--end", 4, "--home", home).stdout
    body = call_json("log", RUN_LOG, "--home", home, "--start", 2)
    assert [(entry["index"], entry["entry"]["type"]) for entry in body["entries"]][:2] == [(2, "open"), (3, "receipt")]
    assert {entry["status"] for entry in body["entries"]} == {"effective"}
    leaf = body["entries"][1]["leaf"]
    assert call_json("prove", leaf, "--home", home)["index"] == 3


def test_balance_shows_what_is_there_and_what_can_be_claimed(home):
    output = call("balance", "--home", home).stdout
    assert re.search(rf"{BOB.public} +0 +0\.000016", output)
    assert re.search(rf"{CAROL.public} +1 +0\n", output)
    body = call_json("balance", ALICE.public, "--home", home)
    assert body == {"unit": "micro-credits", "accounts": {ALICE.public: {"balance": 999000020, "claimable": 0}}}


def test_export_writes_tiles_checkpoint_and_genesis(home, tmp_path):
    body = call_json("export", tmp_path / "out", "--home", home)
    assert (body["logs"], body["entries"]) == (2, 13)
    assert (tmp_path / "out" / "genesis.json").read_bytes() == GENESIS.encode()
    run = tmp_path / "out" / "run" / RUN
    assert (run / "checkpoint").read_bytes().startswith(RUN_LOG.encode())
    assert (run / "tile" / "entries" / "000.p" / "10").is_file()
    assert "13 entries" in call("export", tmp_path / "again", "--home", home).stdout


def test_an_interrupted_verification_does_not_say_that_the_ledger_is_unsound(home, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ledger.verify.verify.verify_store", interrupted)
    assert call("verify", "--home", home, code=130).stderr == "interrupted\n"


def test_keygen_makes_a_key_once(tmp_path):
    public = call("keygen", tmp_path / "a.key").stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", public)
    assert call_json("keygen", tmp_path / "b.key")["public"] != public
    error = call("keygen", tmp_path / "a.key", code=2)
    assert "FP-202" in error.stderr


COMMANDS = [
    ["verify"], ["show"], ["log", "x"], ["balance"], ["runs"], ["history", "x"], ["why", "x:0"], ["prove", "x:0"],
    ["evidence"], ["export", "out"],
]  # fmt: skip
every_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@every_command
def test_without_a_ledger_every_command_says_which_options_it_wants(command):
    assert "--home DIR, or --store FILE --network FILE" in call(*command, code=2).stderr


@every_command
@pytest.mark.parametrize("damage", [
    "no home", "no network", "bad network", "no store", "bad store", "other network", "half a store", "empty store",
    "future version", "another program's", "folder",
])  # fmt: skip
def test_what_cannot_be_read_gives_one_line_and_exit_code_2(home, tmp_path, command, damage):
    copy = shutil.copytree(home, tmp_path / "copy")
    if damage == "no home":
        shutil.rmtree(copy)
    elif damage == "no network":
        (copy / "network.json").unlink()
    elif damage == "bad network":
        (copy / "network.json").write_text("{")
    elif damage == "no store":
        (copy / "ledger.db").unlink()
    elif damage == "bad store":
        (copy / "ledger.db").write_bytes(os.urandom(5000))
    elif damage == "half a store":
        data = (copy / "ledger.db").read_bytes()
        (copy / "ledger.db").write_bytes(data[: len(data) // 8192 * 4096 + 100])
    elif damage == "empty store":
        (copy / "ledger.db").write_bytes(b"")
    elif damage in ("future version", "another program's"):
        connection = sqlite3.connect(copy / "ledger.db")
        connection.execute(f"PRAGMA {'user_version' if damage == 'future version' else 'application_id'} = 99")
        connection.close()
    elif damage == "folder":
        (copy / "ledger.db").unlink()
        (copy / "ledger.db").mkdir()
    else:
        body = {**GENESIS.to_json(), "name": "other"}
        (copy / "network.json").write_text(json.dumps(body))
    error = call(*command, "--home", copy, code=2)
    assert re.fullmatch(r"FP-20[78]: .+\n", error.stderr)
    assert call_json(*command, "--home", copy, code=2)["error"]["code"] in ("FP-207", "FP-208")


@pytest.mark.parametrize("arguments", [
    ["log", "nothing"], ["log", ""], ["balance", "nothing"], ["balance", ""], ["log", ALICE.public, "--start", "-1"],
    ["log", ALICE.public, "--end", "x"], ["verify", "--what"], ["export", "."], ["nothing"],
])  # fmt: skip
def test_bad_arguments_give_exit_code_2(home, arguments, monkeypatch):
    monkeypatch.chdir(home)
    call(*arguments, *([] if arguments == ["nothing"] else ["--home", home]), code=2)


def test_an_unwritable_folder_is_said(home, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "cannot write" in call("export", tmp_path / "file" / "out", "--home", home, code=2).stderr
    assert "cannot write" in call("keygen", tmp_path / "file" / "key", code=2).stderr


def test_a_broken_page_of_the_file_is_unreadable_not_sound(home, tmp_path):
    copy = shutil.copytree(home, tmp_path / "copy")
    data = bytearray((copy / "ledger.db").read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 8] = b"\xff" * 8
    (copy / "ledger.db").write_bytes(data)
    assert "FP-208" in call("verify", "--home", copy, code=2).stderr


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"]])
def test_help_answers_at_once_without_heavy_imports(arguments):
    heavy = "('cryptography', 'sqlite3', 'rich')"
    probe = f"import sys, ledger.cli.main; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    best = min(_seconds(arguments) for _ in range(3))
    assert best < 0.6  # 0.3 s on an idle machine: scripts/bench/footprint.py measures that


def _seconds(arguments):
    start = time.perf_counter()
    command = [sys.executable, "-c", "from ledger.cli.main import main; main()", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
