"""Tokens per second of two members against two ranks of DDP: on loopback, and over a line of 20 Mbit/s.

Both train the same GPT-2 of about 10 million parameters, one CPU thread each, the same batches of the same length. Ours
are two real daemons with the settings of the recipes (`topk` k 64, 40 AdamW steps a round) and a leader that trains
too; their time is that of whole rounds, from one `settled` to the next in the leader's journal, with everything that
lies between them. DDP is `torch.distributed` over gloo with its defaults. On loopback runs and bursts of DDP take
turns, and each run is compared with the bursts beside it; on the line, which is a cable between two network
namespaces, they follow each other. The first round of a run and the first burst warm up and do not count.
`limited_training_share` is the members' mean: seconds that the worker spent in AdamW steps over all seconds; the
rest, `limited_gap_s` a round, hardly depends on the length of a round. For comparison, `hivemind.Optimizer` averages
the weights after as many local steps (its gradients after every step would need the line as DDP does, and more). What
the line allows at most, whatever runs, is the floor: 2 (n - 1) / n gradients of 4 bytes a parameter leave every rank of
DDP in every step, n = 2.

IO: daemons, processes, network namespaces.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import cluster
import efficiency
import harness
import links
import plain
import rivals
from harness import Options, Result, Target, say
from links import Side

from peer.demo.peers import DemoFailed

LENGTH, BATCH, RATE = 64, 8, 0.003
TARGETS: dict[str, Target] = {
    "loopback_ratio": (">=", 0.95), "limited_ratio": (">=", 20.0), "limited_training_share": (">=", 0.95),
}  # fmt: skip
SPEC = """\
name: vs-ddp
seed: 7
model: {{family: gpt2, layers: {layers}, hidden_size: {hidden}, heads: {heads}, vocab_size: {vocabulary}}}
data:
  path: {corpus}
  sequence_length: {length}
  tokenizer: {{kind: bpe, vocab_size: {vocabulary}}}
training:
  rounds: {rounds}
  inner_steps: {steps}
  batch_size: {batch}
  learning_rate: {rate}
  time_budget_s: 600
  codec: {{kind: topk, k: 64}}
members: {{min: 2, max: 2}}
evaluation: {{every: 0}}
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained, and for how long."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    steps: int
    """AdamW steps of a member in a round."""
    rounds: int
    """Rounds of a run, the first of which does not count."""
    turns: int
    """Runs on loopback."""
    burst: int
    """Steps of a burst of DDP on loopback."""
    limited_burst: int
    """The same on the line."""
    hivemind_s: tuple[float, float]
    """How long hivemind trains on loopback and on the line; 0: not at all."""
    mbit: float
    """What the line carries in a second, either way."""
    patience_s: float
    """A burst that takes longer has failed."""

    @property
    def words(self) -> list[str]:
        """The options of DDP's and hivemind's processes."""
        sizes = {
            "threads": 1, "layers": self.layers, "hidden": self.hidden, "heads": self.heads,
            "vocabulary": self.vocabulary, "length": LENGTH, "batch": BATCH,
        }  # fmt: skip
        return plain.words(sizes, RATE)

    @property
    def spec(self) -> str:
        """The spec of our runs."""
        return SPEC.format(
            layers=self.layers, hidden=self.hidden, heads=self.heads, vocabulary=self.vocabulary, rounds=self.rounds,
            steps=self.steps, corpus=cluster.CORPUS, length=LENGTH, batch=BATCH, rate=RATE,
        )  # fmt: skip


FULL = Size(
    layers=6, hidden=360, heads=6, vocabulary=2048, steps=40, rounds=3, turns=2, burst=10, limited_burst=2,
    hivemind_s=(25.0, 45.0), mbit=20.0, patience_s=300.0,
)  # fmt: skip
QUICK = Size(
    layers=2, hidden=128, heads=4, vocabulary=512, steps=60, rounds=3, turns=1, burst=10, limited_burst=2,
    hivemind_s=(0.0, 0.0), mbit=5.0, patience_s=120.0,
)  # fmt: skip


