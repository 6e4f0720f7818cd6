"""Tokens per second of one member inside the daemon over a plain PyTorch loop: same model, batch and threads.

Runs of one real daemon and bursts of the plain loop (`plain.py`) take turns, in the order A B B A, so that a drift of
the machine's speed cancels; each run is compared with the bursts beside it. The member's time reaches from the journal
event `training` to `delivered`: it contains reading the data, computing the update, compressing, hashing and storing
it, and signing the receipt. The first round of each run warms up and does not count. The plain loop runs with threads
that spin while they wait (PyTorch's default) and with threads that sleep (what the daemon asks for); which is faster
depends on how busy the machine is, and the faster one counts.

IO: a daemon, a process with the plain loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import cluster
import harness
import plain
from harness import Options, Result, say

from peer.demo.peers import DemoFailed

LAYERS, HIDDEN, HEADS, VOCABULARY = 4, 128, 4, 1024
LENGTH, BATCH, RATE = 128, 8, 0.003
POLICIES = {"active": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
SPEC = f"""\
name: efficiency
seed: 3
model: {{{{family: gpt2, layers: {LAYERS}, hidden_size: {HIDDEN}, heads: {HEADS}, vocab_size: {VOCABULARY}}}}}
data:
  path: {cluster.CORPUS}
  sequence_length: {LENGTH}
  tokenizer: {{{{kind: bpe, vocab_size: {VOCABULARY}}}}}
training:
  rounds: {{rounds}}
  inner_steps: {{steps}}
  batch_size: {BATCH}
  learning_rate: {RATE}
  time_budget_s: 600
  codec: {{{{kind: topk, k: 64}}}}
members: {{{{min: 1}}}}
evaluation: {{{{every: 0}}}}
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    turns: int
    """Daemon runs; a burst of the plain loop lies beside each."""
    rounds: int
    """Rounds of a run, the first of which does not count."""
    steps: int
    """Steps of a round, and of a burst per counted round."""


FULL = Size(turns=6, rounds=4, steps=60)
QUICK = Size(turns=2, rounds=2, steps=20)


