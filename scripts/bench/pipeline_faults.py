"""What kills cost a model that is cut into stages, with real daemons on loopback.

Two stages on five peers, led by a sixth that is paused and never killed; a round's time budget ends it, so rounds take
equally long whoever lives. Every victim is started again at once.

* `failover_s`: a replica of the last stage is killed with SIGKILL while drivers' requests are in flight to it. The
  longest time, of all requests and kills, from the kill until another replica had answered the same (stage,
  microbatch), by the drivers' journals. A broken request that no other replica answered counts until the round was
  settled.
* `goodput_ratio`: tokens settled a second with a fifth of the peers, drivers as well as others, killed in each round at
  a random moment, over tokens settled a second without; same daemons, same run, in turns. A token counts once, in the
  round that is settled with it; the seconds reach from one `settled` to another, whatever lies between. Rounds in which
  peers come back before a calm turn do not count, nor does the first one of a turn with kills.
* `goodput_limit`: the part of the peers' time that the same kills leave when a victim's work of the round is lost, and
  the time until its daemon is there again.

IO: daemons, signals to them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import churn
import cluster
import harness
from churn import Kill, Waits
from harness import Options, Result, Target, say
from swarm import Swarm

from peer.demo.peers import DemoFailed, run_json

SPEC = f"""\
name: pipeline-faults
model: {{{{family: gpt2, layers: 3, hidden_size: 128, heads: 2}}}}
data: {{{{path: {cluster.CORPUS}, sequence_length: 64, tokenizer: {{{{kind: bpe, vocab_size: 2048}}}}}}}}
training: {{{{mode: synchronous, rounds: 100000, inner_steps: 256, batch_size: 16, time_budget_s: {{budget_s}}}}}}
pipeline: {{{{stages: {{stages}}, replicas: 1, microbatch_size: 4}}}}
members: {{{{min: 1, max: 8}}}}
credits: {{{{price: 0}}}}
evaluation: {{{{every: 0}}}}
"""
STAGES = 2
PEERS = 5
KILLED = 0.2
"""This part of the peers is killed in each round."""
IDLE = 4
"""So many kills of replicas without a request, for each with one, are enough."""
EARLY, LATE = 0.2, 0.5
"""When requests are to be caught in flight, the kill comes in this part of the time budget."""
TARGETS: dict[str, Target] = {"failover_s": ("<=", 2.0), "goodput_ratio": (">=", 0.7)}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    budget_s: float
    """A round's time budget."""
    kills: int
    """Of replicas with requests in flight."""
    turns: int
    rounds: int
    """Rounds that count in each turn, calm or not."""


FULL = Size(budget_s=30.0, kills=5, turns=3, rounds=3)
QUICK = Size(budget_s=5.0, kills=1, turns=1, rounds=1)


def kill_in_flight(swarm: Swarm) -> Waits:
    """Kill a replica of the last stage at work; what its requests waited for."""
    swarm.wait_all()
    number = swarm.wait("opened", swarm.newest("opened"))["round"]
    opened_at = swarm.leader.times("opened")[number]
    swarm.pass_time(opened_at + swarm.budget_s * swarm.rng.uniform(EARLY, LATE))
    victim = swarm.rng.choice([peer for peer in swarm.peers if swarm.stage_of(peer) == STAGES - 1])
    swarm.kill(victim, number)
    swarm.wait_all()
    return swarm.waits(swarm.kills[-1])


def failovers(swarm: Swarm, count: int) -> dict[str, Any]:
    """Until so many kills met requests in flight; the worst of all requests counts."""
    met: list[Waits] = []
    idle = 0
    while len(met) < count:
        found = kill_in_flight(swarm)
        each = ", ".join(f"{wait:.2f}" for wait in found.answered) or "none"
        say(f"a kill: in flight, answered after {each} s; {len(found.unanswered)} by no other")
        if found.every:
            met.append(found)
            continue
        idle += 1
        if idle > IDLE * count:
            raise DemoFailed(f"{idle} killed replicas had no request in flight", "make the model larger")
    every = [wait for found in met for wait in found.every]
    return {
        "failover_s": round(max(every), 3), "failover_median_s": round(median(every), 3),
        "failovers": sum(len(found.answered) for found in met), "kills_without_request": idle,
        "unanswered": sum(len(found.unanswered) for found in met), "failovers_s": [round(wait, 3) for wait in every],
    }  # fmt: skip


def calm(swarm: Swarm, rounds: int) -> float:
    """Goodput of so many rounds in which everybody lives."""
    number = swarm.wait_all()
    swarm.settled_at(number + rounds)
    return churn.goodput(swarm.leader.events, number, number + rounds)


