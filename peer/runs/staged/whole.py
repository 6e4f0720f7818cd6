"""The whole model of a run with stages, put together from the states of its stages after a settled round.

IO: a worker process and its folder, the blob store, other peers for what is not here.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path

from peer.errors import BlobMissing, BlobUnavailable, RunError
from peer.runs.past import FOLDER, LOST
from peer.runs.staged.worker import StageWorker
from peer.supervisor import Fields, Worker


async def export(of: StageWorker, round_number: int, to: Path) -> Fields:
    """Have a worker of its own write the model after this round into a folder; returns its answer.

    Raises:
        RunError: a stage's state is neither here nor with a peer that answers. WorkerError.
    """
    run = of.run
    if not 0 <= round_number <= run.log.round:
        raise RunError(
            "FP-401", f"run {run.id[:16]}: round {round_number} is not settled, the last settled is {run.log.round}"
        )
    name = f"{FOLDER}{secrets.token_hex(8)}"
    folder, owner = run.folder / name, f"{run.id}/{name}"
    states = run.log.states_after(round_number)
    worker: Worker | None = None
    try:
        await of.files.store.pin(states, owner)
        paths = [str(await _state(of, stage, state, round_number)) for stage, state in enumerate(states)]
        base = await of.files.base()
        worker = await Worker.start(folder, threads=of.hardware.threads, device="cpu")
        return await worker.call(
            "stage_export", config=run.config, model=base["model"], tokenizer=base["tokenizer"], states=paths,
            to=str(to),
        )  # fmt: skip
    finally:
        await of.files.store.unpin(owner)
        if worker is not None:
            await worker.close()
        await asyncio.to_thread(shutil.rmtree, folder, True)


async def _state(of: StageWorker, stage: int, state: str, round_number: int) -> Path:
    try:
        return await of.fetch(state)
    except (BlobMissing, BlobUnavailable) as exc:
        raise RunError(
            LOST,
            f"run {of.run.id[:16]}: the state of stage {stage} after round {round_number} is neither here nor with a "
            f"peer that answers ({exc.message})", "try again while a peer that kept it is online",
        ) from exc  # fmt: skip
