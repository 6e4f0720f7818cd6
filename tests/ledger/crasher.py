"""A process that writes a ledger until it is killed: `python -m tests.ledger.crasher FILE ROLE [STEP]`.

ROLE is `peer`, which appends to its own log; `witness`, which cosigns the logs of others; or `both`. It prints every
head and cosigned head once it may be published. With STEP it kills itself at that commit boundary, counted over both
sides of every commit.

IO: one store, stdout.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger import notes
from ledger.entries import Send
from ledger.keys import PrivateKey
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.database import Database
from ledger.store.store import Store
from ledger.witness import Witness

from .world import ALICE, ALICE_LOG, BOB, GENESIS, NOW, WITNESS, key_of

OTHERS = tuple(key_of(f"cosigned {place}") for place in range(3))
"""Whose logs a witness cosigns."""


def die_at(step: int) -> None:
    """Kill this process just before or just after a commit, or just before a signature."""
    left = step

    def pass_by() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    transaction, sign = Database.transaction, PrivateKey.sign

    @contextmanager
    def dying(self: Database) -> Iterator[None]:
        with transaction(self):
            yield
            pass_by()
        pass_by()

    def dying_sign(self: PrivateKey, message: bytes) -> bytes:
        pass_by()
        return sign(self, message)

    Database.transaction = dying  # type: ignore[method-assign]
    PrivateKey.sign = dying_sign  # type: ignore[method-assign]


def sends_after(size: int) -> list[Send]:
    """One to three entries that no other process would make."""
    return [Send(to=BOB.public, amount=size + n + 1, memo=str(os.getpid())) for n in range(1 + size % 3)]


def append(store: Store, *, cosigned: bool) -> None:
    """Append, publish the head; have it cosigned and publish that too, or take in a certificate made elsewhere."""
    head = store.append(ALICE_LOG, sends_after(store.size(ALICE_LOG)), ALICE)
    print(head.hex(), flush=True)
    if cosigned:
        witness = Witness(store, GENESIS, WITNESS, "witness")
        line = witness.cosign(ALICE_LOG, store.size(ALICE_LOG), [], head, NOW)
        print(notes.combine(head, [line]).hex(), flush=True)
    else:
        line = notes.cosign(head, "witness", WITNESS, NOW)
    store.certify(ALICE_LOG, notes.combine(head, [line]))


def cosign(store: Store, key: PrivateKey) -> None:
    """Cosign the next head of another's log and publish that."""
    origin = GENESIS.origin(key.public)
    size = store.size(origin)
    fresh = [entry.encode() for entry in sends_after(size)]
    tree = Tree(map(leaf_hash, [*store.entries(origin, 0, size), *fresh]))
    head = notes.sign_head(Checkpoint(origin=origin, size=tree.size, root=tree.root()), key)
    line = Witness(store, GENESIS, WITNESS, "witness").cosign(origin, size, fresh, head, NOW)
    print(notes.combine(head, [line]).hex(), flush=True)


def main(file: Path, role: str) -> None:
    """Do what the role asks, forever."""
    with Store.open(file, GENESIS, create=True) as store:
        while True:
            if role == "witness":
                for key in OTHERS:
                    cosign(store, key)
            else:
                append(store, cosigned=role == "both")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_at(int(sys.argv[3]))
    main(Path(sys.argv[1]), sys.argv[2])
