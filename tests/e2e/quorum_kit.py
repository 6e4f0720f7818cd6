"""Four witness daemons made by the CLI, and a peer in this process that writes to its own log.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ledger.entries import Send
from ledger.genesis import Genesis
from ledger.store.store import Store
from peer.config import Settings
from peer.daemon import Daemon
from peer.demo.peers import DemoPeer, run_json, yard
from peer.errors import ForgeError
from peer.identity import Home
from peer.ledger.cosigning import Ask
from peer.network.network import Network
from peer.resources import cpu_name
from peer.supervisor import Keeper

PATIENCE_S = 60.0


class Net:
    """The network: peers 1 to 4 are its witnesses, those after them are not."""

    def __init__(self, folder: Path, settings: str = "", peers: int = 4) -> None:
        self.folder, self._settings = folder, settings
        self.peers = [DemoPeer(number=number, home=folder / f"peer-{number}") for number in range(1, peers + 1)]
        made = run_json("forge-peer", "network", "create", "--home", self.peers[0].home, "--witnesses", 4)
        self.keys = ["", *made["witness_keys"]]
        self.file = Path(made["file"])

    @property
    def genesis(self) -> Genesis:
        return Home(self.peers[0].home).network().genesis

    def start(self, *numbers: int) -> None:
        """Start these peers, witnesses with the key that was made for them; wait until they answer."""
        for number in numbers:
            peer, words = self.peers[number - 1], ["--device", "cpu", "--threads", "1"]
            if number > 1:
                words += ["--network", str(self.file), "--bootstrap", self.peers[0].address]
            if 1 < number <= len(self.keys):
                words += ["--witness-key", self.keys[number - 1]]
            peer.home.mkdir(exist_ok=True)
            nothing_to_measure(peer.home)
            (peer.home / "peer.toml").write_text(self._settings or f"max_runs = {int(number == 1)}\n")
            peer.start(*words)
        for number in numbers:
            self.peers[number - 1].wait_ready()

    def gone(self, *numbers: int) -> None:
        """These witnesses are killed, all others run."""
        up = {peer.number for peer in self.peers if peer.process is not None and peer.process.poll() is None}
        for number in up & set(numbers):
            self.peers[number - 1].kill()
        self.start(*sorted({1, 2, 3, 4} - up - set(numbers)))

    @contextlib.contextmanager
    def paused(self, number: int) -> Iterator[None]:
        """It keeps its connections and does nothing."""
        process = self.peers[number - 1].process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def close(self) -> None:
        for peer in self.peers:
            if peer.process is not None and peer.process.poll() is None:
                peer.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def four_witnesses(folder: Path, settings: str = "", peers: int = 4) -> Iterator[Net]:
    """All running; none is left when the block ends. By default only the first works on runs."""
    net = Net(folder, settings, peers)
    with yard(net.peers):
        try:
            net.start(1)
            net.start(*range(2, peers + 1))
            yield net
        finally:
            net.close()


def nothing_to_measure(home: Path) -> None:
    """Its speed does not matter here."""
    (home / "speed.json").write_text(json.dumps({f"cpu 1 {cpu_name()}": 0.0}))


def job(peer: DemoPeer) -> dict[str, Any]:
    """The run as a peer tells it; one that is down or just starting tells nothing."""
    nothing = {"phase": "", "round": 0, "state": ""}
    try:
        found = peer.client.get("/jobs")
    except ForgeError:
        return nothing
    return dict(found[0]) if found else nothing


def willing(peer: DemoPeer) -> list[str]:
    """Who would lead runs of others, as this peer knows."""
    return [node["account"] for node in peer.client.get("/nodes") if "leader" in node["roles"]]


@contextlib.asynccontextmanager
async def writer(net: Net, home: Home) -> AsyncIterator[Daemon]:
    """The daemon's parts in this process; its account owns nothing, so what it sends is void, but entries they are."""
    home.create()
    home.network_file.write_bytes(net.file.read_bytes())
    nothing_to_measure(home.path)
    settings = Settings.load(home.path, {"device": "cpu", "threads": 1, "max_runs": 0}, {})
    with home.lock():
        async with Network.start(
            home=home, identity=home.identity(), genesis=net.genesis, settings=settings,
            bootstrap=[peer.address for peer in net.peers if peer.process and peer.process.poll() is None],
        ) as network:  # fmt: skip
            with Store.open(home.ledger_file, net.genesis, create=True) as store:
                async with asyncio.TaskGroup() as tasks:
                    keeper = Keeper(tasks)
                    daemon = Daemon(
                        home=home, settings=settings, identity=home.identity(), network=network, store=store,
                        stop=asyncio.Event(),
                    )  # fmt: skip
                    await daemon.start(keeper)
                    try:
                        yield daemon
                    finally:
                        keeper.cancel()
                        await daemon.logs.close()


async def append(daemon: Daemon, count: int = 1) -> None:
    """Append to the writer's log, and wait until it is certified."""
    entries = [Send(to="ab" * 32, amount=1, memo="") for _ in range(count)]
    await asyncio.wait_for(daemon.logs.append(daemon.logs.origin, entries), PATIENCE_S)


def asked(daemon: Daemon) -> Ask | None:
    """The head of the writer's log that waits for its certificate."""
    ask = daemon.logs._cosigners.newest.get(daemon.logs.origin)
    return ask if ask is not None and not ask.certificate.done() else None