class PlainLoop:
    """The process with the plain loop."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Use `plain_loop`."""
        self._process = process
        self.parameters = int(self._read()["parameters"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        value: dict[str, Any] = json.loads(self._process.stdout.readline())
        return value

    def burst(self, steps: int) -> float:
        """Take so many steps; returns tokens per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        done = self._read()
        return float(done["tokens"] / done["seconds"])


@contextmanager
def plain_loop(threads: int, variables: Mapping[str, str]) -> Iterator[PlainLoop]:
    """The plain loop, ready for bursts."""
    sizes = {
        "threads": threads, "layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "vocabulary": VOCABULARY,
        "length": LENGTH, "batch": BATCH,
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).with_name("plain.py")), *plain.words(sizes, RATE)]
    with cluster.environment(**variables):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield PlainLoop(process)
        finally:
            process.kill()


def member_speeds(events: Sequence[dict[str, Any]]) -> list[float]:
    """Tokens per second of each round but the first, from `training` to `delivered`."""
    started = {event["round"]: event["time"] for event in events if event["event"] == "training"}
    return [
        event["tokens"] / (event["time"] - started[event["round"]])
        for event in events
        if event["event"] == "delivered" and event["round"] > 1 and event["round"] in started
    ]


def run_speed(events: Sequence[dict[str, Any]]) -> float:
    """Tokens per second of all rounds but the first, with everything that lies between them."""
    settled = [event for event in events if event["event"] == "settled"]
    tokens = sum(event["tokens"] for event in settled[1:])
    return float(tokens / (settled[-1]["time"] - settled[0]["time"]))


def beside(bursts: Sequence[float]) -> list[float]:
    """Mean speed of the two bursts beside each run."""
    return [mean(bursts[at : at + 2]) for at in range(0, len(bursts), 2)]


def compare(members: Sequence[float], runs: Sequence[float], bursts: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The metrics.

    Args:
        members: median speed of the member in each run.
        runs: speed of each run with its gaps.
        bursts: the plain loop's speeds by policy, one before and one after each run.
    """
    policy = max(bursts, key=lambda name: median(bursts[name]))
    loop = beside(bursts[policy])
    ratios = [member / other for member, other in zip(members, loop, strict=True)]
    return {
        "ratio": round(median(ratios), 4),
        "ratio_lowest": round(min(ratios), 4),
        "ratio_highest": round(max(ratios), 4),
        "ratio_with_gaps": round(median(run / other for run, other in zip(runs, loop, strict=True)), 4),
        "member_tokens_per_s": round(median(members), 1),
        **{f"plain_{name}_tokens_per_s": round(median(speeds), 1) for name, speeds in bursts.items()},
        "plain_spread": round((max(bursts[policy]) - min(bursts[policy])) / median(bursts[policy]), 4),
        "plain_policy": policy,
        "ratios": [round(ratio, 4) for ratio in ratios],
        "members": [round(speed, 1) for speed in members],
        "bursts": {name: [round(speed, 1) for speed in speeds] for name, speeds in bursts.items()},
    }


def measure(options: Options) -> Result:
    """Take turns."""
    size = QUICK if options.quick else FULL
    threads = os.cpu_count() or 1
    each = max(1, size.steps * (size.rounds - 1) // 3)
    members: list[float] = []
    runs: list[float] = []
    bursts: dict[str, list[float]] = {name: [] for name in POLICIES}
    with ExitStack() as stack:
        peer = stack.enter_context(cluster.cluster(options.folder, 1, threads=[threads]))[0]
        loops = {name: stack.enter_context(plain_loop(threads, variables)) for name, variables in POLICIES.items()}

        def all_loops(into: Mapping[str, list[float]]) -> None:
            for name, loop in loops.items():
                into[name].append(loop.burst(each))

        all_loops({name: [] for name in loops})  # warms up
        for turn in range(size.turns):
            all_loops(bursts)
            run = cluster.submit(peer, options.folder, SPEC.format(rounds=size.rounds, steps=size.steps))
            cluster.wait_closed([peer], run, lambda _: None)
            all_loops(bursts)
            events = peer.events(run)
            members.append(median(member_speeds(events)))
            runs.append(run_speed(events))
            found = ", ".join(f"{name} {beside(speeds)[-1]:,.0f}" for name, speeds in bursts.items())
            say(f"turn {turn + 1}: tokens/s of the member {members[-1]:,.0f}, of the plain loop {found}")
            parameters = state_parameters(peer, run)
        if parameters != (beside_it := loops["active"].parameters):
            raise DemoFailed(f"the models differ: {parameters} parameters in the daemon, {beside_it} beside")
    metrics = {**compare(members, runs, bursts), "burst_steps": each, "threads": threads, "parameters": beside_it}
    return Result(name="efficiency", metrics=metrics, targets={"ratio": (">=", 0.95)})


def state_parameters(peer: cluster.Peer, run: str) -> int:
    """How many parameters a run's state has."""
    spec = json.loads((peer.run_folder(run) / "spec.json").read_bytes())
    state = peer.blob(spec["blobs"]["state"]).read_bytes()
    header = int.from_bytes(state[:8], "little") + 8
    return (len(state) - header) // 4


def draw(result: Result, path: Path) -> None:
    """Both speeds, turn by turn."""
    metrics = result.metrics
    with harness.new_figure(path, title="One member in the daemon and a plain PyTorch loop") as axes:
        turns = range(1, len(metrics["members"]) + 1)
        for (name, speeds), colour in zip(metrics["bursts"].items(), ("tab:orange", "tab:gray"), strict=True):
            axes.plot(turns, beside(speeds), "o--", color=colour, label=f"plain PyTorch loop, {name} waiting")
        axes.plot(turns, metrics["members"], "o-", color="tab:blue", label="member in the daemon")
        axes.set(xlabel="turn", ylabel="tokens/s", ylim=(0, None), xticks=list(turns))
        axes.annotate(f"median ratio {metrics['ratio']:.3f}", (0.02, 0.04), xycoords="axes fraction")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    sys.exit(harness.main("efficiency", (__doc__ or "").split("\n")[0], measure, draw))
