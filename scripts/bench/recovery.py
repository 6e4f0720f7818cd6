"""What a death, an arrival, unequal speeds and the loss of the leader cost the others, with real daemons on loopback.

* `settle_after_kill_s`: a member is killed with SIGKILL in its training; the longest time from the kill, or from the
  last survivor's delivery if that was later, until the round is settled. 3 heartbeats and 1 s are allowed.
* `join_stall_rounds`: a new daemon starts in mid-run. Rounds, until it contributes, that took more than 1.5 times as
  long as the median of those before, or that lack one of the old members.
* `unequal_speed_share`: four members with speeds 1:1:2:4 and a leader that is paused, so that it leads and does not
  train. Each worker runs in its part of a period and is stopped in the rest (`throttle`). Tokens settled a second over
  the sum of the four speeds, each measured from `training` to `delivered` in the same rounds; the first rounds, in
  which the leader learns the speeds, are left out.
* `takeover_s`, for information: four witnesses, all willing to lead; from the SIGKILL of the leader to the first round
  that another one settled.

IO: daemons, signals to their workers.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import cluster
import harness
import throttle
from cluster import Journal, Peer, wait_for
from harness import Options, Result, say
from stalls import by_round, member_speed, settle_after, speed_share, stalled

from peer.demo.peers import DemoFailed, run_json, yard

SPEC = f"""\
name: recovery
model: {{{{family: gpt2, layers: 2, hidden_size: 64, heads: 2}}}}
data: {{{{path: {cluster.CORPUS}, sequence_length: 64, tokenizer: {{{{kind: bytes}}}}}}}}
training: {{{{rounds: 100000, inner_steps: {{steps}}, batch_size: {{batch}}, time_budget_s: {{budget_s}}}}}}
members: {{{{min: {{least}}, max: 8}}}}
credits: {{{{price: 0}}}}
evaluation: {{{{every: 0}}}}
"""
BUDGET_S = 3.0
"""Rounds end by the time budget, so that they take equally long however many members there are."""
SPEEDS = (1, 1, 2, 4)
LEARNT = 5
"""The leader knows its members' speeds after so many rounds."""
PATIENCE_S = 240.0
SURVIVORS = 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    kills: int
    before: int
    """Rounds before the newcomer arrives."""
    steps: int
    """Inner steps of the fastest of the unequal members."""
    rounds: int
    """Rounds with unequal speeds, once they are learnt."""
    takeovers: int


FULL = Size(kills=8, before=8, steps=240, rounds=12, takeovers=3)
QUICK = Size(kills=2, before=4, steps=80, rounds=4, takeovers=1)


def submit(peer: Peer, folder: Path, *, least: int, steps: int = 100_000, batch: int = 4, budget_s: float) -> str:
    """A run that outlasts the measurement."""
    text = SPEC.format(least=least, steps=steps, batch=batch, budget_s=budget_s)
    return cluster.submit(peer, folder, text)


def wait_round(journal: Journal, name: str, above: int) -> Mapping[str, Any]:
    """The first event of that name of a round above this one."""

    def found() -> list[Mapping[str, Any]]:
        journal.poll()
        return [event for event in journal.events if event["event"] == name and event["round"] > above]

    wait_for(lambda: bool(found()), PATIENCE_S, f"{name} of a round above {above}")
    return found()[0]


def last_round(journal: Journal) -> int:
    """The newest settled round."""
    journal.poll()
    return max(journal.times("settled"), default=0)


def contributes(journal: Journal, account: str, above: int) -> bool:
    """Whether a round above this one counts this account."""
    journal.poll()
    settled = [event for event in journal.events if event["event"] == "settled" and event["round"] > above]
    return any(account in event["accounts"] for event in settled)


