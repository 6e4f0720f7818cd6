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
from collections.abc import AsyncIterator
from importlib.metadata import version

import structlog

from ledger.genesis import Genesis
from ledger.store.store import Store
from peer import addressbook
from peer.blobs.store import BlobStore
from peer.config import Settings
from peer.directory import LEADS, Directory
from peer.files import write_atomic
from peer.gateway.app import serve
from peer.identity import Home, PeerIdentity
from peer.ledger.credits import Credits
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.ledger.witnessing import witness_key, witness_of
from peer.network.network import Network
from peer.node import Node
from peer.records import PeerAdvert, RunAdvert, witness_binding
from peer.resources import measure
from peer.runs import evaluating
from peer.runs.hardware import Hardware
from peer.runs.host import Host
from peer.runs.offenders import Offenders
from peer.runs.presence import Presence
from peer.runs.submission import Submitter
from peer.supervisor import Fields, Keeper, Worker

log = structlog.get_logger(__name__)

MEASURE_AFTER_S = 6.0
"""Measuring waits until the peer had time to find a run, and until it has none: training comes first."""


def run(settings: Settings, *, quiet: bool = False) -> None:
    """Run this peer until SIGINT, SIGTERM or `forge-peer stop`.

    Raises:
        ForgeError: the home is held by another daemon, cannot be written, or libp2p does not start; or this peer must
            be a witness and cannot.
    """
    home = Home(settings.home)
    with home.lock():
        witness_key(home, settings, home.network().genesis)  # refused before anything starts
        Presence.of(home.path)  # and so is a damaged pause
        asyncio.run(_main(home, settings))


async def _main(home: Home, settings: Settings) -> None:
    identity, file = home.identity(), home.network()
    stop = asyncio.Event()
    _on_signals(stop)
    async with (
        Network.start(
            home=home,
            identity=identity,
            genesis=file.genesis,
            settings=settings,
            bootstrap=file.bootstrap,
            known=addressbook.load(home.peers_file),
        ) as network,
        _open_store(home, file.genesis) as store,
        asyncio.TaskGroup() as tasks,
    ):
        keeper = Keeper(tasks)
        daemon = Daemon(home=home, settings=settings, identity=identity, network=network, store=store, stop=stop)
        await daemon.start(keeper)
        async with serve(daemon.node, home.path):
            await daemon.announce()
            await stop.wait()
            log.info("stopping")
        await daemon.host.say_goodbye()
        keeper.cancel()  # a run's task ends its worker
        await daemon.logs.close()
    log.info("stopped")


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


