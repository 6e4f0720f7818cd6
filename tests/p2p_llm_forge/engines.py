"""Members of a tiny run as engines in this process, without workers around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.prepare import Prepared, prepare
from p2p_llm_forge.protocol import Contribution, Open

from .conftest import corpus_text

CPU = torch.device("cpu")


def prepared(folder: Path, **training: Any) -> Prepared:
    """A tiny llama run: 2 batches of 2 sequences of 16 tokens for each member and round."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(400))
    fields = {
        "name": "engines",
        "seed": 3,
        "model": {"family": "llama", "layers": 2, "hidden_size": 16, "heads": 2},
        "data": {"path": str(corpus), "sequence_length": 16, "tokenizer": {"kind": "bytes"}},
        "training": {"inner_steps": 2, "batch_size": 2, **training},
    }
    return prepare(RunSpec.from_worker(fields), folder / "blobs", 1 << 40, lambda *_: None)


def member(run: Prepared, folder: Path, *, shards: bool = True) -> Engine:
    """An engine that holds the initial state; without shards it can only apply."""
    request = Open(
        id=1, do="open", config=run.spec.canonical(), shards=[str(path) for path in run.shard_paths if shards],
        **{name: str(path) for name, path in run.paths.items()},
    )  # fmt: skip
    return Engine(request, folder, CPU)


def train(engine: Engine, number: int, start: int, count: int) -> dict[str, Any]:
    """One round's training on these slots."""
    return engine.train(
        round_number=number, start=start, count=count, seconds=600.0, stopped=lambda: False, report=lambda *_: None
    )


def owed(engine: Engine) -> torch.Tensor:
    """What of the member's changes was not sent yet."""
    held = engine.carry._residual
    assert held is not None
    carried_P = engine.carry.carried(held.label.round, None)
    assert carried_P is not None
    return carried_P


def settled(replies: list[dict[str, Any]], mine: int | None = None) -> list[Contribution]:
    """The round's updates as one member applies them."""
    return [
        Contribution(path=reply["update"], tokens=reply["tokens"], mine=int(place == mine))
        for place, reply in enumerate(replies)
    ]