def kill_once(peers: Sequence[Peer], run: str, rng: random.Random) -> float | None:
    """Kill the last peer in its training, let it come back; what it cost, or None if it had just delivered."""
    leader, victim = peers[0].journal(run), peers[-1]
    number = wait_round(victim.journal(run), "training", last_round(leader) + 1)["round"]
    time.sleep(BUDGET_S * rng.uniform(0.4, 0.95))
    victim.kill()
    killed_at = time.time()
    settled = wait_round(leader, "settled", number - 1)
    delivered = [peer.journal(run) for peer in peers[:-1]]
    for journal in delivered:
        journal.poll()
    times = [journal.times("delivered")[number] for journal in delivered if number in journal.times("delivered")]
    counted = victim.account in settled["accounts"] or len(times) < SURVIVORS or settled["time"] < killed_at
    victim.begin(peers[0])
    victim.wait_ready()
    wait_for(lambda: contributes(leader, victim.account, number), PATIENCE_S, "the killed member to contribute again")
    return None if counted else settle_after(killed_at, settled["time"], times)


def kills_and_a_newcomer(folder: Path, size: Size) -> dict[str, Any]:
    """Three members; one is killed again and again, then a fourth arrives."""
    rng, missed = random.Random(1), 0
    waits: list[float] = []
    with cluster.cluster(folder / "members", 1 + SURVIVORS) as peers:
        run = submit(peers[0], folder, least=2, budget_s=BUDGET_S)
        leader = peers[0].journal(run)
        wait_for(lambda: contributes(leader, peers[-1].account, 0), PATIENCE_S, "all to contribute")
        while len(waits) < size.kills:
            waited = kill_once(peers, run, rng)
            missed += waited is None
            if waited is not None:
                waits.append(waited)
                say(f"kill {len(waits)}: settled {waited:.2f} s later")
            elif missed > 2 * size.kills:
                raise DemoFailed(f"{missed} kills came after the delivery; the machine is too busy")
        first = last_round(leader)
        wait_round(leader, "settled", first + size.before)
        late = Peer(number=9, home=folder / "members" / "late", threads=1)
        with yard([late]):
            arrived_at = time.time()
            late.begin(peers[0])
            late.wait_ready()
            wait_for(lambda: contributes(leader, late.account, 0), PATIENCE_S, "the newcomer to contribute")
        joined = next(e["round"] for e in leader.events if e["event"] == "settled" and late.account in e["accounts"])
        settled = [e for e in leader.events if e["event"] == "settled" and e["round"] > first]
        count, seconds = stalled(settled, arrived_at, joined, [peer.account for peer in peers])
    say(f"newcomer: {count} rounds stalled until it contributed")
    return {
        "settle_after_kill_s": round(max(waits), 3), "settle_after_kill_median_s": round(median(waits), 3),
        "join_stall_rounds": count, "waits_s": [round(wait, 3) for wait in waits],
        "join_rounds_s": [round(taken, 3) for taken in seconds],
    }  # fmt: skip


def unequal_speeds(folder: Path, size: Size) -> dict[str, Any]:
    """Four throttled members, led by a fifth peer that is paused."""
    with cluster.cluster(folder / "unequal", 1 + len(SPEEDS)) as peers:
        leader, members = peers[0], peers[1:]
        run_json("forge-peer", "pause", "--home", leader.home)
        run = submit(leader, folder, least=len(SPEEDS), steps=size.steps, batch=4, budget_s=600.0)
        journal = leader.journal(run)
        wait_round(journal, "settled", 0)
        pids = [peer.client.get("/status")["workers"][0] for peer in members]
        with throttle.throttled({pid: speed / sum(SPEEDS) for pid, speed in zip(pids, SPEEDS, strict=True)}):
            wait_round(journal, "settled", LEARNT + size.rounds)
        events = [peer.events(run) for peer in members]
    rounds = range(LEARNT + 1, LEARNT + size.rounds + 1)
    settled = [e for e in journal.events if e["event"] == "settled" and LEARNT <= e["round"] < rounds.stop]
    speeds = [member_speed(told, rounds) for told in events]
    share = speed_share(settled, speeds)
    say(f"unequal speeds: {share:.1%} of {sum(speeds):,.0f} tokens/s")
    return {
        "unequal_speed_share": round(share, 4), "unequal_tokens_per_s": [round(speed, 1) for speed in speeds],
        "unequal_rounds_s": [round(b["time"] - a["time"], 3) for a, b in pairwise(settled)],
        "unequal_tokens": [
            [by_round(told, "delivered").get(number, {}).get("tokens", 0) for number in rounds] for told in events
        ],
    }  # fmt: skip


