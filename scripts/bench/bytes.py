"""Bytes that a member uploads for every parameter and round, by the counters of its network interface.

Two daemons run in two network namespaces; the first leads, the second one's interface is read whenever a round has
been settled. Everything that leaves it counts: its update, receipts, heartbeats, the DHT, replication of the log,
acknowledgements of what it receives, with Ethernet, IP and TCP headers of frames of ordinary size. The first rounds
warm up. With two members each sends its update once; with more, updates spread from whoever has them. Beside each
codec stands what its payload alone comes to (`codec.encoded_bytes`), which no protocol can go below, and what leaves
the interface in a second when nobody trains (`idle_bytes_per_s`), which weighs more the longer a round is.

IO: daemons, network namespaces.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import cluster
import harness
import links
from efficiency import state_parameters
from harness import Options, Result, say

from p2p_llm_forge import codec
from p2p_llm_forge.settings import CodecSpec
from peer.demo.peers import DemoFailed

SKIPPED = 1
"""Rounds that warm up."""
FIRST = "topk"
SPEC = """\
name: bytes-{codec}
seed: 11
model: {{family: gpt2, layers: {layers}, hidden_size: {hidden}, heads: {heads}, vocab_size: {vocabulary}}}
data:
  path: {corpus}
  sequence_length: 64
  tokenizer: {{kind: bpe, vocab_size: {vocabulary}}}
training:
  rounds: {rounds}
  inner_steps: {steps}
  batch_size: 8
  time_budget_s: 600
  codec: {{kind: {codec}}}
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
    """AdamW steps of a member in a round of `topk`."""
    rounds: int
    """Its rounds that count."""
    others: Mapping[str, int]
    """Other codecs, with their rounds that count; one AdamW step each."""
    idle_s: float
    """How long nobody trains."""

    def spec(self, kind: str, *, rounds: int, steps: int) -> str:
        """The spec of a run."""
        return SPEC.format(
            layers=self.layers, hidden=self.hidden, heads=self.heads, vocabulary=self.vocabulary, steps=steps,
            rounds=SKIPPED + rounds, corpus=cluster.CORPUS, codec=kind,
        )  # fmt: skip


FULL = Size(
    layers=6, hidden=360, heads=6, vocabulary=2048, steps=40, rounds=5,
    others={"int4": 2, "int8": 2, "f16": 2, "f32": 2}, idle_s=10.0,
)  # fmt: skip
QUICK = Size(layers=2, hidden=128, heads=4, vocabulary=512, steps=10, rounds=5, others={"f16": 2}, idle_s=2.0)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The counter of an interface just after a round was settled."""

    round: int
    time: float
    sent_bytes: int


def uploads(samples: Sequence[Sample], parameters: int) -> dict[str, Any]:
    """What a member sent in each round after the first sample's: bytes for every parameter, and how long it took."""
    pairs = list(pairwise(samples))
    if not pairs or any(after.round != before.round + 1 for before, after in pairs):
        raise DemoFailed(f"settled rounds seen: {[sample.round for sample in samples]}; the machine is too busy")
    sent = [after.sent_bytes - before.sent_bytes for before, after in pairs]
    return {
        "bytes_per_parameter": round(mean(sent) / parameters, 6),
        "round_s": round((samples[-1].time - samples[0].time) / len(pairs), 2),
        "rounds": len(pairs),
        "sent_bytes": sent,
    }


def one_run(peers: Sequence[cluster.Peer], sides: Sequence[links.Side], folder: Path, text: str) -> dict[str, Any]:
    """A run of both; what the second one's interface sent in each round."""
    run = cluster.submit(peers[0], folder, text)
    samples: list[Sample] = []

    def told(events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            if event["event"] == "settled" and event["round"] >= SKIPPED:
                sent_bytes = sides[1].sent_bytes()
                samples.append(Sample(round=event["round"], time=event["time"], sent_bytes=sent_bytes))

    cluster.wait_closed(peers, run, told)
    parameters = state_parameters(peers[0], run)
    return {**uploads(samples, parameters), "parameters": parameters}


def measure(options: Options) -> Result:
    """A run with `topk`, then short ones with the others."""
    size = QUICK if options.quick else FULL
    found: dict[str, dict[str, Any]] = {}
    with links.cable() as sides, cluster.cluster(options.folder, 2, sides=sides) as peers:
        before, started = sides[1].sent_bytes(), time.monotonic()
        time.sleep(size.idle_s)
        idle = (sides[1].sent_bytes() - before) / (time.monotonic() - started)
        say(f"idle: {idle:,.0f} bytes/s")
        for kind, rounds in {FIRST: size.rounds, **size.others}.items():
            text = size.spec(kind, rounds=rounds, steps=size.steps if kind == FIRST else 1)
            one = found[kind] = one_run(peers, sides, options.folder, text)
            payload = codec.encoded_bytes(CodecSpec(kind=kind), one["parameters"]) / one["parameters"]  # type: ignore[arg-type]
            one["payload_bytes_per_parameter"] = round(payload, 6)
            say(f"{kind}: {one['bytes_per_parameter']} bytes, payload {payload:.6f}, rounds of {one['round_s']} s")
    metrics: dict[str, Any] = {f"{kind}_{name}": value for kind, one in found.items() for name, value in one.items()}
    first = found[FIRST]
    over = (first["bytes_per_parameter"] - first["payload_bytes_per_parameter"]) * first["parameters"]
    metrics |= {"topk_protocol_bytes": round(over), "idle_bytes_per_s": round(idle, 1), "codecs": list(found)}
    return Result(name="bytes", metrics=metrics, targets={"topk_bytes_per_parameter": ("<=", 0.032)})


def draw(result: Result, path: Path) -> None:
    """Every codec's payload and what is sent beside it."""
    metrics = result.metrics
    kinds = metrics["codecs"]
    payload = [metrics[f"{kind}_payload_bytes_per_parameter"] for kind in kinds]
    sent = [metrics[f"{kind}_bytes_per_parameter"] for kind in kinds]
    with harness.new_figure(path, title="Upload of a member in a round, by its interface's counter") as axes:
        axes.bar(kinds, payload, color="tab:blue", label="update")
        more = [max(0.0, one - low) for one, low in zip(sent, payload, strict=True)]
        axes.bar(kinds, more, bottom=payload, color="tab:orange", label="everything else")
        for at, one in enumerate(sent):
            axes.annotate(f"{one:.4f}", (at, one), ha="center", va="bottom")
        axes.axhline(0.032, color="tab:red", linestyle="--", label="target for topk")
        axes.set(ylabel="bytes per parameter", yscale="log")
        axes.legend()


if __name__ == "__main__":
    sys.exit(harness.main("bytes", (__doc__ or "").split("\n")[0], measure, draw))