def training_shares(leader: Sequence[Mapping[str, Any]], homes: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
    """Share of the time of all rounds but the first that each member spent in AdamW steps.

    Args:
        leader: the leader's journal, whose `settled` events bound the time.
        homes: every member's journal.
    """
    settled = [event["time"] for event in leader if event["event"] == "settled"]
    elapsed = settled[-1] - settled[0]
    spent = (
        sum(event["seconds"] for event in events if event["event"] == "delivered" and event["round"] > 1)
        for events in homes
    )
    return [seconds / elapsed for seconds in spent]


def floor_tokens_per_s(parameters: int, mbit: float) -> float:
    """The most that two ranks of DDP can reach if the line is all that takes time."""
    step_s = 4 * parameters * 8 / (mbit * 1e6)
    return 2 * BATCH * LENGTH / step_s


def one_run(peers: Sequence[cluster.Peer], folder: Path, size: Size) -> tuple[float, list[float]]:
    """A run of all members: tokens per second, and the shares of the time in which they trained."""
    run = cluster.submit(peers[0], folder, size.spec)
    cluster.wait_closed(peers, run, lambda _: None)
    journals = [peer.events(run) for peer in peers]
    return efficiency.run_speed(journals[0]), training_shares(journals[0], journals)


def hivemind(size: Size, folder: Path, seconds: float, sides: Sequence[Side]) -> float | None:
    """Its tokens per second; None where it was not measured, or broke."""
    if not seconds:
        return None
    try:
        with rivals.pair("hivemind", size.words, folder, sides, local_steps=size.steps) as pair:
            burst = pair.burst(seconds, size.patience_s)
    except DemoFailed as exc:
        say(f"hivemind: {exc}")
        return None
    say(f"hivemind: {burst.tokens_per_s:,.0f} tokens/s, {burst.epochs} averagings in {burst.seconds:.0f} s")
    return round(burst.tokens_per_s, 1)


def on_loopback(options: Options, size: Size) -> dict[str, Any]:
    """Runs and bursts of DDP in turns."""
    folder = options.folder / "loopback"
    bursts: list[float] = []
    runs: list[float] = []
    shares: list[float] = []
    with cluster.cluster(folder, 2) as peers, rivals.pair("ddp", size.words, folder) as ddp:
        ddp.burst(size.burst, size.patience_s)  # warms up
        bursts.append(ddp.burst(size.burst, size.patience_s).tokens_per_s)
        for turn in range(size.turns):
            speed, share = one_run(peers, folder, size)
            runs.append(speed)
            shares.append(mean(share))
            bursts.append(ddp.burst(size.burst, size.patience_s).tokens_per_s)
            say(f"loopback, turn {turn + 1}: {speed:,.0f} tokens/s, DDP {mean(bursts[-2:]):,.0f}")
    ratios = [run / mean(bursts[at : at + 2]) for at, run in enumerate(runs)]
    return {
        "loopback_ratio": round(median(ratios), 4),
        "loopback_tokens_per_s": round(median(runs), 1),
        "loopback_ddp_tokens_per_s": round(median(bursts), 1),
        "loopback_training_share": round(median(shares), 4),
        "loopback_hivemind_tokens_per_s": hivemind(size, folder, size.hivemind_s[0], (rivals.HERE, rivals.HERE)),
        "loopback_ratios": [round(ratio, 4) for ratio in ratios],
        "loopback_runs": [round(run, 1) for run in runs],
        "loopback_ddp_bursts": [round(burst, 1) for burst in bursts],
        "parameters": ddp.parameters,
    }


@contextmanager
def line(mbit: float) -> Iterator[tuple[Side, Side]]:
    """Two machines with so many Mbit/s between them, either way."""
    with links.cable() as sides:
        for side in sides:
            side.limit(mbit)
        yield sides


def on_line(options: Options, size: Size, parameters: int) -> dict[str, Any]:
    """DDP, then a run, then hivemind."""
    folder = options.folder / "line"
    folder.mkdir()
    with line(size.mbit) as sides:
        with rivals.pair("ddp", size.words, folder, sides) as pair:
            pair.burst(1, size.patience_s)  # warms up
            ddp = pair.burst(size.limited_burst, size.patience_s)
        say(f"line: DDP {ddp.tokens_per_s:,.1f} tokens/s, {ddp.seconds / ddp.epochs:.1f} s a step")
        with cluster.cluster(folder, 2, sides=sides, measured=False) as peers:
            speed, shares = one_run(peers, folder, size)
        say(f"line: {speed:,.0f} tokens/s")
        other = hivemind(size, folder, size.hivemind_s[1], sides)
    floor = floor_tokens_per_s(parameters, size.mbit)
    return {
        "limited_ratio": round(speed / ddp.tokens_per_s, 2),
        "limited_training_share": round(mean(shares), 4),
        "limited_gap_s": round((1 - mean(shares)) * 2 * size.steps * BATCH * LENGTH / speed, 3),
        "limited_tokens_per_s": round(speed, 1),
        "limited_ddp_tokens_per_s": round(ddp.tokens_per_s, 2),
        "limited_ddp_step_s": round(ddp.seconds / ddp.epochs, 2),
        "limited_floor_step_s": round(2 * BATCH * LENGTH / floor, 2),
        "limited_ratio_over_floor": round(speed / floor, 2),
        "limited_hivemind_tokens_per_s": other,
        "limited_training_shares": [round(share, 4) for share in shares],
        "mbit": size.mbit,
    }


def measure(options: Options) -> Result:
    """Loopback, then the line where namespaces are allowed."""
    size = QUICK if options.quick else FULL
    metrics = on_loopback(options, size)
    try:
        metrics |= on_line(options, size, metrics["parameters"])
    except links.NoNamespaces as exc:
        say(f"no line of {size.mbit:g} Mbit/s, so its targets are missed: {exc} {exc.fix}")
    return Result(name="vs_ddp", metrics={**metrics, "round_steps": size.steps}, targets=TARGETS)


def draw(result: Result, path: Path) -> None:
    """Tokens per second of all, on both links."""
    metrics = result.metrics
    names = {"tokens_per_s": "two members", "ddp_tokens_per_s": "DDP", "hivemind_tokens_per_s": "hivemind"}
    with harness.new_figure(path, title=f"{metrics['parameters']:,} parameters, 2 machines", columns=2) as both:
        labels = ("loopback", f"{metrics.get('mbit', 0):g} Mbit/s")
        for axes, link, label in zip(both, ("loopback", "limited"), labels, strict=True):
            found = {name: metrics.get(f"{link}_{key}") for key, name in names.items()}
            told = {name: speed for name, speed in found.items() if speed is not None}
            axes.bar(list(told), list(told.values()), color=harness.colours(len(told)))
            for at, speed in enumerate(told.values()):
                axes.annotate(f"{speed:,.0f}", (at, speed), ha="center", va="bottom")
            axes.set(title=label, ylabel="tokens/s")


if __name__ == "__main__":
    sys.exit(harness.main("vs_ddp", (__doc__ or "").split("\n")[0], measure, draw))
