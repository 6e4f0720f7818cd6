"""A large ledger, made quickly: certified logs of accounts that pay each other and of runs that train, all valid.

The rows are written by SQL, but every entry, hash, receipt and certificate is what a network would have made: four
witnesses, of which three cosign; each account is a funder or member of runs; each claim names a certified size.

IO: writes one SQLite file.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from random import Random

from ledger import notes
from ledger.entries import run_id
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.merkle import Frontier, leaf_hash
from ledger.notes import Checkpoint
from ledger.receipt import CONTEXT
from ledger.store.database import Database, HeadRow

NOW = 1_700_000_000
MEMBERS = 5
"""Members of each round."""
ROUND = MEMBERS + 2
"""Entries of a round: open, receipts, settle."""
RUNS_SHARE = 0.4
"""Runs among the logs."""
SENDS = 4
"""Sends for each claim in an account's log."""
PARTNERS = 12
"""Whom each account pays, and so who claims from it."""
SLOTS = 10
FUND = 10**9
_write = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def key_of(name: str) -> PrivateKey:
    """The same key for the same name, always."""
    return PrivateKey(sha256(name.encode()).digest())


def blob(name: str) -> str:
    """A blob id."""
    return sha256(name.encode()).hexdigest() + "-1000000"


class Log:
    """One log as it grows."""

    def __init__(self, origin: str, key: PrivateKey) -> None:
        self.origin, self.key = origin, key
        self.leaves: list[bytes] = []
        self.entries: list[bytes] = []
        self.frontier = Frontier()
        self.cursors: dict[str, int] = {}

    def add(self, body: dict[str, object]) -> None:
        """Append an entry."""
        data = _write(body).encode()
        leaf = leaf_hash(data)
        self.entries.append(data)
        self.leaves.append(leaf)
        self.frontier.append(leaf)

    def claim(self, source: Log) -> bool:
        """Claim all that the source owes, if there is anything new in it."""
        size = source.frontier.size
        if self.cursors.get(source.origin, 0) == size:
            return False
        self.cursors[source.origin] = size
        root = source.frontier.root.hex()
        self.add({"type": "recv", "origin": source.origin, "index": size - 1, "size": size, "root": root})
        return True


class Run:
    """A run's log and its rounds."""

    def __init__(self, genesis: Genesis, number: int, lead: Log, members: list[Log]) -> None:
        blobs = {name: blob(f"{name} {number}") for name in ("model", "tokenizer", "manifest", "state")}
        leader = lead.key.public
        spec = {
            "version": 1, "name": f"run {number}", "submitter": leader, "leaders": [leader], "price": 1000,
            "tokens_per_slot": 1000, "slots_per_epoch": 10**9, "rounds": 10**6, "nonce": f"{number:032x}",
            "config": {}, "blobs": blobs,
        }  # fmt: skip
        self.network, self.run = genesis.id, run_id(spec)  # type: ignore[arg-type]
        self.log = Log(genesis.run_origin(self.run), lead.key)
        self.members, self.state, self.rounds = members, blobs["state"], 0
        lead.add({"type": "send", "to": f"run/{self.run}", "amount": FUND, "memo": "fund"})
        self.log.add({"type": "begin", "spec": spec})
        self.log.claim(lead)

    def round(self) -> None:
        """One more round, in which every member does all its slots."""
        self.rounds += 1
        start = (self.rounds - 1) * SLOTS * MEMBERS
        roster = [[member.key.public, start + SLOTS * i, SLOTS] for i, member in enumerate(self.members)]
        self.log.add({"type": "open", "round": self.rounds, "state": self.state, "roster": roster})
        first = len(self.log.entries)
        for i, member in enumerate(self.members):
            body: dict[str, object] = {
                "type": "receipt", "network": self.network, "run": self.run, "round": self.rounds,
                "account": member.key.public, "state_in": self.state, "update": blob(f"{self.run}{self.rounds}{i}"),
                "tokens": SLOTS * 1000, "slots": [start + SLOTS * i, SLOTS], "loss": 3_000_000, "steps": 10,
                "leaves": "ab" * 32,
            }  # fmt: skip
            signature = member.key.sign(CONTEXT + _write(body).encode()).hex()
            self.log.add({**body, "signature": signature})
        self.state = blob(f"{self.run} after {self.rounds}")
        receipts = list(range(first, first + len(self.members)))
        self.log.add(
            {"type": "settle", "round": self.rounds, "receipts": receipts, "state": self.state, "validation": []}
        )


def grow(genesis: Genesis, accounts: list[Log], entries: int, logs: int) -> list[Log]:
    """Runs and payments side by side, until there are so many entries, a tenth of them receipts."""
    rng = Random(1)
    runs = []
    for number in range(logs - len(accounts)):
        members = rng.sample(accounts, MEMBERS)
        runs.append(Run(genesis, number, members[0], members))
    mine: dict[str, list[Log]] = {log.origin: [] for log in accounts}
    for run in runs:
        for member in run.members:
            mine[member.origin].append(run.log)
    partners = {log.origin: rng.sample(accounts, min(PARTNERS, len(accounts))) for log in accounts}
    payers: dict[str, list[Log]] = {log.origin: [] for log in accounts}
    for log in accounts:
        for partner in partners[log.origin]:
            payers[partner.origin].append(log)
    rounds = entries // (10 * MEMBERS)
    payments = entries - rounds * ROUND - sum(len(log.entries) for log in (*accounts, *(run.log for run in runs)))
    done = 0
    for payment in range(payments):
        while done < rounds and done * payments <= payment * rounds:
            runs[done % len(runs)].round()
            done += 1
        log = accounts[payment % len(accounts)]
        if payment // len(accounts) % (SENDS + 1) == SENDS:
            own, others = mine[log.origin], payers[log.origin] or accounts
            source = rng.choice(own if own and rng.random() < 0.3 else others)
            if log.claim(source):
                continue
        to = rng.choice(partners[log.origin]).key.public
        log.add({"type": "send", "to": to, "amount": rng.randint(1, 1000), "memo": ""})
    for run in runs[::10]:
        run.log.add({"type": "close", "state": run.state, "reason": "done"})
    return [*accounts, *(run.log for run in runs)]


def make(path: Path, network: Path, *, entries: int, logs: int) -> None:
    """Write the ledger and its network file."""
    accounts = [key_of(f"account {number}") for number in range(logs - int(logs * RUNS_SHARE))]
    witnesses = [(f"witness{number}", key_of(f"witness {number}")) for number in range(4)]
    genesis = Genesis.create(
        name="bench", supply={key.public: 10**12 for key in accounts},
        witnesses=[(name, key.public) for name, key in witnesses],
    )  # fmt: skip
    network.write_bytes(genesis.encode())
    grown = grow(genesis, [Log(genesis.origin(key.public), key) for key in accounts], entries, logs)
    database = Database.open(path, create={"genesis": genesis.encode(), "instance": b"0" * 32})
    try:
        for log in grown:
            head = Checkpoint(origin=log.origin, size=log.frontier.size, root=log.frontier.root)
            note = notes.sign_head(head, log.key)
            lines = [notes.cosign(note, name, key, NOW) for name, key in witnesses[: genesis.quorum]]
            with database.transaction():
                row = database.add_log(log.origin)
                database.add_entries(row, 0, log.leaves, log.entries)
                database.set_head("head", row, HeadRow(head.size, head.root, note))
                database.set_head("certificate", row, HeadRow(head.size, head.root, notes.combine(note, lines)))
    finally:
        database.close()


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), entries=int(sys.argv[3]), logs=int(sys.argv[4]))
