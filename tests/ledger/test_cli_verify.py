"""`forge-ledger verify` beyond the plain replay: earlier certificates, archives, replayed runs, progress.

IO: stores and folders in temporary places.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from ledger import live
from ledger.cli.progress import Progress
from ledger.entries import Send
from ledger.live import ReplayReport
from ledger.store.store import Store

from .cli_kit import call, call_json, tampered
from .world import ALICE, ALICE_LOG, BOB, GENESIS, certify

# Certificates of an earlier verification.


def test_certificates_go_out_and_back_in(home, tmp_path):
    cert = tmp_path / "cert"
    call("verify", "--home", home, "--write-cert", cert)
    assert "earlier" in call("verify", "--home", home, "--since", cert).stdout
    checkpoint = tmp_path / "out" / "run"
    call("export", tmp_path / "out", "--home", home)
    [single] = checkpoint.glob("*/checkpoint")
    assert call_json("verify", "--home", home, "--since", single)["ok"]


def test_a_ledger_rolled_back_behind_an_earlier_certificate_is_not_sound(home, tmp_path):
    later = shutil.copytree(home, tmp_path / "later")
    with Store.open(later / "ledger.db", GENESIS) as store:
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
        certify(store, ALICE_LOG)
    call("verify", "--home", later, "--write-cert", tmp_path / "cert")
    report = call_json("verify", "--home", home, "--since", tmp_path / "cert", code=1)
    assert report["faults"][0]["origin"] == ALICE_LOG


@pytest.mark.parametrize("damage", ["missing", "garbage", "folder"])
def test_certificates_that_cannot_be_read_are_told(home, tmp_path, damage):
    path = tmp_path / "cert"
    if damage == "garbage":
        path.write_bytes(b"x\n")
    elif damage == "folder":
        path.mkdir()
    assert re.fullmatch("FP-205: .+\n", call("verify", "--home", home, "--since", path, code=2).stderr)


def test_an_unsound_ledger_leaves_no_certificates(home, tmp_path):
    copy = tampered(home, tmp_path)
    assert "left out" in call("verify", "--home", copy, "--write-cert", tmp_path / "cert", code=1).stdout
    assert not (tmp_path / "cert").exists()


# Archives.


@pytest.fixture
def out(home, tmp_path):
    call("export", tmp_path / "out", "--home", home)
    return tmp_path / "out"


def test_an_archive_is_verified_without_a_ledger(home, out):
    output = call("verify", "--archive", out).stdout
    assert "2 logs, 13 entries (13 certified)" in output
    assert "SOUND" in output
    assert call_json("verify", "--archive", out, "--network", home / "network.json")["counts"]["receipts"] == 4


def test_an_archive_with_a_changed_entry_is_not_sound_and_names_it(out):
    [bundle] = out.glob("run/*/tile/entries/000.p/10")
    bundle.write_bytes(bundle.read_bytes().replace(b'"steps":5', b'"steps":4', 1))
    output = call("verify", "--archive", out, code=1).stdout
    assert "NOT SOUND: 1 fault" in output
    assert re.search(r"run/\w+ entry 3 \(run/.*entries/000.p/10\): leaf hash is", output)
    [fault] = call_json("verify", "--archive", out, code=1)["faults"]
    assert (fault["entry"], fault["rule"]) == (3, "leaf hash")


def test_an_archive_that_lacks_a_tile_is_not_sound(out):
    [tile] = out.glob("run/*/tile/0/000.p/10")
    tile.unlink()
    assert "tile/0/000.p/10" in call("verify", "--archive", out, code=1).stdout


def test_an_archive_that_is_none_or_of_another_network_is_unreadable(out, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({**GENESIS.to_json(), "name": "other"}))
    assert "FP-216" in call("verify", "--archive", tmp_path / "none", code=2).stderr
    assert "FP-207" in call("verify", "--archive", out, "--network", tmp_path / "other.json", code=2).stderr


# Replays.


class Replayer:
    """The plug-in, with an outcome of its own."""

    def __init__(self, **changes) -> None:
        self.report = ReplayReport(**{"rounds": 2, "compared": 3, "mismatches": (), "missing": (), **changes})

    def replay(self, home, run_id, entries, progress):
        assert len(entries) == 10
        progress(1, 2)
        return self.report


@pytest.mark.parametrize(("changes", "code", "words"), [
    ({}, 0, "replayed 2 rounds: 3 states compared"), ({"mismatches": ("round 2: …",)}, 1, "ANOTHER STATE: round 2"),
    ({"missing": ("ab-1",)}, 2, "1 blob of the run not here"),
])  # fmt: skip
def test_a_replay_decides_the_exit_code(home, monkeypatch, changes, code, words):
    monkeypatch.setattr(live, "replay", lambda: Replayer(**changes))
    assert words in call("verify", "--home", home, "--replay", "run/b4397", code=code).stdout
    assert call_json("verify", "--home", home, "--replay", "b4397", code=code)["replay"]["rounds"] == 2


def test_a_replay_of_an_unknown_run_is_told(home):
    assert "FP-208" in call("verify", "--home", home, "--replay", "zz", code=2).stderr


# Progress.


def test_nothing_but_the_report_is_printed_where_there_is_no_terminal(home):
    command = [sys.executable, "-c", "from ledger.cli.main import main; main()", "verify", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = Progress("verifying", "entries")
    shown(50, 100)
    shown.end()
    assert re.fullmatch("\r\x1b\\[Kverifying █{15}░{15}  50 %  50 of 100 entries\r\x1b\\[K", capsys.readouterr().err)
    quiet = Progress("verifying", "entries", quiet=True)
    quiet(50, 100)
    quiet.end()
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_long_work_tells_a_plain_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("ledger.cli.progress.TELL_S", 0.0)
    Progress("verifying", "entries")(5, 1000)
    assert capsys.readouterr().err == "verifying: 5 of 1,000 entries\n"


def test_a_copy_of_a_store_without_its_network_file_can_be_named_by_parts(home, tmp_path):
    shutil.copy(home / "ledger.db", tmp_path / "x.db")
    call("verify", "--store", tmp_path / "x.db", "--network", home / "network.json", "--processes", 2, "--quiet")
