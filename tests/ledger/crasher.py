"""A process that appends and cosigns until it is killed: `python -m tests.ledger.crasher FILE [STEP]`.

It prints every head and certificate once it may be published. With STEP it kills itself at that commit boundary,
counted over both sides of every commit.

IO: one store, stdout.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger import notes
from ledger.database import Database
from ledger.entries import Send
from ledger.keys import PrivateKey
from ledger.store import Store
from ledger.witness import Witness

from .world import ALICE, ALICE_LOG, BOB, GENESIS, NOW, WITNESS


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


def main(file: Path) -> None:
    """Append one to three sends, publish the head, have it cosigned, publish the certificate; forever."""
    with Store.open(file, GENESIS, create=True) as store:
        witness = Witness(store, GENESIS, WITNESS, "witness")
        while True:
            size = store.size(ALICE_LOG)
            sends = [Send(to=BOB.public, amount=size + n + 1, memo=str(os.getpid())) for n in range(1 + size % 3)]
            head = store.append(ALICE_LOG, sends, ALICE)
            print(head.hex(), flush=True)
            line = witness.cosign(ALICE_LOG, store.size(ALICE_LOG), [], head, NOW)
            print(notes.combine(head, [line]).hex(), flush=True)
            store.certify(ALICE_LOG, notes.combine(head, [line]))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at(int(sys.argv[2]))
    main(Path(sys.argv[1]))
