"""A state of the past, computed again: from the nearest state before it that can be had, and the updates since.

It is done by a worker of its own, beside the one that trains, whose residual and optimizer stay as they are. Every
state on the way is held against the log.

IO: a worker process and its folder, the blob store, other peers for what is not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from peer.errors import BlobMissing, BlobUnavailable, RunError
from peer.rounds.log import SettledRound
from peer.runs.worker import RunWorker
from peer.supervisor import Worker

FOLDER = ".past-"
"""What the names of the workers' folders begin with."""
LOST = "FP-440"


@contextlib.asynccontextmanager
async def holding(of: RunWorker, round_number: int) -> AsyncIterator[Worker]:
    """A worker that holds the state after a settled round; it ends with the context.

    Raises:
        RunError: the round is not settled, or what it takes to compute its state is lost.
    """
    log = of.run.log
    if not 0 <= round_number <= log.round:
        raise RunError(
            "FP-401", f"run {of.run.id[:16]}: round {round_number} is not settled, the last settled is {log.round}"
        )
    name = f"{FOLDER}{secrets.token_hex(8)}"
    folder, owner = of.run.folder / name, f"{of.run.id}/{name}"
    worker: Worker | None = None
    try:
        start, path = await _nearest(of, round_number)
        rounds = log.settled[start:round_number]
        needed = [one.update for done in rounds for one in done.receipts]
        await of.files.store.pin([log.state_after(start), *needed], owner)
        updates = {one.update: await _update(of, done, one.update) for done in rounds for one in done.receipts}
        base = await of.files.base()
        worker = await Worker.start(folder, threads=of.hardware.threads, device="cpu")
        await worker.call("open", config=of.run.config, state=str(path), keep=False, shards=[], **base)
        for done in rounds:
            await _apply(of, worker, done, updates)
        yield worker
    finally:
        await of.files.store.unpin(owner)
        if worker is not None:
            await worker.close()
        await asyncio.to_thread(shutil.rmtree, folder, True)


async def _nearest(of: RunWorker, round_number: int) -> tuple[int, Path]:
    """The newest state up to the round that is here or, nearer still, that a peer keeps for good."""
    log, here, asked = of.run.log, -1, of.history.checkpoint(round_number)
    for number in range(round_number, -1, -1):
        if of.files.store.has(log.state_after(number)):
            here = number
            break
    while asked > here:
        with contextlib.suppress(BlobMissing, BlobUnavailable):
            return asked, await of.fetch(log.state_after(asked))
        asked = of.history.checkpoint(asked - 1) if asked else -1
    if here < 0:
        raise RunError(
            LOST, f"run {of.run.id[:16]}: no state up to round {round_number} is here or with a peer that answers",
            "try again while a peer that kept one is online",
        )  # fmt: skip
    return here, of.files.store.path(log.state_after(here))


async def _update(of: RunWorker, done: SettledRound, update: str) -> Path:
    try:
        return await of.fetch(update)
    except (BlobMissing, BlobUnavailable) as exc:
        raise RunError(
            LOST,
            f"run {of.run.id[:16]}: round {done.round} cannot be applied again, its update {update[:16]} is neither "
            f"here nor with a peer that answers ({exc.message})", "try again while a peer that kept it is online",
        ) from exc  # fmt: skip


async def _apply(of: RunWorker, worker: Worker, done: SettledRound, updates: dict[str, Path]) -> None:
    """One round, as every member applied it."""
    parts = [{"path": str(updates[one.update]), "tokens": one.tokens, "mine": 0} for one in done.receipts]
    got = done.state_in
    if parts:
        got = str((await worker.call("apply", round=done.round, updates=parts))["state"])
    if got != done.state:
        raise RunError(
            "FP-406", f"run {of.run.id[:16]}: round {done.round} leads to state {got}, wanted {done.state}",
            "`forge-ledger verify --replay` says which blob is damaged",
        )  # fmt: skip
