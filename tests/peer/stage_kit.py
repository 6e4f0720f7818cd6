"""Workers that serve the stages of a tiny model, with the memory that they share with their daemon.

IO: starts worker processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.prepare import Prepared, prepare
from peer.supervisor import Worker
from peer.tensors import Tensors
from tests.p2p_llm_forge.conftest import corpus_text, spec_fields

SLOTS, SEQUENCES, LENGTH, TOKENS = 3, 2, 32, 64


def staged(folder: Path) -> Prepared:
    """A tiny GPT-2 with dropout in two stages."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(400))
    fields = spec_fields(corpus, mode="synchronous")
    fields["model"]["dropout"] = "0.1"
    fields["data"]["held_out"] = "0.11"
    fields["pipeline"] = {"stages": 2, "microbatch_size": SEQUENCES, "activations": "f32"}
    return prepare(RunSpec.from_worker(fields), folder / "blobs", 1 << 40, lambda *_: None)


def opening(run: Prepared, stage: int) -> dict[str, Any]:
    """The fields of `stage_open`."""
    return {
        "config": run.spec.canonical(), "model": str(run.paths["model"]), "manifest": str(run.paths["manifest"]),
        "shards": [str(path) for path in run.shard_paths], "stage": stage, "state": str(run.paths[f"state.{stage}"]),
    }  # fmt: skip


@asynccontextmanager
async def serving(
    run: Prepared, folder: Path, stage: int, *, hold: bool = True
) -> AsyncIterator[tuple[Worker, Tensors, str]]:
    """A worker that holds a stage, in round 1 of 4 microbatches; and the id of its state."""
    tensors = Tensors(SLOTS)
    worker = await Worker.start(folder / f"work {stage}", threads=1, device="cpu", tensors=tensors.descriptor)
    try:
        opened = await worker.call("stage_open", **opening(run, stage))
        assert opened["state"] == run.ids[f"state.{stage}"]
        if hold:
            tensors.hold(opened["tensor_bytes"])
        await worker.call("stage_begin", round=1, start=8, microbatches=4)
        yield worker, tensors, opened["state"]
    finally:
        await worker.close()
        tensors.close()


def tag(state: str, microbatch: int = 0, **changes: Any) -> dict[str, Any]:
    return {"round": 1, "microbatch": microbatch, "state": state, "tokens": TOKENS, **changes}
