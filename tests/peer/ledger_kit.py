"""Ledger replicas of several peers on the in-memory network, without daemons around them.

IO: SQLite files in a test's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ledger.entries import run_id
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store.store import Store
from ledger.witness import Witness
from peer.ledger.credits import Credits
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from tests.peer.memory_net import Air, MemoryNetwork, new_identity

SUPPLY = 1000
FILE = f"{'ab' * 32}-7"


class Replica:
    """One peer's ledger: `store` on disk, `logs`, `replication` and `credits` over it."""

    def __init__(self, ledgers: Ledgers, name: str, key: PrivateKey | None = None) -> None:
        self._ledgers, self.name = ledgers, name
        self.key = key or PrivateKey.generate()
        self.identity = new_identity(self.key)
        self.open()

    def open(self) -> None:
        """Start; again after `crash`."""
        ledgers = self._ledgers
        self.store = Store.open(ledgers.folder / f"{self.name}.db", ledgers.genesis, create=True)
        self.network = MemoryNetwork(ledgers.air, self.identity, ledgers.genesis)
        key = ledgers.witnesses.get(self.name)
        witness = Witness(self.store, ledgers.genesis, key, self.name) if key is not None else None
        self.logs = Logs(
            store=self.store, genesis=ledgers.genesis, account=self.key, witness=witness, network=self.network,
            witness_peers=lambda: dict(ledgers.witness_peers),
        )  # fmt: skip
        self.replication = Replication(self.logs, self.network)
        self.credits = Credits(self.logs)
        if witness is not None:
            ledgers.witness_peers[self.name] = self.network.peer_id

    def crash(self) -> None:
        """Forget all that is not on disk."""
        self.logs.abandon()
        self.store.close()
        self.open()

    @property
    def account(self) -> str:
        return self.key.public


class Ledgers:
    """A network of replicas: the witnesses', called w1 and so on, and Alice's, who has all the credits."""

    def __init__(self, folder: Path, num_witnesses: int = 1) -> None:
        self.folder, self.air = folder, Air()
        self.witnesses = {f"w{number}": PrivateKey.generate() for number in range(1, num_witnesses + 1)}
        rich = PrivateKey.generate()
        self.genesis = Genesis.create(
            name="ledgers", supply=[(rich.public, SUPPLY)],
            witnesses=[(name, key.public) for name, key in self.witnesses.items()],
        )  # fmt: skip
        self.witness_peers: dict[str, str] = {}
        self.keepers = [Replica(self, name) for name in self.witnesses]
        self.alice = Replica(self, "alice", rich)
        self.replicas = [*self.keepers, self.alice]

    @property
    def keeper(self) -> Replica:
        """The first witness's."""
        return self.keepers[0]

    def more(self, name: str) -> Replica:
        """Another peer."""
        self.replicas.append(Replica(self, name))
        return self.replicas[-1]

    def spec(self, nonce: str = "0") -> dict[str, Any]:
        """A run of Alice's."""
        blobs = dict.fromkeys(("model", "tokenizer", "manifest", "state"), FILE)
        return {
            "version": 1, "name": "tiny", "submitter": self.alice.account, "leaders": [self.alice.account],
            "price": 1_000_000, "tokens_per_slot": 1, "slots_per_epoch": 10, "rounds": 1, "nonce": nonce * 32,
            "config": {}, "blobs": blobs, "parameters": 1, "budget": 100,
        }  # fmt: skip

    def run(self, spec: dict[str, Any]) -> tuple[str, str]:
        """(id, origin) of the run with this spec."""
        run = run_id(spec)
        return run, self.genesis.run_origin(run)

    def close(self) -> None:
        for replica in self.replicas:
            replica.logs.abandon()
            replica.store.close()