class Daemon:
    """One peer's parts, put together."""

    def __init__(
        self,
        *,
        home: Home,
        settings: Settings,
        identity: PeerIdentity,
        network: Network,
        store: Store,
        stop: asyncio.Event,
    ) -> None:
        """Wire the parts; nothing runs yet."""
        self._home, self._settings = home, settings
        self._identity = identity
        self._network = network
        self._resources = measure(home.path)
        self._gflops = 0
        self._witness_key = witness_key(home, settings, store.genesis)
        self.directory = Directory(
            network=network, genesis=store.genesis, advertise=self._advertise, advertise_runs=self._advertise_runs,
            occupied=lambda: self.host.busy >= settings.max_runs,
        )  # fmt: skip
        self.logs = Logs(
            store=store,
            genesis=store.genesis,
            account=identity.account_key,
            witness=witness_of(self._witness_key, store),
            network=network,
            witness_peers=self.directory.witness_peers,
            recover=f"forge-ledger recover --home {home.path}",
        )
        self.blobs = BlobStore(home.blobs, settings.blob_quota_bytes)
        self.hardware = Hardware.of(settings, self._resources)
        credits, self.replication = Credits(self.logs), Replication(self.logs, network)
        self.host = Host(
            home=home.path,
            network=network,
            logs=self.logs,
            replication=self.replication,
            credits=credits,
            store=self.blobs,
            directory=self.directory,
            hardware=self.hardware,
            max_runs=settings.max_runs,
        )
        evaluating.serve(network, self.host.members, self.directory.peer_of)
        submitter = Submitter(
            home=home.path, store=self.blobs, logs=self.logs, credits=credits, hardware=self.hardware,
            memories=self.directory.memories,
        )  # fmt: skip
        self.node = Node(
            home=home.path, network=network, logs=self.logs, credits=credits, directory=self.directory,
            host=self.host, submitter=submitter, facts=self._facts(), stop=stop,
        )  # fmt: skip

    async def start(self, keeper: Keeper) -> None:
        """Publish adverts, take up the runs, look for more."""
        await self.directory.start()
        self.logs.start()
        self.host.start(keeper)
        await self.host.resume()
        offenders = Offenders(account_of=self.host.account_of, runs=self.host.runs.values)
        self._network.emit.listen(offenders.noted)
        keeper.keep("offenders", offenders.serve)
        keeper.keep("directory", self.directory.serve)
        keeper.keep("host", self.host.look)
        peers, witnesses, followed = self.directory.peers, self.directory.witness_peers, self.host.followed
        keeper.keep("replication", lambda: self.replication.serve(peers, witnesses, followed))
        keeper.keep("measure", self._measure)
        keeper.keep("addresses", lambda: addressbook.keep(self._home.peers_file, self._network.recent))

    async def announce(self) -> None:
        """Tell the volunteer what is running and how to stop it."""
        facts = {"account": self._identity.account[:16], "peer_id": self._network.peer_id, **self._facts()}
        log.info("ready", **facts)
        for address in await self._network.addresses():
            log.info("listening", address=address)

    # ------------------------------------------------------------------ adverts

    async def _advertise(self) -> PeerAdvert:
        key = self._witness_key
        return PeerAdvert.of(
            self._identity.account_key,
            self._identity.binding,
            network=self.logs.genesis.id,
            now=self._network.clock.now(),
            name=self._settings.name,
            addresses=(await self._network.addresses())[:16],
            device=self._device,
            memory_bytes=self._resources.device_memory_bytes,
            gflops=self._gflops,
            up_mbit=round(self._settings.upload_mbit),
            down_mbit=round(self._settings.download_mbit),
            roles=["member", *(["witness"] if key else []), *([LEADS] if self._settings.lead else [])],
            witness=key.public if key else "",
            witness_signature=key.sign(witness_binding(self._network.peer_id)).hex() if key else "",
            version=version("p2p-llm-forge"),
            max_runs=self._settings.max_runs,
        )

    def _advertise_runs(self) -> list[RunAdvert]:
        return [
            RunAdvert.create(
                self._identity.account_key,
                now=self._network.clock.now(),
                network=self.logs.genesis.id,
                peer_id=self._network.peer_id,
                run=run.id,
                name=run.name,
                phase="training" if run.log.open else "waiting",
                round=run.log.round,
                rounds=run.plan.rounds,
                members=len(run.log.open.roster) if run.log.open else 0,
                min_members=run.plan.min_members,
                max_members=run.plan.max_members,
                parameters=int(run.spec["parameters"]),
            )
            for run in self.host.led()
        ]

    # ------------------------------------------------------------------ the machine

    @property
    def _device(self) -> str:
        return self._resources.device if self._settings.device == "auto" else self._settings.device

    def _facts(self) -> Fields:
        return {
            "home": str(self._home.path),
            "network": f"{self._home.network().genesis.name} {self._home.network().genesis.id[:16]}",
            "device": self._device,
            "cpu": self._resources.cpu,
            "threads": self.hardware.threads,
            "memory_bytes": self._resources.memory_bytes,
            "blob_quota_bytes": self._settings.blob_quota_bytes,
            "max_runs": self._settings.max_runs,
            "witness": int(self._witness_key is not None),
            "pid": os.getpid(),
            "version": version("p2p-llm-forge"),
        }

    async def _measure(self) -> None:
        """Measure the training speed once for this machine; the advert carries it."""
        path = self._home.path / "speed.json"
        key = f"{self._device} {self.hardware.threads} {self._resources.cpu}"
        known = json.loads(path.read_bytes()) if path.exists() else {}
        if key not in known:
            idle = False
            while not idle:
                await asyncio.sleep(MEASURE_AFTER_S)
                idle = not self.host.busy and not self.host.presence.paused
            worker = await Worker.start(
                self._home.runs / ".measure", threads=self.hardware.threads, device=self._settings.device
            )
            try:
                known = {key: (await worker.call("measure"))["tflops"]}
            finally:
                await worker.close()
            write_atomic(path, json.dumps(known).encode())
        self._gflops = round(known[key] * 1000)
        log.info("measured", device=self._device, gflops=self._gflops)
        self.directory.refresh()
