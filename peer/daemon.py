"""The daemon: puts the parts together, runs them in one task group, and takes them apart within five seconds.

Composition root. Order matters: lock the home, start libp2p, open the ledger, take up the runs, open the gateway.

IO: everything, through the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import structlog

from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store import Store
from ledger.witness import Witness
from peer.blobs import BlobStore
from peer.config import Settings
from peer.credits import Credits
from peer.directory import Directory
from peer.files import write_atomic
from peer.gateway.app import serve
from peer.host import Host
from peer.identity import Home, PeerIdentity
from peer.logs import Logs
from peer.network import Network
from peer.node import Node
from peer.run_worker import Hardware
from peer.submission import Submitter
from peer.supervisor import Fields, Keeper, Worker

log = structlog.get_logger(__name__)

STOP_S = 4.0


def run(settings: Settings, *, quiet: bool = False) -> None:
    """Run this peer until SIGINT, SIGTERM or `forge-peer stop`.

    Raises:
        ForgeError: the home is held by another daemon, cannot be written, or libp2p does not start.
    """
    home = Home(settings.home)
    with home.lock():
        asyncio.run(_main(home, settings))


async def _main(home: Home, settings: Settings) -> None:
    identity, file = home.identity(), home.network()
    stop = asyncio.Event()
    _on_signals(stop)
    network = Network.start(identity=identity, home=home, genesis=file.genesis, settings=settings, bootstrap=file.bootstrap)
    async with network as net, _open_store(home, file.genesis) as store:
        async with asyncio.TaskGroup() as tasks:
            daemon = Daemon(home=home, settings=settings, identity=identity, network=net, store=store, tasks=tasks, stop=stop)
            async with serve(daemon.node, home.path):
                await daemon.start()
                await stop.wait()
                log.info("stopping")
            await daemon.close()


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal stops cleanly, the second at once."""

    def handle() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, handle)


@contextlib.asynccontextmanager
async def _open_store(home: Home, genesis: Genesis) -> AsyncIterator[Store]:
    store = await asyncio.to_thread(lambda: Store.open(home.ledger_file, genesis, create=True))
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)
