"""A peer whose clock is hours off joins through another, trains, and both tell whose clock it is.

IO: real daemons and p2pd; the time of one of them is moved before anything of it is imported.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peer.demo.peers import DemoPeer, run, run_json, yard
from peer.demo.story import wait_until
from tests.e2e.quorum_kit import PATIENCE_S, nothing_to_measure
from tests.e2e.test_failover import job, told

pytestmark = pytest.mark.e2e

SPEC = """
name: clocks
model: {{family: gpt2, layers: 1, hidden_size: 32, heads: 2}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{rounds: 3, inner_steps: 4, batch_size: 4}}
members: {{min: 2, max: 4}}
credits: {{price: 0}}
"""
MOVED = """
import os, time
_real, _ahead_s = time.time, float(os.environ.get("CLOCK_AHEAD_S", "0"))
time.time = lambda: _real() + _ahead_s
"""


@pytest.mark.parametrize("ahead_s", [10800, -10800])
def test_a_peer_whose_clock_is_hours_off_trains_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "sitecustomize.py").write_text(MOVED)
    paths = [str(tmp_path / "moved"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    (tmp_path / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    (tmp_path / "run.yaml").write_text(SPEC.format(corpus=json.dumps(str(tmp_path / "corpus.txt"))))
    first, second = peers = [DemoPeer(number=number, home=tmp_path / f"peer-{number}") for number in (1, 2)]
    made = run_json("forge-peer", "network", "create", "--home", first.home)
    for peer in peers:
        peer.home.mkdir(exist_ok=True)
        nothing_to_measure(peer.home)
    with yard(peers):
        first.start("--device", "cpu", "--threads", "1")
        first.wait_ready()
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        monkeypatch.setenv("CLOCK_AHEAD_S", str(ahead_s))
        second.start("--device", "cpu", "--threads", "1", "--network", made["file"], "--bootstrap", first.address)
        second.wait_ready()
        monkeypatch.delenv("CLOCK_AHEAD_S")
        run("forge-peer", "submit", tmp_path / "run.yaml", "--home", first.home)
        over = wait_until(lambda: job(second)["phase"] == job(first)["phase"] == "closed", 2 * PATIENCE_S)
        assert over, second.log.read_text()
        assert job(second)["state"] == job(first)["state"]
        (clock,) = [event for event in told(first, "clock") if event["account"] == second.account]
        assert abs(clock["offset_s"] - ahead_s) < 60
        assert any(event["account"] == first.account for event in told(second, "clock"))
