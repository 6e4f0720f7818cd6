"""A model taken out of a run: a `save_pretrained` folder, with a card and a proof of where it comes from.

The folder appears whole or not at all. Before that it is checked as a stranger would check it; `forge-ledger check`
does the same without a peer.

IO: a worker, the ledger store, the folder.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections import Counter
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path

from ledger.entries import Entry, Settle, StageSettle
from ledger.errors import LedgerError
from ledger.exported.card import CARD, PROOF, Card, readme
from ledger.exported.check import check_folder
from ledger.genesis import Genesis
from peer.errors import RunError
from peer.files import disk_errors, sync_folder
from peer.ledger.answers import proof_of
from peer.ledger.logs import Logs
from peer.runs import past
from peer.runs.figures import telling
from peer.runs.run import Run
from peer.runs.staged import whole
from peer.runs.staged.worker import StageWorker
from peer.runs.worker import RunWorker
from peer.supervisor import Fields

EXISTS = "FP-441"


async def export(
    worker: RunWorker | StageWorker, logs: Logs, round_number: int, to: Path, *, live: bool
) -> Fields:
    """Write the model after a settled round into the folder `to`; returns the worker's answer.

    `unproven` in it says why `forge-ledger check` will refuse the folder; empty where it holds.

    Args:
        live: use the run's own worker; otherwise one beside it, which computes the state again where it is not here.

    Raises:
        RunError: the folder is there already, or the state is lost; WorkerError, OSError: it cannot be written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RunError(EXISTS, f"export: {to} exists already", "choose another folder")
    run = worker.run
    part = to.with_name(f".{to.name}.{secrets.token_hex(4)}.part")
    try:
        if isinstance(worker, StageWorker):
            answer = await whole.export(worker, round_number, part)
        elif live:
            answer = await worker.use(run.log.state_after(round_number), "export", to=str(part))
        else:
            async with past.holding(worker, round_number) as other:
                answer = await other.call("export", to=str(part))
        proof = await _proof(run, logs, round_number)
        unproven = await asyncio.to_thread(_certify, part, _card(run, logs, round_number), proof, logs)
        with disk_errors(to):
            part.rename(to)
            sync_folder(to.parent)
    finally:
        await asyncio.to_thread(shutil.rmtree, part, True)
    files = sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())
    return {**answer, "folder": str(to), "files": files, "unproven": unproven}


async def _proof(run: Run, logs: Logs, round_number: int) -> str:
    """The proof of the entry that names the state after the round: its settle, or the run's first."""
    entries = await logs.entries(run.origin, 0)
    index = next(at for at, entry in enumerate(entries) if _settles(entry, round_number)) if round_number else 0
    return await logs.on_store(lambda store: proof_of(store, run.origin, index))


def _settles(entry: Entry, round_number: int) -> bool:
    return isinstance(entry, Settle | StageSettle) and entry.round == round_number


def _card(run: Run, logs: Logs, round_number: int) -> Card:
    """What the log says of the state; the files come later."""
    settled = run.log.settled[:round_number]
    tokens: Counter[str] = Counter()
    for done in settled:
        for receipt in (*done.receipts, *done.staged):
            tokens[receipt.account] += receipt.tokens
    last = telling(settled[-1], run.log.stages) if settled else ()
    trained = sum(receipt.tokens for receipt in last)
    return Card(
        network=logs.genesis.id,
        network_name=logs.genesis.name,
        run=run.id,
        name=run.name,
        round=round_number,
        state=run.log.state_after(round_number),
        parameters=int(run.spec["parameters"]),
        tokens=sum(done.tokens for done in settled),
        members=tuple(tokens.most_common()),
        loss=sum(receipt.loss * receipt.tokens for receipt in last) // trained if trained else 0,
        validation=next((done.validation for done in reversed(settled) if done.validation), ()),
        files={},
        account=logs.account.public,
    )


def _certify(folder: Path, card: Card, proof: str, logs: Logs) -> str:
    """Write proof, model card and signed card beside the model; says why a stranger would refuse them, or nothing."""
    genesis = logs.genesis
    _write(folder / PROOF, proof.encode())
    _write(folder / "README.md", readme(card, len(genesis.witnesses), genesis.quorum).encode())
    files = {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    _write(folder / CARD, replace(card, files=files).signed(logs.account).encode())
    sync_folder(folder / "provenance")
    sync_folder(folder)
    return _refusal(folder, genesis)


def _refusal(folder: Path, genesis: Genesis) -> str:
    try:
        check_folder(folder, genesis)
    except LedgerError as exc:
        return exc.message
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as data:
        return file_digest(data, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    with disk_errors(path, len(data)), path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
