"""Several peers, many rounds, and every few seconds one of them dies or is restarted: leaders and witnesses, too.

The seed draws who, how and for how long; how far the run is by then is the machine's affair. There is a quorum of the
four witnesses most of the time. `FORGE_CHAOS_SEED` draws another story; `scripts/nightly` plays eight peers and sixty
rounds (`FORGE_CHAOS_PEERS`, `FORGE_CHAOS_ROUNDS`).

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peer.demo.peers import run, run_json
from peer.demo.story import wait_until
from tests.e2e.quorum_kit import PATIENCE_S, Net, four_witnesses, job, willing

pytestmark = pytest.mark.e2e

PEERS = int(os.environ.get("FORGE_CHAOS_PEERS", "5"))
ROUNDS = int(os.environ.get("FORGE_CHAOS_ROUNDS", "16"))
ACCIDENTS = ROUNDS // 5
"""The run goes on until so many rounds are settled and so many peers died or were restarted; then it is cancelled."""
MOST_DOWN = 2 if PEERS > 6 else 1
LEADERS = 4
LONGEST_S = 120.0 + 12.0 * ROUNDS
SPEC = """
name: chaos
seed: 5
model: {{family: gpt2, layers: 1, hidden_size: 32, heads: 2}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{rounds: 2000, inner_steps: 24, batch_size: 4}}
members: {{min: 2, max: 8}}
credits: {{price: 1000}}
evaluation: {{every: 20, sequences: 4}}
"""


@dataclass(kw_only=True)
class Accidents:
    """Who is down, and until when."""

    net: Net
    rng: random.Random
    down: dict[int, float]
    """By number of the peer: when it is started again, on the monotonic clock."""
    starting: set[int]
    """Numbers of those that were started again and do not answer yet: no accident hits them, however slow they are."""
    told: list[str]
    """What happened, for who reads a failure."""
    count: Counter[str]

    @property
    def away(self) -> int:
        """How many peers are not there just now."""
        return len(self.down) + len(self.starting)

    def happen(self) -> None:
        """One peer that is up dies, or is asked to stop; it comes back a little later."""
        up = [peer for peer in self.net.peers if peer.number not in self.down and peer.number not in self.starting]
        peer, how = self.rng.choice(up), self.rng.choice(["killed", "killed", "stopped"])
        if how == "killed":
            peer.kill()
        else:
            peer.stop()
        assert peer.orphans() == [], f"{peer.label} left processes behind"
        away_s = self.rng.uniform(0.2, 4.0)
        self.down[peer.number] = time.monotonic() + away_s
        self.count[how] += 1
        self.told.append(f"{peer.label} {how} for {away_s:.1f} s at round {self.round()}")

    def mend(self, *, all_of_them: bool = False) -> None:
        """Start those again whose time is over."""
        self.starting -= {number for number in self.starting if self.net.peers[number - 1].is_ready()}
        for number, until in list(self.down.items()):
            if all_of_them or time.monotonic() >= until:
                self.net.peers[number - 1].start("--device", "cpu", "--threads", "1")
                del self.down[number]
                self.starting.add(number)

    def round(self) -> int:
        """The newest round that a peer tells of."""
        return max((job(peer)["round"] for peer in self.net.peers), default=0)


def until_enough(accidents: Accidents) -> Iterator[float]:
    """Seconds since the start, again and again until there were enough rounds and accidents; never for too long."""
    began = time.monotonic()
    while accidents.round() < ROUNDS or accidents.count.total() < ACCIDENTS:
        passed = time.monotonic() - began
        assert passed < LONGEST_S, f"round {accidents.round()} of {ROUNDS} after {passed:.0f} s: {accidents.told}"
        yield passed


def whole_replay(net: Net, copy: Path) -> dict[str, Any]:
    """What an auditor finds who asks every peer for what it still has, and applies all updates again."""
    last, *others = reversed(net.peers)
    assert last.stop(), f"{last.label} did not stop cleanly"
    shutil.copytree(last.home, copy)
    for peer in others:
        shutil.copytree(peer.home / "blobs", copy / "blobs", dirs_exist_ok=True)
    (run_id,) = [folder.name for folder in (copy / "runs").iterdir()]
    return dict(run_json("forge-ledger", "verify", "--home", copy, "--replay", run_id))


def test_a_run_survives_that_every_few_seconds_a_peer_dies_or_is_restarted(tmp_path: Path) -> None:
    seed = int(os.environ.get("FORGE_CHAOS_SEED", "7"))
    (tmp_path / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    corpus = json.dumps(str(tmp_path / "corpus.txt"))
    (tmp_path / "run.yaml").write_text(SPEC.format(corpus=corpus))
    with four_witnesses(tmp_path / "net", "max_runs = 1\nlead = true\n", PEERS) as net:
        first = net.peers[0]
        assert wait_until(lambda: len(willing(first)) >= LEADERS, PATIENCE_S), willing(first)
        run("forge-peer", "submit", tmp_path / "run.yaml", "--home", first.home)
        accidents = Accidents(net=net, rng=random.Random(seed), down={}, starting=set(), told=[], count=Counter())
        assert wait_until(lambda: job(first)["round"] >= 2, PATIENCE_S), job(first)
        next_s = 0.0
        for passed in until_enough(accidents):
            accidents.mend()
            if passed >= next_s and accidents.away < MOST_DOWN:
                accidents.happen()
                next_s = passed + accidents.rng.uniform(2.0, 6.0)
            time.sleep(0.1)
        accidents.mend(all_of_them=True)
        for peer in net.peers:
            peer.wait_ready()
        run("forge-peer", "cancel", "--home", first.home)
        assert wait_until(lambda: all(job(peer)["phase"] == "closed" for peer in net.peers), 2 * PATIENCE_S), [
            (peer.label, job(peer)["phase"], job(peer)["round"]) for peer in net.peers
        ]
        rounds = job(first)["round"]
        assert rounds >= ROUNDS
        assert {(job(peer)["round"], job(peer)["state"]) for peer in net.peers} == {(rounds, job(first)["state"])}
        logs = {peer.label: peer.log.read_text("utf-8", "replace") for peer in net.peers}
        assert [name for name, text in logs.items() if re.search("state_differs|Traceback", text)] == []
        for peer in net.peers:
            report = run_json("forge-ledger", "verify", "--home", peer.home)
            assert report["ok"] is True, (peer.label, report)
        report = whole_replay(net, tmp_path / "auditor")
        assert report["ok"] is True, report
        assert (report["replay"]["compared"], report["replay"]["missing"]) == (rounds, []), report
