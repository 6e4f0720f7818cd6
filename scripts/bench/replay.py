"""A finished run once more, from its log and its blobs: applied by a worker, written to a store; no daemon, no network.

IO: reads a stopped peer's home; a worker process; a ledger store of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from cluster import Peer, environment

from ledger.entries import Close, Entry, Open, parse
from ledger.keys import PrivateKey
from ledger.notes import combine
from ledger.store.store import Store
from ledger.witness import Witness
from peer.identity import Home
from peer.rounds.log import RunLog, SettledRound
from peer.supervisor import Worker


def run_log(peer: Peer, run: str) -> RunLog:
    """A run's certified log, from the store of a stopped peer."""
    home, log = Home(peer.home), RunLog()
    genesis = home.network().genesis
    with Store.open(home.ledger_file, genesis) as store:
        origin = genesis.run_origin(run)
        certificate = store.certified(origin)
        size = certificate.size if certificate else 0
        log.extend([parse(data) for data in store.entries(origin, 0, size)])
    return log


@dataclass(frozen=True, kw_only=True)
class LogCosts:
    """Seconds of writing each round to a ledger store that nobody else uses."""

    append: list[float]
    """Check, store, sign and commit."""
    cosign: list[float]
    """Have a witness of the same process replay and sign it, and commit the certificate."""


def write_again(peer: Peer, run: str, folder: Path) -> LogCosts:
    """Write a run's log into a new store, in the batches in which the leader wrote it.

    Args:
        peer: the stopped leader, which is the only witness as well.
        run: the run.
        folder: for the store.
    """
    home, costs, batch = Home(peer.home), LogCosts(append=[], cosign=[]), list[Entry]()
    genesis, key = home.network().genesis, PrivateKey.load(home.account_key_file)
    origin = genesis.run_origin(run)
    folder.mkdir(parents=True, exist_ok=True)
    with Store.open(home.ledger_file, genesis) as store:
        entries = [parse(data) for data in store.entries(origin, 0, store.size(origin))]
    with Store.open(folder / "ledger.db", genesis, create=True) as store:
        witness = Witness(store, genesis, PrivateKey.load(home.witness_key_file), genesis.witnesses[0][0])
        for entry in entries:
            batch.append(entry)
            if not isinstance(entry, Open | Close):
                continue
            started = time.perf_counter()
            note = store.append(origin, [one.encode() for one in batch], key)
            appended = time.perf_counter()
            line = witness.cosign(origin, store.size(origin), [], note, int(time.time()))
            store.certify(origin, combine(note, [line]))
            costs.append.append(appended - started)
            costs.cosign.append(time.perf_counter() - appended)
            batch.clear()
    return costs


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What one replay found."""

    states: list[str]
    """State ids after each round, as the worker computed them."""
    seconds: list[float]
    """How long each round took, the call to the worker included."""


def replay(
    peer: Peer, log: RunLog, folder: Path, *, threads: int, variables: Mapping[str, str] | None = None
) -> Replayed:
    """Apply every settled round from the initial state on.

    Args:
        peer: whose blobs to read; its daemon has ended.
        log: the run's log.
        folder: for the worker's files.
        threads: CPU threads of the worker.
        variables: extra environment variables of the worker.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with environment(**(variables or {})):
        return asyncio.run(_replay(peer, log, folder, threads))


async def _replay(peer: Peer, log: RunLog, folder: Path, threads: int) -> Replayed:
    spec: dict[str, Any] = log.spec
    blobs: dict[str, Any] = {
        name: str(peer.blob(spec["blobs"][name])) for name in ("model", "tokenizer", "manifest", "state")
    }
    states: list[str] = []
    seconds: list[float] = []
    worker = await Worker.start(folder, threads=threads, device="cpu")
    try:
        await worker.call("open", config=spec["config"], shards=[], **blobs)
        for settled in log.settled:
            started = time.perf_counter()
            answer = await worker.call("apply", round=settled.round, updates=_updates(peer, settled))
            seconds.append(time.perf_counter() - started)
            states.append(str(answer["state"]))
    finally:
        await worker.close()
    return Replayed(states=states, seconds=seconds)


def _updates(peer: Peer, settled: SettledRound) -> list[dict[str, Any]]:
    return [
        {"path": str(peer.blob(receipt.update)), "tokens": receipt.tokens, "mine": 0} for receipt in settled.receipts
    ]
