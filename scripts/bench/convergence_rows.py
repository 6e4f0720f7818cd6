"""The rows of `convergence`: which settings are compared.

Pure: settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2p_llm_forge.config import RunSpec

MEMBERS = 4
BATCH = 4
LENGTH = 64
LEARNING_RATE = 6e-3
EQUAL = (1.0,) * MEMBERS
UNEQUAL = (0.25, 0.25, 0.5, 1.0)
DENSE = {"kind": "nesterov", "learning_rate": 0.7}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train."""

    name: str
    """What it is called in the table."""
    about: str = ""
    """Which rows it belongs with."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the package's defaults."""
    seeds: int = 1
    """With how many seeds."""
    shares: Sequence[float] = EQUAL
    """How much of the inner steps each member does, by its speed."""
    by_tokens: bool = True
    """Updates weigh by their tokens."""
    parts: int = 1
    """Synchronous: how many members' batches each step's gradient is over."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    rows: Sequence[Row]
    steps: int
    """AdamW steps of a member, when all are equally fast; their tokens are those of every row."""
    warmup_steps: int
    seeds: int
    looks: int
    """Held-out losses of a row."""
    sequences: int
    """Held-out sequences of a look before the last, which takes all."""


def ddp(rate: float, seeds: int = 1) -> Row:
    """Synchronous data parallelism at this peak learning rate."""
    training = {"learning_rate": rate, "codec": {"kind": "f32"}, "inner_steps": 10}
    return Row(name=f"ddp lr {rate:g}", about="ddp", training=training, parts=MEMBERS, shares=(1.0,), seeds=seeds)


def topk(k: int, steps: int, **more: Any) -> Row:
    """topk with k values a chunk and so many inner steps."""
    said = " ".join(f"{name} {value:g}" for name, value in more.items())
    training: dict[str, Any] = {"codec": {"kind": "topk", "k": k}, "inner_steps": steps}
    for name, value in more.items():
        if name == "decay":
            training["codec"]["decay"] = value
        elif name == "outer":
            training["outer"] = {"kind": "sgd", "learning_rate": value}
        else:
            training["learning_rate"] = value
    return Row(name=f"k{k} H{steps} {said}".strip(), about="topk", training=training)


ROWS = (
    ddp(6e-3),
    topk(64, 10),
    topk(32, 5),
    topk(64, 5),
)
FULL = Size(rows=ROWS, steps=2000, warmup_steps=100, seeds=3, looks=10, sequences=128)
QUICK = Size(rows=ROWS[:2], steps=40, warmup_steps=10, seeds=1, looks=2, sequences=32)


def spec_of(row: Row, seed: int, corpus: Path, size: Size) -> RunSpec:
    """The run of this row; the default's training is the package's, but for its length, batch and learning rate."""
    training = {"learning_rate": LEARNING_RATE, "batch_size": BATCH * row.parts, **row.training}
    inner = training.setdefault("inner_steps", RunSpec.model_fields["training"].default.inner_steps)
    rounds = size.steps * MEMBERS / (sum(row.shares) * row.parts * inner)
    training |= {"rounds": round(rounds), "warmup_rounds": round(rounds * size.warmup_steps / size.steps)}
    options = {"activation_function": "gelu_pytorch_tanh"}
    return RunSpec.from_worker({
        "name": "convergence",
        "seed": seed,
        "model": {"family": "gpt2", "layers": 2, "hidden_size": 96, "heads": 4, "options": options},
        "data": {"path": str(corpus.absolute()), "sequence_length": LENGTH, "tokenizer": {"kind": "bytes"}},
        "training": training,
    })  # fmt: skip


def best(rows: Sequence[Mapping[str, Any]], about: str) -> list[Mapping[str, Any]]:
    """The rows about this with the learning rate that the first seed did best with."""
    first = min((row for row in rows if row["about"] == about and row["seed"] == 1), key=lambda row: row["loss"])
    return [row for row in rows if row["about"] == about and row["name"] == first["name"]]
