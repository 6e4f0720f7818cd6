"""The largest model that peers with 8 GB each can train together in stages; writes docs/largest.md.

    python -m scripts.largest            writes the table
    python -m scripts.largest 16 64      prints the rows of so many peers

Models are Llama-shaped, of usual proportions or up to twice as deep. Each stage is held twice, so m peers hold m/2
stages. What a stage needs is what `stages.fit` reckons, by which a run is refused; the cut is that of least memory.

IO: writes the one file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.stages import anatomy, costs, fit
from p2p_llm_forge.stages.costs import Costs

TABLE = Path(__file__).parents[1] / "docs" / "largest.md"
PEERS = (4, 8, 16, 32, 64, 128)
REPLICAS, MEMORY_BYTES, ROWS, SEQUENCE = 2, 8 * 10**9, 32000, 1024
BYTES = {"int8": 1 + 4 / 64, "bf16": 2.0}
"""A value between stages: int8 has a scale of four bytes for each group of 64."""
GB = MEMORY_BYTES // 10**9
SLOW_MBIT, FAST_MBIT = 10, 100
USUAL = (
    (12, 768), (24, 1024), (22, 1536), (22, 2048), (26, 2560), (28, 3072), (32, 4096), (40, 5120), (48, 6144),
    (60, 7168), (80, 8192),
)  # fmt: skip
"""Layers and width: the usual proportions."""
DEEPER = (2, 3, 4)
"""Halves of the usual layers: as many, half as many again, twice as many."""
SHAPES = tuple((layers * times // 2, width) for layers, width in USUAL for times in DEEPER)
HEAD = f"""\
# The largest model in stages

Written by `python -m scripts.largest`; `tests/p2p_llm_forge/test_stages_largest.py` checks it. The largest
Llama-shaped model, of usual proportions or up to twice as deep, that peers with {GB} GB each can train: every stage
held by {REPLICAS} of them, sequences of {SEQUENCE} tokens in microbatches of one, {ROWS:,} rows of embedding. A stage
needs 44 bytes for each of its parameters (weights and gradients 8; the shared state, two moments and what it takes to
step 36), and its activations besides: what `stages.fit` refuses a run by.

Each of the links from stage to stage carries its hidden states forward and their gradient back. At {SLOW_MBIT} Mbit/s
so many tokens a second go through one replica of a stage; {REPLICAS} replicas carry as much again. Once a round a
replica sends its stage's gradient (f32 4 bytes a parameter, int8 1.06) to the other replicas of its stage.

A layer is never cut, and the first stage has the embedding besides a layer: that limits the width, whatever the number
of peers. The bytes follow from the formats; they and the memory are reckoned here, not measured.

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What so many peers can train."""

    peers: int
    layers: int
    width: int
    parameters: int
    stages: int
    memory_bytes: int
    update_parameters: int

    def line(self) -> str:
        """Of the table."""
        carried = {kind: 2 * self.width * each for kind, each in BYTES.items()}
        speeds = [f"{mbit * 1e6 / 8 / (carried['int8'] / 2):,.0f}" for mbit in (SLOW_MBIT, FAST_MBIT)]
        return (
            f"| {self.peers} | {self.parameters / 1e9:.2f} | {self.layers} × {self.width} | {self.stages} | "
            f"{self.memory_bytes / 1e9:.1f} | {carried['int8']:,.0f} | {carried['bf16']:,.0f} | {' | '.join(speeds)} | "
            f"{self.update_parameters * BYTES['int8'] / 1e6:,.0f} |"
        )


@cache
def shaped(layers: int, width: int) -> tuple[Any, Costs]:
    """A model of this shape, from shapes alone."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "llama", num_hidden_layers=layers, hidden_size=width, intermediate_size=-(-8 * width // 768) * 256,
        num_attention_heads=width // 128, num_key_value_heads=max(width // 512, 1), vocab_size=ROWS,
        max_position_embeddings=SEQUENCE, tie_word_embeddings=False,
    )  # fmt: skip
    return config, costs.estimate(config, sequence_length=SEQUENCE, known=_known())


@cache
def _known() -> anatomy.Anatomy:
    from transformers import AutoConfig

    return anatomy.of(AutoConfig.for_model("llama"), 2)


def _spec(stages: int) -> RunSpec:
    return RunSpec.from_worker(
        {
            "name": "largest",
            "model": {"family": "llama", "layers": 1024, "hidden_size": 8, "heads": 1},
            "data": {"sequence_length": SEQUENCE},
            "training": {"mode": "synchronous"},
            "pipeline": {"stages": stages, "replicas": REPLICAS, "microbatch_size": 1},
            "members": {"max": 157},
        }
    )


def largest(peers: int) -> Row:
    """The largest shape that fits."""
    found: Row | None = None
    for layers, width in SHAPES:
        config, known = shaped(layers, width)
        stages = min(peers // REPLICAS, layers, 64)
        cut = known.cut(stages, known.smallest_stage(stages))
        need = fit.smallest_memory(config, known, cut, _spec(stages))
        if need <= MEMORY_BYTES and (found is None or known.parameters > found.parameters):
            most = max(known.stage(cut, index).parameters for index in range(stages))
            found = Row(
                peers=peers, layers=layers, width=width, parameters=known.parameters, stages=stages,
                memory_bytes=need, update_parameters=most,
            )  # fmt: skip
    assert found is not None
    return found


def table(rows: Sequence[Row]) -> str:
    """The whole document."""
    names = (
        "peers", "billion parameters", "layers × width", "stages", "GB a peer", "int8 bytes a token and link",
        "bf16", f"tokens/s at {SLOW_MBIT} Mbit/s (int8)", f"at {FAST_MBIT}", "MB of an update (int8)",
    )  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names), *(row.line() for row in rows)]
    return HEAD + "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peers", nargs="*", type=int, help="only print these")
    given = parser.parse_args(arguments)
    rows = [largest(peers) for peers in given.peers or PEERS]
    if given.peers:
        print("\n".join(row.line() for row in rows))
    else:
        TABLE.write_text(table(rows), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