def kill_some(swarm: Swarm, above: int) -> int:
    """In the next round, kill a fifth of the peers, each at a moment of its own; the round's number."""
    number = swarm.wait("opened", above)["round"]
    opened_at = swarm.leader.times("opened")[number]
    moments = sorted(swarm.rng.random() for _ in range(max(1, round(KILLED * len(swarm.peers)))))
    for moment in moments:
        swarm.pass_time(opened_at + swarm.budget_s * moment)
        away = [other.peer for other in swarm.away]
        victims = [peer for peer in swarm.peers if peer not in away]
        swarm.kill(swarm.rng.choice([peer for peer in victims if swarm.began(peer, number)] or victims), number)
    return int(number)


def stormy(swarm: Swarm, rounds: int) -> tuple[float, float, list[Kill]]:
    """(goodput of so many rounds with kills in each, their seconds, the kills); one more before does not count."""
    first = number = kill_some(swarm, swarm.wait_all())
    began_at = swarm.settled_at(first)
    while number < first + rounds:
        number = kill_some(swarm, number)
    ended_at = swarm.settled_at(number)
    swarm.wait_all()
    kills = [kill for kill in swarm.kills if first < kill.round <= number and kill.at > began_at]
    return churn.goodput(swarm.leader.events, first, number), ended_at - began_at, kills


def turns(swarm: Swarm, size: Size) -> dict[str, Any]:
    """Rounds without kills and with, in turns, a calm one at either end."""
    calms, storms = [calm(swarm, size.rounds)], list[float]()
    kills: list[Kill] = []
    seconds = 0.0
    for turn in range(size.turns):
        found, taken, killed = stormy(swarm, size.rounds)
        storms.append(found)
        seconds += taken
        kills += killed
        calms.append(calm(swarm, size.rounds))
        say(f"turn {turn + 1}: {calms[-2]:,.0f} and {calms[-1]:,.0f} tokens/s, with {len(killed)} kills {found:,.0f}")
    later = [wait for kill in kills for wait in swarm.waits(kill).every]
    beside = [(before + after) / 2 for before, after in pairwise(calms)]
    ratios = [storm / quiet for storm, quiet in zip(storms, beside, strict=True)]
    return {
        "goodput_ratio": round(median(ratios), 4), "goodput_limit": round(churn.limit(kills, PEERS, seconds), 4),
        "goodput_tokens_per_s": round(median(storms), 1), "calm_tokens_per_s": round(median(calms), 1),
        "kills": len(kills), "back_s": round(median(kill.back_at - kill.at for kill in kills), 3),
        "churn_failover_s": round(max(later), 3) if later else None, "churn_failovers": len(later),
        "churn_round_s": round(seconds / (size.turns * size.rounds), 3),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "calm_turns": [round(speed, 1) for speed in calms], "churn_turns": [round(speed, 1) for speed in storms],
    }  # fmt: skip


def measure(options: Options) -> Result:
    """Failover first, then goodput, in one run."""
    size = QUICK if options.quick else FULL
    with cluster.cluster(options.folder / "peers", 1 + PEERS, measured=not options.quick) as (first, *peers):
        run_json("forge-peer", "pause", "--home", first.home)
        run = cluster.submit(first, options.folder, SPEC.format(budget_s=size.budget_s, stages=STAGES))
        swarm = Swarm(first=first, peers=peers, run=run, budget_s=size.budget_s)
        say("submitted")
        metrics = failovers(swarm, size.kills) | turns(swarm, size)
    return Result(name="pipeline_faults", metrics=metrics, targets=TARGETS)


def draw(result: Result, path: Path) -> None:
    """Each request's wait, and what was settled in each turn."""
    metrics = result.metrics
    with harness.new_figure(path, title="What kills cost a model in stages", width=10, columns=2) as axes:
        found = sorted(metrics["failovers_s"])
        axes[0].plot(range(1, len(found) + 1), found, "o", color="tab:blue")
        axes[0].axhline(TARGETS["failover_s"][1], color="tab:red", linestyle="--", label="target")
        axes[0].set(xlabel="request in flight at a kill", ylabel="s until another answered", ylim=(0, None))
        axes[0].legend(fontsize="x-small")
        calms, storms = metrics["calm_turns"], metrics["churn_turns"]
        axes[1].plot([2 * turn for turn in range(len(calms))], calms, "o-", label="no kills")
        axes[1].plot([2 * turn + 1 for turn in range(len(storms))], storms, "o-", label="a fifth killed in each round")
        limit = metrics["goodput_limit"] * metrics["calm_tokens_per_s"]
        axes[1].axhline(limit, color="grey", linestyle=":", label="limit")
        axes[1].set(xlabel="turn", ylabel="tokens/s", ylim=(0, None))
        axes[1].legend(fontsize="x-small")


if __name__ == "__main__":
    sys.exit(harness.main("pipeline_faults", (__doc__ or "").split("\n")[0], measure, draw))
