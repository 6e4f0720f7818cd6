"""The runs that `pipeline` measures, and the losses of one whose stages are replicas in this process.

IO: writes blobs, updates and states into the folder it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import cluster
from harness import say

LENGTH, MICROBATCH, RATE = 128, 4, 0.003


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained, and for how long."""

    layers: tuple[int, int]
    """Of each stage. The first runs forward twice, so it has fewer."""
    hidden: int
    heads: int
    vocabulary: int
    microbatches: int
    """Of a round, and of a step of 1F1B."""
    turns: int
    """Bursts of each."""
    rounds: int
    """Of a burst."""
    loss_steps: int
    """Steps of the comparison of losses."""


def spec(size: Size, activations: str = "bf16", **training: Any) -> dict[str, Any]:
    """The settings of our run."""
    return {
        "name": "pipeline", "seed": 7,
        "model": {
            "family": "gpt2", "layers": sum(size.layers), "hidden_size": size.hidden, "heads": size.heads,
            "vocab_size": size.vocabulary,
        },
        "data": {
            "path": str(cluster.CORPUS), "sequence_length": LENGTH,
            "tokenizer": {"kind": "bpe", "vocab_size": size.vocabulary},
        },
        "training": {
            "mode": "synchronous", "rounds": 10_000, "inner_steps": size.microbatches, "batch_size": MICROBATCH,
            "learning_rate": RATE, **training,
        },
        "pipeline": {
            "stages": 2, "microbatch_size": MICROBATCH, "activations": activations, "layers": list(size.layers),
        },
    }  # fmt: skip


def prepared(fields: dict[str, Any], out: Path) -> Any:
    """The run's blobs."""
    from p2p_llm_forge.config import RunSpec
    from p2p_llm_forge.prepare import prepare

    return prepare(RunSpec.model_validate(fields), out, 1 << 40, lambda *_: None)


def losses(size: Size, folder: Path, activations: str) -> Iterator[float]:
    """The loss of every step of a run in this process."""
    import torch

    from p2p_llm_forge.stages.desk import Desk
    from p2p_llm_forge.stages.requests import StageOpen
    from p2p_llm_forge.stages.tags import Tag
    from p2p_llm_forge.stages.window import Window

    small = replace(size, layers=(1, 1), hidden=64, heads=2, vocabulary=512, microbatches=4)
    run = prepared(spec(small, activations), folder)
    desks = [
        Desk(
            StageOpen(
                id=1, do="stage_open", config=run.spec.canonical(), model=str(run.paths["model"]), stage=stage,
                manifest=str(run.paths["manifest"]), shards=[str(path) for path in run.shard_paths],
                state=str(run.paths[f"state.{stage}"]),
            ),
            folder / str(stage), torch.device("cpu"), Window(None), lambda: 0,
        )
        for stage in (0, 1)
    ]  # fmt: skip
    first, last = (desk.replica for desk in desks)
    for number in range(1, small.loss_steps + 1):
        found = []
        for replica in (first, last):
            replica.begin(number, 0, small.microbatches)
        for j in range(small.microbatches):
            tokens, targets, _ = desks[0].microbatch(((number - 1) * small.microbatches + j) * MICROBATCH)
            tags = [
                Tag(round=number, microbatch=j, state=replica.held.id, tokens=MICROBATCH * LENGTH)
                for replica in (first, last)
            ]
            answer = last.backward(tags[1], first.forward(tags[0], tokens).data, targets)
            first.backward(tags[0], None, answer.data)
            found.append(answer.loss / 1e6)
        yield mean(found)
        step(first, last, number, small.microbatches)


def step(first: Any, last: Any, number: int, microbatches: int) -> None:
    """Write both updates and apply them."""
    from p2p_llm_forge.protocol import Contribution

    everything = list(range(microbatches))
    updates = []
    for replica in (first, last):
        written = replica.write(everything)
        updates.append([Contribution(path=str(written.path), tokens=written.tokens)])
    ids = [replica.held.id for replica in (first, last)]
    norms = [replica.held.norm(ids[at], updates[at], updates[1 - at]) for at, replica in enumerate((first, last))]
    for at, replica in enumerate((first, last)):
        replica.apply(ids[at], number, updates[at], updates[1 - at], norms)


def loss_gap(size: Size, folder: Path) -> dict[str, Any]:
    """How int8 activations compare with fp32 ones."""
    found = {kind: list(losses(size, folder / kind, kind)) for kind in ("f32", "int8")}
    last = max(1, size.loss_steps // 6)
    ends = {kind: mean(values[-last:]) for kind, values in found.items()}
    say(f"losses after {size.loss_steps} steps: {ends}")
    return {
        "int8_loss_gap": round(ends["int8"] - ends["f32"], 6),
        "f32_loss": round(ends["f32"], 6), "f32_first_loss": round(found["f32"][0], 6),
    }  # fmt: skip
