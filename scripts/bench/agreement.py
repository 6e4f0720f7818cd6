"""Do all members hold the same weights, whatever happens to one of them, and does a replay elsewhere find them again?

Three daemons train; one member is killed with SIGKILL at random moments and started again, several times. The members
differ in thread count and in `ATEN_CPU_CAPABILITY`. Every state file that a member's worker computes is named by its
hash; each is compared with the run's log, and the log's last state must be at every member's in the end. Then the run
is replayed from the blobs by fresh workers under every combination of thread count and instruction set.

`mismatches` counts both: states that a member computed but the log does not have, and replayed states that differ.

IO: daemons, workers.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cluster
import harness
import replay
from cluster import Event, Journal, Peer
from harness import Options, Result, say

from peer.cli.client import run_path
from peer.demo.peers import DemoFailed
from peer.rounds.log import RunLog

SPEC = f"""\
name: agreement
seed: 11
model: {{{{family: gpt2, layers: 2, hidden_size: 48, heads: 4}}}}
data:
  path: {cluster.CORPUS}
  sequence_length: 32
  tokenizer: {{{{kind: bpe, vocab_size: 512}}}}
training:
  rounds: {{rounds}}
  inner_steps: 1000
  batch_size: 4
  learning_rate: 0.002
  time_budget_s: 1.5
  codec: {{{{kind: topk, k: 64}}}}
members: {{{{min: 2, max: 3}}}}
evaluation: {{{{every: 0}}}}
"""
"""A round ends with its time budget, on any machine. The run is cancelled once all was seen that is wanted."""
MOST_ROUNDS = 10
"""Times the wanted rounds: if the kills are not over by then, they will not be."""
CAPABILITIES = ("default", "avx2", "avx512")
THREADS = (1, 2, 4)
BACK_S = 120.0
MOST_AWAY_ROUNDS = 3
MID_ROUND_S = 1.4


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is tried."""

    rounds: int
    kills: int


FULL = Size(rounds=100, kills=10)
QUICK = Size(rounds=12, kills=1)


@dataclass(kw_only=True)
class Seen:
    """What one member was seen to compute and to do."""

    peer: Peer
    journal: Journal
    states: set[str] = field(default_factory=set)
    """Roots of the states that its worker computed."""

    def look(self, run: str) -> None:
        """Note the newest state files; the worker keeps three, so a few looks per round see them all."""
        self.journal.poll()
        folder = self.peer.run_folder(run) / "work" / "states"
        self.states |= {path.stem for path in folder.glob("*.safetensors")}


def astray(states: set[str], log: Sequence[str]) -> list[str]:
    """The state roots that are not in the log's state ids."""
    return sorted(states - {state.partition("-")[0] for state in log})


def differing(found: Sequence[str], wanted: Sequence[str]) -> int:
    """How many rounds of a replay ended in another state, or in none."""
    same = sum(a == b for a, b in zip(found, wanted, strict=False))
    return max(len(found), len(wanted)) - same


class Trouble:
    """Kills one member at random moments and starts it again, until it has been back often enough."""

    def __init__(self, victim: Seen, first: Peer, kills: int, rng: random.Random) -> None:
        """`first` is the peer to join through."""
        self.back = 0
        """How often the victim was killed and has delivered again since."""
        self._victim, self._first, self._kills, self._rng = victim, first, kills, rng
        self._killed_at = self._started_at = self._due = 0.0
        self._round = self._away = 0
        self._settled = 0

    @property
    def away(self) -> Seen | None:
        """The member that is dead now."""
        return self._victim if self._killed_at and not self._started_at else None

    def settled(self, event: Event) -> None:
        """The leader settled a round."""
        self._settled = event["round"]
        if self._started_at and self._victim.peer.account in event["accounts"] and event["round"] > self._round:
            self.back += 1
            seconds = time.monotonic() - self._killed_at
            count = f"{self.back} of {self._kills}"
            say(f"round {event['round']}: killed in {self._round}, back after {seconds:.1f} s ({count})")
            self._killed_at = self._started_at = self._due = 0.0

    def tick(self) -> None:
        """Kill or start again, if it is time."""
        now = time.monotonic()
        if not self._killed_at:
            self._maybe_kill(now)
        elif not self._started_at and self._settled >= self._round + self._away:
            self._victim.peer.begin(self._first)
            self._started_at = now
        elif self._started_at and now - self._started_at > BACK_S:
            peer = self._victim.peer
            raise DemoFailed(f"{peer.label}: not back after {BACK_S:.0f} s", f"see {peer.log}")

    def _maybe_kill(self, now: float) -> None:
        """At any moment after the victim has begun a round: in training, delivering, or applying."""
        began = self._victim.journal.times("training")
        if self.back >= self._kills or not began or max(began) <= self._settled or self._settled < 2:
            return
        if not self._due:
            self._due = now + self._rng.uniform(0.0, MID_ROUND_S + 0.3)
        elif now >= self._due:
            self._round, self._away = self._settled + 1, self._rng.randint(0, MOST_AWAY_ROUNDS)
            self._victim.peer.kill()
            if left := self._victim.peer.orphans():
                raise DemoFailed(f"the kill left processes {left}")
            self._killed_at = now


