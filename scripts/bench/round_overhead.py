"""From the last receipt sent to training resumed on the slowest of three members, with its parts.

Three daemons on loopback train a model of about a million parameters. The times are the members' own: `delivered` of
the member that finishes last, `training` of the member that starts the next round last, both in their journals. The
parts come from the leader's `timing` events, which it tells when members go by the append. Nothing is evaluated.
The floor is measured in the same run, with everything idle: the time in which one worker applies the same updates, as
the leader must know the new state before it can be logged and the others may compute it meanwhile, and the time in
which the same entries are appended to a ledger store and cosigned.

IO: daemons, a worker.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import cluster
import harness
import replay
from harness import Options, Result, say

from peer.demo.peers import DemoFailed

MEMBERS = 3
SPEC = f"""\
name: round-overhead
seed: 5
model: {{{{family: gpt2, layers: 4, hidden_size: 128, heads: 4}}}}
data:
  path: {cluster.CORPUS}
  sequence_length: 64
  tokenizer: {{{{kind: bpe, vocab_size: 1536}}}}
training:
  rounds: {{rounds}}
  inner_steps: 10
  batch_size: 8
  learning_rate: 0.002
  time_budget_s: 120
  codec: {{{{kind: topk, k: 64}}}}
members: {{{{min: {MEMBERS}, max: {MEMBERS}}}}}
evaluation: {{{{every: 0}}}}
"""
FULL_ROUNDS, QUICK_ROUNDS = 40, 6
SKIPPED = 2
"""The first rounds warm up: connections, the workers' memory."""
PARTS = (
    "receipt_and_cut", "fetch_and_decode", "apply_decode", "apply_aggregate", "apply_outer", "apply_hash",
    "apply_write", "apply_call", "append", "go_on",
)  # fmt: skip
"""In the order in which they happen; a part that the daemon does not tell is left out."""
APPLY = ("decode", "aggregate", "outer", "hash", "write")

Events = Sequence[Mapping[str, Any]]


def times(events: Events, name: str) -> dict[int, float]:
    """Wall-clock second of an event by round."""
    return {event["round"]: event["time"] for event in events if event["event"] == name}


def gaps(leader: Events, homes: Sequence[Events]) -> list[dict[str, float]]:
    """Total and parts, in seconds, of each gap between two rounds in which every member trained.

    Args:
        leader: the leader's journal.
        homes: every member's journal, the leader's as well.
    """
    delivered = [times(events, "delivered") for events in homes]
    training = [times(events, "training") for events in homes]
    known = {number + 1: time for number, time in times(leader, "timing").items()}
    timing = {event["round"]: event for event in leader if event["event"] == "timing"}
    found = []
    for number in sorted(timing):
        after = number + 1
        everybody = all(number in sent for sent in delivered) and all(after in began for began in training)
        if number <= SKIPPED or not everybody:
            continue
        last = max(sent[number] for sent in delivered)
        began = max(began[after] for began in training)
        parts = leader_parts(timing[number])
        parts["receipt_and_cut"] = max(0.0, known[after] - last - sum(parts.values()))
        parts["go_on"] = began - known[after]
        found.append({"total": began - last, **{name: parts[name] for name in PARTS if name in parts}})
    return found


def leader_parts(timing: Mapping[str, Any]) -> dict[str, float]:
    """The parts that the leader itself timed; they follow each other."""
    parts = {f"apply_{part}": float(timing.get(f"apply_{part}", 0.0)) for part in APPLY}
    parts["apply_call"] = max(0.0, float(timing["apply"]) - sum(parts.values()))
    return parts | {name: float(timing[name]) for name in ("append", "fetch_and_decode") if name in timing}


def summary(found: Sequence[Mapping[str, float]], alone: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The metrics, from the gaps and from the seconds of apply, append and cosign alone, round by round."""
    totals = [gap["total"] for gap in found]
    floors = {f"{name}_alone_s": round(median(taken[SKIPPED:] or taken), 4) for name, taken in alone.items()}
    floor = sum(floors.values())
    medians = {
        f"{name}_s": round(median(gap.get(name, 0.0) for gap in found), 4)
        for name in PARTS
        if any(name in gap for gap in found)
    }
    tail = quantiles(totals, n=20)[-1] if len(totals) > 1 else totals[0]
    return {
        "p50_s": round(median(totals), 4),
        "p95_s": round(min(tail, max(totals)), 4),
        "floor_s": round(floor, 4),
        "over_floor": round(median(totals) / floor, 2),
        **medians,
        **floors,
        "gaps": len(found),
        "totals_s": [round(total, 4) for total in totals],
        "parts_s": {name: [round(gap.get(name, 0.0), 4) for gap in found] for name in PARTS if f"{name}_s" in medians},
    }


def measure(options: Options) -> Result:
    """One run of three members."""
    rounds = QUICK_ROUNDS if options.quick else FULL_ROUNDS
    with cluster.cluster(options.folder, MEMBERS) as peers:
        run = cluster.submit(peers[0], options.folder, SPEC.format(rounds=rounds))
        say(f"run {run[:16]} of {rounds} rounds")

        def told(events: Sequence[Mapping[str, Any]]) -> None:
            for event in events:
                if event["event"] == "settled" and event["round"] % 5 == 0:
                    say(f"round {event['round']} settled after {event['seconds']:.1f} s")

        cluster.wait_closed(peers, run, told)
        journals = [peer.events(run) for peer in peers]
    found = gaps(journals[0], journals)
    if not found:
        raise DemoFailed("no round in which all members delivered and went on; the machine is too busy")
    log = replay.run_log(peers[0], run)
    applied = replay.replay(peers[0], log, options.folder / "floor", threads=1).seconds
    written = replay.write_again(peers[0], run, options.folder / "floor")
    metrics = summary(found, {"apply": applied, "append": written.append, "cosign": written.cosign})
    metrics["parameters"] = int(log.state.rpartition("-")[2]) // 4
    return Result(name="round_overhead", metrics=metrics, targets={"p50_s": ("<=", 0.5)})


def draw(result: Result, path: Path) -> None:
    """The parts of every gap, stacked."""
    metrics = result.metrics
    with harness.new_figure(path, title="From the last receipt to training resumed on the slowest member") as axes:
        rounds = range(1, metrics["gaps"] + 1)
        base = [0.0] * len(rounds)
        colours = iter(harness.colours(len(metrics["parts_s"])))
        for name, values in metrics["parts_s"].items():
            axes.bar(rounds, values, bottom=base, width=0.85, color=next(colours), label=name.replace("_", " "))
            base = [low + value for low, value in zip(base, values, strict=True)]
        axes.axhline(metrics["floor_s"], color="black", linestyle=":", label="floor: two applies, append, cosign")
        axes.axhline(0.5, color="tab:red", linestyle="--", label="target for the median")
        axes.set(xlabel="gap between two rounds", ylabel="s")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    sys.exit(harness.main("round_overhead", (__doc__ or "").split("\n")[0], measure, draw))
