"""A ledger as a folder that any transparency-log tool reads: C2SP tlog-tiles, one folder per log.

    genesis.json          the network's genesis, canonical
    keys                  verifier keys, a line each: the witnesses', then those of each log's writers
    <account>/…, run/<run id>/…
        checkpoint        the certificate
        tile/<L>/<N>      hashes
        tile/entries/<N>  entries

Written into a temporary folder that is renamed when all is on disk, a log's checkpoint after its tiles.

IO: reads the store it is given, writes below one folder.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger import notes, tiles
from ledger.entries import Begin, parse
from ledger.errors import StoreUnreadable
from ledger.merkle import Tree, leaf_hash
from ledger.store.store import Certificate, Store

GENESIS = "genesis.json"
KEYS = "keys"
CHECKPOINT = "checkpoint"


def export(store: Store, folder: Path) -> dict[str, int]:
    """Write all certified logs of a store; how many logs, entries and files it were. Memory: one bundle and the hashes.

    Raises:
        StoreUnreadable: the folder is not empty or cannot be written, or the store is damaged.
    """
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise StoreUnreadable(f"{folder}: is not an empty folder; choose another")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with _renamed_when_done(folder) as part:
            return _export(store, part)
    except OSError as exc:
        raise StoreUnreadable(f"{exc.filename or folder}: cannot write: {exc.strerror}") from exc


@contextmanager
def _renamed_when_done(folder: Path) -> Iterator[Path]:
    """A folder beside the one wanted, which takes its place at the end, or goes."""
    whole = folder.absolute()
    part = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        _sync(part)
        part.rename(whole)
        _sync(whole.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _export(store: Store, folder: Path) -> dict[str, int]:
    genesis = store.genesis
    counts = {"logs": 0, "entries": 0, "files": 2}
    for origin in store.origins():
        certificate = store.certified(origin)
        if certificate is not None:
            place = folder / genesis.terms.owner(origin)
            counts["files"] += _export_log(store, origin, certificate, place)
            counts["logs"] += 1
            counts["entries"] += certificate.size
    _write(folder / KEYS, verifier_keys(store))
    _write(folder / GENESIS, genesis.encode())
    return counts


def _export_log(store: Store, origin: str, certificate: Certificate, place: Path) -> int:
    tree, files = Tree(), 1
    for bundle in tiles.bundles(certificate.size):
        entries = store.entries(origin, bundle.start, bundle.start + bundle.width)
        for data in entries:
            tree.append(leaf_hash(data))
        _write(place / bundle.path, tiles.write_bundle(entries))
        files += 1
    if tree.size != certificate.size or tree.root().hex() != certificate.root:
        raise StoreUnreadable(f"{origin}: its entries do not give the certified root; forge-ledger verify tells more")
    for tile in tiles.tiles(certificate.size):
        _write(place / tile.path, hashes(tree, tile))
        files += 1
    _write(place / CHECKPOINT, certificate.note)
    return files


def hashes(tree: Tree, tile: tiles.Tile) -> bytes:
    """The content of a hash tile."""
    level, start = 8 * int(tile.kind), tile.number * tiles.WIDTH
    return b"".join(tree.node(level, start + at) for at in range(tile.width))


def writers(store: Store, origin: str) -> tuple[str, ...]:
    """Who may sign the heads of a stored log; reads its first entry at most."""
    owner = store.genesis.terms.owner(origin)
    if not owner.startswith("run/"):
        return (owner,)
    first = [parse(data) for data in store.entries(origin, 0, 1)]
    return first[0].leaders if first and isinstance(first[0], Begin) else ()


def verifier_keys(store: Store) -> bytes:
    """The lines of `keys`: by them other tools verify the checkpoints."""
    genesis = store.genesis
    keys = [notes.vkey(name, public, witness=True) for name, public in genesis.witnesses]
    for origin in store.origins():
        if store.certified(origin) is not None:
            keys += [notes.vkey(origin, public) for public in writers(store, origin)]
    return "".join(f"{key}\n" for key in keys).encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