def train(peers: Sequence[Peer], run: str, size: Size) -> tuple[list[Seen], Trouble]:
    """The run, with trouble; returns what was seen of each member."""
    seen = [Seen(peer=peer, journal=peer.journal(run)) for peer in peers]
    trouble = Trouble(seen[1], peers[0], size.kills, random.Random(20))
    leader, told, last = seen[0], 0, time.monotonic()
    ending = False
    while not all(any(event["event"] == "claimed" for event in one.journal.events) for one in seen):
        for one in seen:
            one.look(run)
            if one is not trouble.away:
                one.peer.must_run()
        for event in leader.journal.events[told:]:
            last = time.monotonic()
            if event["event"] == "settled":
                trouble.settled(event)
                if not ending and event["round"] >= size.rounds and trouble.back >= size.kills:
                    ending = True
                    peers[0].client.post(run_path(run, "cancel"))
        told = len(leader.journal.events)
        if time.monotonic() - last > cluster.SILENCE_S:
            raise DemoFailed(f"run {run[:16]}: stuck", f"see {peers[0].log}")
        trouble.tick()
        time.sleep(cluster.POLL_S)
    return seen, trouble


def variants(quick: bool) -> list[tuple[str, int]]:
    """Instruction sets that this machine has, with thread counts."""
    known = [name for name in CAPABILITIES if _capability(name) == name.upper()]
    if quick:
        return [(name, THREADS[place % len(THREADS)]) for place, name in enumerate(known)]
    return [(name, threads) for name in known for threads in THREADS]


def _capability(wanted: str) -> str:
    """What torch really uses when it is asked for this."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    given = {**os.environ, "ATEN_CPU_CAPABILITY": wanted}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def replays(peer: Peer, log: RunLog, folder: Path, tried: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Rounds that differ, by variant."""
    wanted = [settled.state for settled in log.settled]
    found = {}
    for name, threads in tried:
        label, variables = f"{name}, {threads} threads", {"ATEN_CPU_CAPABILITY": name}
        done = replay.replay(peer, log, folder / f"{name}-{threads}", threads=threads, variables=variables)
        found[label] = differing(done.states, wanted)
        say(f"replayed {len(done.states)} rounds with {label}: {found[label]} differ")
    return found


def counts(seen: Sequence[Seen], log: RunLog, replayed: Mapping[str, int]) -> dict[str, Any]:
    """The metrics."""
    states = [log.state_after(number) for number in range(log.round + 1)]
    strangers = {one.peer.label: astray(one.states, states) for one in seen}
    computed = sum(len(one.states) for one in seen)
    lacking = sum(not one.peer.blob(log.state).exists() for one in seen)
    live = sum(map(len, strangers.values())) + lacking
    caught = [event for one in seen for event in one.journal.events if event["event"] == "caught_up"]
    return {
        "mismatches": live + sum(replayed.values()),
        "mismatches_live": live,
        "mismatches_replayed": sum(replayed.values()),
        "rounds": log.round,
        "receipts": sum(len(settled.receipts) for settled in log.settled),
        "states_compared": computed + len(seen),
        "states_replayed": log.round * len(replayed),
        "caught_up_by_replay": sum(event["by"] == "replay" for event in caught),
        "caught_up_by_snapshot": sum(event["by"] == "snapshot" for event in caught),
        "computed": {one.peer.label: len(one.states) for one in seen},
        "strangers": strangers,
        "replayed": dict(replayed),
    }


def measure(options: Options) -> Result:
    """Train with trouble, compare, replay, compare."""
    size = QUICK if options.quick else FULL
    tried = variants(options.quick)
    kinds = [{"ATEN_CPU_CAPABILITY": name} for name in dict(tried)]
    with cluster.cluster(options.folder, 3, threads=[1, 2, 1], environments=kinds or [{}]) as peers:
        run = cluster.submit(peers[0], options.folder, SPEC.format(rounds=MOST_ROUNDS * size.rounds))
        say(f"run {run[:16]} of {size.rounds} rounds; {peers[1].label} will be killed {size.kills} times")
        seen, trouble = train(peers, run, size)
    log = replay.run_log(peers[0], run)
    metrics = counts(seen, log, replays(peers[0], log, options.folder / "replays", tried))
    targets = {"mismatches": ("==", 0.0), "rounds": (">=", size.rounds), "kills": (">=", size.kills)}
    return Result(name="agreement", metrics={**metrics, "kills": trouble.back}, targets=targets)


def draw(result: Result, path: Path) -> None:
    """How many states were compared, and how many differed."""
    metrics = result.metrics
    strangers = metrics["strangers"]
    rows = {f"{label} (live)": (count, len(strangers[label])) for label, count in metrics["computed"].items()}
    rows |= {f"replay, {name}": (metrics["rounds"], count) for name, count in metrics["replayed"].items()}
    title = f"States compared with the log: {metrics['mismatches']} differ, {metrics['kills']} kills"
    with harness.new_figure(path, title=title, height=1.5 + 0.35 * len(rows)) as axes:
        axes.barh(list(rows), [same - differ for same, differ in rows.values()], color="tab:green", label="equal")
        axes.barh(list(rows), [differ for _, differ in rows.values()], color="tab:red", label="differ")
        axes.invert_yaxis()
        axes.set(xlabel="states")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    sys.exit(harness.main("agreement", (__doc__ or "").split("\n")[0], measure, draw))