def takeovers(folder: Path, size: Size) -> dict[str, Any]:
    """Four witnesses that lead in turn; whoever leads is killed and comes back."""
    waits: list[float] = []
    with cluster.cluster(folder / "leaders", 4, witnesses=4) as peers:
        wait_for(lambda: _willing(peers[0]) == len(peers), PATIENCE_S, "the witnesses to be known as leaders")
        run = submit(peers[0], folder, least=2, budget_s=1.0)
        journals = [peer.journal(run) for peer in peers]
        for journal in journals:
            wait_round(journal, "settled", 1)
        leading = 0
        while len(waits) < size.takeovers:
            known = max(last_round(journal) for journal in journals)
            peers[leading].kill()
            killed_at = time.time()
            left = [journal for place, journal in enumerate(journals) if place != leading]
            # what was under way when it died may still be told; a new leader's settlement comes after its `leads`
            led = _first(left, "leads", killed_at)
            settled = _first(left, "settled", max(killed_at, led["time"]))
            waits.append(settled["time"] - killed_at)
            say(f"takeover {len(waits)}: leads after {led['time'] - killed_at:.1f} s, settles after {waits[-1]:.1f} s")
            peers[leading].begin(peers[(leading + 1) % len(peers)])
            peers[leading].wait_ready()
            wait_round(journals[leading], "settled", known + 1)
            leading = next(place for place, peer in enumerate(peers) if peer.account == led["account"])
    return {"takeover_s": round(median(waits), 3), "takeovers_s": [round(wait, 3) for wait in waits]}


def _willing(peer: Peer) -> int:
    return sum("leader" in node["roles"] for node in peer.client.get("/nodes"))


def _first(journals: Sequence[Journal], name: str, after: float) -> Mapping[str, Any]:
    """The first event of that name after that time in any of these."""

    def found() -> list[Mapping[str, Any]]:
        for journal in journals:
            journal.poll()
        events = (event for journal in journals for event in journal.events)
        return sorted((e for e in events if e["event"] == name and e["time"] > after), key=lambda e: e["time"])

    wait_for(lambda: bool(found()), PATIENCE_S, f"{name} after a kill")
    return found()[0]


def measure(options: Options) -> Result:
    """One after the other, since they share the machine."""
    size = QUICK if options.quick else FULL
    metrics = kills_and_a_newcomer(options.folder, size)
    metrics |= unequal_speeds(options.folder, size)
    metrics |= takeovers(options.folder, size)
    targets = {
        "settle_after_kill_s": ("<=", 4.0), "join_stall_rounds": ("==", 0.0), "unequal_speed_share": (">=", 0.9),
    }  # fmt: skip
    return Result(name="recovery", metrics=metrics, targets=targets)


def draw(result: Result, path: Path) -> None:
    """Each wait, the rounds around the arrival, the unequal members' tokens."""
    metrics = result.metrics
    with harness.new_figure(path, title="What death, arrival and unequal speeds cost", width=12, columns=3) as axes:
        waits = metrics["waits_s"]
        axes[0].bar(range(1, len(waits) + 1), waits, color="tab:blue", label="member killed")
        axes[0].bar([len(waits) + 1 + n for n in range(len(metrics["takeovers_s"]))], metrics["takeovers_s"],
                    color="tab:orange", label="leader killed")  # fmt: skip
        axes[0].axhline(4.0, color="tab:red", linestyle="--", label="target for a member")
        axes[0].set(xlabel="kill", ylabel="s until a round is settled")
        axes[0].legend(fontsize="x-small")
        seconds = metrics["join_rounds_s"]
        axes[1].plot(range(1, len(seconds) + 1), seconds, "o-", color="tab:blue")
        axes[1].set(xlabel="round; the newcomer contributes to the last", ylabel="s", ylim=(0, None))
        for tokens, speed in zip(metrics["unequal_tokens"], SPEEDS, strict=True):
            axes[2].plot(range(1, len(tokens) + 1), tokens, "o-", label=f"speed {speed}")
        axes[2].set(xlabel="round, once speeds are learnt", ylabel="tokens", ylim=(0, None))
        axes[2].legend(fontsize="x-small")


if __name__ == "__main__":
    sys.exit(harness.main("recovery", (__doc__ or "").split("\n")[0], measure, draw))
