"""The rows of `convergence`: which settings are compared, all with the same tokens.

Pure: settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.settings import TrainingSpec

MEMBERS = 4
BATCH = 4
LENGTH = 64
LEARNING_RATE = 6e-3
"""Of the rows that do not try others; what topk did best with."""
EQUAL = (1.0,) * MEMBERS
UNEQUAL = (0.25, 0.25, 0.5, 1.0)
AVERAGE = {"kind": "sgd", "learning_rate": 1.0}
NESTEROV = {"kind": "nesterov", "learning_rate": 0.7}
DDP, DEFAULT = "ddp", "default"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train."""

    name: str
    """What it is called in the table."""
    about: str
    """Which question it belongs to. Of `ddp` and of `default` the best on the first seed is taken, on every seed."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the package's defaults."""
    shares: Sequence[float] = EQUAL
    """How much of the inner steps each member does, by its speed."""
    by_tokens: bool = True
    """Updates weigh by their tokens."""
    parts: int = 1
    """How many members' batches one AdamW step is over."""
    every_seed: bool = False
    """With every seed even if it is not the best of its kind."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    rows: Sequence[Row]
    steps: int
    """AdamW steps of a member, when all are equally fast; their tokens are those of every row."""
    warmup_steps: int
    seeds: int
    """With how many the best of `ddp` and of `default` are trained; most other rows with the first."""
    looks: int
    """Held-out losses of a row."""
    sequences: int
    """Held-out sequences of a look before the last, which takes all."""


def ddp(rate: float) -> Row:
    """Synchronous data parallelism at this peak learning rate."""
    training = {"learning_rate": rate, "codec": {"kind": "f32"}, "outer": AVERAGE, "inner_steps": 10}
    return Row(name=f"ddp lr {rate:g}", about=DDP, training=training, parts=MEMBERS, shares=(1.0,))


def default(rate: float) -> Row:
    """The package's defaults at this peak learning rate."""
    return Row(name=f"default lr {rate:g}", about=DEFAULT, training={"learning_rate": rate})


def topk(
    k: int, steps: int, about: str, *, outer: float = 1.0, decay: float = 0.95, every_seed: bool = False
) -> Row:  # fmt: skip
    """topk with k values a chunk and so many inner steps."""
    said = f" outer {outer:g}" if outer != 1.0 else ""
    said += f" decay {decay:g}" if decay != 0.95 else ""
    training: dict[str, Any] = {
        "codec": {"kind": "topk", "k": k, "decay": decay},
        "outer": {"kind": "sgd", "learning_rate": outer},
        "inner_steps": steps,
    }
    return Row(name=f"k{k} H{steps}{said}", about=about, training=training, every_seed=every_seed)


def dense(kind: str, steps: int) -> Row:
    """A dense codec with Nesterov outside, as DiLoCo has it."""
    return Row(
        name=f"{kind} H{steps}", about="codecs",
        training={"codec": {"kind": kind}, "outer": NESTEROV, "inner_steps": steps},
    )  # fmt: skip


def unequal(name: str, *, by_tokens: bool) -> Row:
    """The default's codec among members of speeds 1:1:2:4, which take 2, 2, 5 and 10 steps a round.

    These are whole steps, so both of these rows have 95 % of the others' tokens.
    """
    training = {"inner_steps": 10}
    return Row(
        name=f"speeds 1:1:2:4, {name} weights", about="speeds", training=training, shares=UNEQUAL, by_tokens=by_tokens
    )  # fmt: skip


ROWS = (
    ddp(6e-3), ddp(1e-2), ddp(1.6e-2),
    default(3e-3), default(6e-3), default(1e-2),
    topk(32, 5, "k and H"), topk(64, 10, "k and H", every_seed=True), topk(128, 20, "k and H"),
    topk(64, 5, "k and H"), topk(128, 10, "k and H"), topk(32, 10, "k and H"), topk(64, 20, "k and H"),
    topk(64, 5, "outer rate", outer=0.7), topk(64, 5, "decay", decay=1.0),
    dense("f32", 10), dense("f16", 10), dense("int8", 10), dense("int4", 10),
    unequal("token", by_tokens=True), unequal("equal", by_tokens=False),
)  # fmt: skip
FULL = Size(rows=ROWS, steps=2000, warmup_steps=100, seeds=3, looks=10, sequences=128)
QUICK = Size(rows=(ddp(6e-3), default(6e-3)), steps=100, warmup_steps=20, seeds=1, looks=2, sequences=32)


def spec_of(row: Row, seed: int, corpus: Path, size: Size) -> RunSpec:
    """The run of this row; the default's training is the package's, but for its length, batch and learning rate."""
    inner = row.training.get("inner_steps", TrainingSpec().inner_steps)
    rounds = round(size.steps * MEMBERS / (sum(row.shares) * row.parts * inner))
    training = {
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH * row.parts,
        "rounds": rounds,
        "warmup_rounds": round(rounds * size.warmup_steps / size.steps),
        **row.training,
    }
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
