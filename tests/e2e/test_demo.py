"""The main job, with real daemons and real kills, exactly as `./scripts/demo` shows it.

IO: real daemons and p2pd; about two minutes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from peer.demo.peers import program
from peer.demo.story import wait_until

pytestmark = pytest.mark.e2e

KEYS = {
    "peers", "rounds", "first_loss", "last_loss", "validation_loss", "receipts", "tokens", "joined_at_round",
    "killed_at_round", "rejoined_at_round", "state_ids_equal", "state_ids", "ledger_ok", "tamper_detected", "credits",
    "model_folder", "seconds",
}  # fmt: skip


def living(folder: Path) -> list[str]:
    """Command lines of processes that work for a demo's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.pid != os.getpid():
            found.append(line)
    return found


def test_the_main_job_holds(tmp_path: Path) -> None:
    folder, summary = tmp_path / "demo", tmp_path / "summary.json"
    command = [*program("forge-peer"), "demo", "--home", str(folder), "--json", str(summary)]
    with (tmp_path / "out.txt").open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, timeout=600, check=False)
    text = (tmp_path / "out.txt").read_text()
    assert done.returncode == 0, text
    told = json.loads(summary.read_text())
    assert set(told) >= KEYS
    assert told["ok"] is True
    assert told["last_loss"] < told["first_loss"]
    assert 1 < told["joined_at_round"] < told["killed_at_round"] < told["rejoined_at_round"] <= told["rounds"]
    assert len(set(told["state_ids"].values())) == 1
    assert len(told["state_ids"]) == told["peers"] == 3
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        "tokens = T.from_pretrained(sys.argv[1])('In the year', return_tensors='pt'); "
        "print(M.from_pretrained(sys.argv[1]).generate(**tokens, max_new_tokens=5).shape[1])"
    )
    loads = [sys.executable, "-c", code, told["model_folder"]]
    spoken = subprocess.run(loads, capture_output=True, text=True, timeout=120, check=True).stdout
    assert int(spoken.split()[-1]) > 5
    assert living(folder) == []


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [*program("forge-peer"), "demo", "--home", str(folder)]
    with (tmp_path / "out.txt").open("w") as out:
        demo = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        assert wait_until(lambda: "peer 2 runs" in (tmp_path / "out.txt").read_text(), 120)
        assert living(folder)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
    finally:
        demo.kill()
    assert living(folder) == []


def test_a_killed_demo_takes_its_daemons_along(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [*program("forge-peer"), "demo", "--home", str(folder)]
    with (tmp_path / "out.txt").open("w") as out:
        demo = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        assert wait_until(lambda: "peer 1 runs" in (tmp_path / "out.txt").read_text(), 120)
    finally:
        demo.kill()
        demo.wait()
    assert wait_until(lambda: living(folder) == [], 10)
