"""A ledger with a log of several tiles, and its export.

IO: stores and folders where they are asked for.
"""

from pathlib import Path

from ledger.archive import exporting as archive
from ledger.entries import Send
from ledger.store.store import Store

from .world import ALICE, BOB, BOB_LOG, CAROL, GENESIS, certify, fill

CAROL_LOG = GENESIS.origin(CAROL.public)
MANY = 300 + 256
"""Entries of Carol's log: two full tiles, a part of one, and so a second level."""


def make_store(path: Path) -> Path:
    """Alice's log, a run's, Carol's of many entries, and Bob's that was never certified."""
    with Store.open(path, GENESIS, create=True) as store:
        fill(store)
        store.append(CAROL_LOG, [Send(to=BOB.public, amount=1, memo=str(i)) for i in range(MANY)], CAROL)
        certify(store, CAROL_LOG)
        store.append(BOB_LOG, [Send(to=ALICE.public, amount=1)], BOB)
    return path


def make_archive(store_file: Path, folder: Path) -> dict[str, int]:
    """The store exported."""
    with Store.open(store_file, GENESIS, read_only=True) as store:
        return archive.export(store, folder)
