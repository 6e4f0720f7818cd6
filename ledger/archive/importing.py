"""A folder of tlog-tiles that somebody gave us, believed in nothing: read file by file and checked on the way.

Every file must be a regular one, be expected at its checkpoint's size, and have its exact length; entries, hash tiles,
root and certificate must agree. `archive` says how the folder is laid out.

IO: reads one folder, writes through the store it is given.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ledger import notes, tiles
from ledger.errors import ArchiveInvalid, CodecInvalid, EntryInvalid, GenesisInvalid, LedgerError, StoreUnreadable
from ledger.genesis import MAX_BYTES, Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store

from . import exporting as archive
from . import folders
from .folders import read

_FILE = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/[1-9][0-9]{0,2})?")
_CHUNK = 4 * tiles.WIDTH
"""Entries handed to the store at once."""


@dataclass(frozen=True, kw_only=True)
class LogFolder:
    """One log of an archive."""

    root: Path
    """The archive."""
    owner: str
    """Its folder below: an account, or "run/<run id>"."""
    head: Checkpoint
    """What its checkpoint says."""
    note: bytes
    """The checkpoint: a certificate with a quorum of cosignatures."""

    def file(self, path: str) -> str:
        """A file of the log as people find it."""
        return f"{self.owner}/{path}"

    def entries(self, start: int, end: int) -> list[bytes]:
        """The entries [start, end).

        Raises:
            ArchiveInvalid: a bundle is missing, too long, or does not hold as many as it must.
        """
        found: list[bytes] = []
        first = start // tiles.WIDTH
        for number in range(first, -(-end // tiles.WIDTH)):
            width = min(tiles.WIDTH, self.head.size - number * tiles.WIDTH)
            found += self._bundle(tiles.Tile(tiles.ENTRIES, number, width))
        return found[start - first * tiles.WIDTH : end - first * tiles.WIDTH]

    def _bundle(self, bundle: tiles.Tile) -> list[bytes]:
        data = read(self.root, self.file(bundle.path), tiles.MAX_BUNDLE)
        try:
            entries = tiles.parse_bundle(data)
        except CodecInvalid as exc:
            raise self._bad(bundle.path, "length", f"{len(data)} bytes ({exc.message})", "whole entries") from exc
        if len(entries) != bundle.width:
            raise self._bad(bundle.path, "number of entries", len(entries), bundle.width)
        return entries

    def tree(self) -> Tree:
        """The hashes of the whole log, once every file of it is found to be there and right, and no other.

        Raises:
            ArchiveInvalid: naming the file.
        """
        self._check_names()
        tree = Tree()
        for bundle in tiles.bundles(self.head.size):
            tile = tiles.Tile("0", bundle.number, bundle.width)
            hashes = self._hashes(tile)
            for at, data in enumerate(self._bundle(bundle)):
                leaf, wanted = leaf_hash(data), hashes[32 * at : 32 * at + 32]
                if leaf != wanted:
                    says = f"{wanted.hex()}, as {tile.path} says"
                    raise self._bad(bundle.path, "leaf hash", leaf.hex(), says, bundle.start + at)
                tree.append(leaf)
        for tile in tiles.tiles(self.head.size):
            if tile.kind != "0" and self._hashes(tile) != archive.hashes(tree, tile):
                raise self._bad(tile.path, "content", "other hashes", "those of the tiles below")
        if tree.root() != self.head.root:
            root = f"{tree.root().hex()}, that of its entries"
            raise self._bad(archive.CHECKPOINT, "root", self.head.root.hex(), root)
        return tree

    def _hashes(self, tile: tiles.Tile) -> bytes:
        data = read(self.root, self.file(tile.path), tiles.MAX_TILE)
        if len(data) != 32 * tile.width:
            raise self._bad(tile.path, "length", f"{len(data)} bytes", f"{32 * tile.width}")
        return data

    def _check_names(self) -> None:
        """Refuse every file that a log of this size does not have."""
        for path in folders.walk(self.root, self.owner):
            name = path.removeprefix(self.owner + "/")
            found = _FILE.fullmatch(name)
            if name == archive.CHECKPOINT:
                continue
            if found is not None:
                level = 0 if found[1] == tiles.ENTRIES else int(found[1])
                count, number = self.head.size >> 8 * level, int(found[2].replace("x", "").replace("/", ""))
                width = min(tiles.WIDTH, count - number * tiles.WIDTH)
                if width > 0 and tiles.Tile(found[1], number, width).path == name:
                    continue
            raise self._bad(name, "file", "there", f"only what a log of {self.head.size} entries has")

    def take_over(self, store: Store) -> int:
        """Check the log and store it, part by part; how many entries it has.

        Raises:
            ArchiveInvalid: naming the file.
        """
        tree, size = self.tree(), self.head.size
        for start in range(0, size, _CHUNK):
            end = min(start + _CHUNK, size)
            proof = tree.consistency_proof(end, size) if end < size else None
            try:
                store.accept(self.head.origin, start, self.entries(start, end), self.note, proof)
            except EntryInvalid as exc:
                at = start if exc.index is None else exc.index
                bundle = tiles.Tile(tiles.ENTRIES, at // tiles.WIDTH, min(tiles.WIDTH, size - at // tiles.WIDTH * 256))
                raise self._bad(bundle.path, exc.rule, exc.got, exc.wanted, at) from exc
            except LedgerError as exc:
                raise self._bad(archive.CHECKPOINT, "log", exc.message, "one that the rules allow") from exc
        return size

    def _bad(self, path: str, rule: str, got: object, wanted: object, entry: int | None = None) -> ArchiveInvalid:
        return ArchiveInvalid(file=self.file(path), rule=rule, got=got, wanted=wanted, entry=entry)


def genesis_of(folder: Path, wanted: Genesis | None = None) -> Genesis:
    """The genesis that an archive holds.

    Raises:
        ArchiveInvalid: there is none; GenesisInvalid: it is not the one that is wanted.
    """
    if not folder.is_dir():
        raise ArchiveInvalid(file=str(folder), rule="folder", got="not there", wanted="what forge-ledger export makes")
    data = read(folder, archive.GENESIS, MAX_BYTES)
    try:
        found = Genesis.parse(data)
    except GenesisInvalid as exc:
        raise ArchiveInvalid(file=archive.GENESIS, rule="content", got=exc.message, wanted="a genesis") from exc
    if wanted is not None:
        wanted.check_same(found.encode(), str(folder))
    return found


def owners(folder: Path) -> list[str]:
    """The logs of an archive, as the names of its folders say, sorted.

    Raises:
        ArchiveInvalid: there is something that is no log.
    """
    found: list[str] = []
    for place in ("", "run/"):
        for entry in folders.scan(folder, place):
            name = place + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and re.fullmatch("[0-9a-f]{64}", entry.name):
                found.append(name)
            elif name not in (archive.GENESIS, archive.KEYS, "run") or is_folder != (name == "run"):
                raise ArchiveInvalid(file=name, rule="file", got="there", wanted="genesis.json, keys and logs")
    return sorted(found)


def log_folder(folder: Path, owner: str, genesis: Genesis) -> LogFolder:
    """One log of an archive, its certificate checked.

    Raises:
        ArchiveInvalid: no quorum of this network's witnesses certified it.
    """
    file = f"{owner}/{archive.CHECKPOINT}"
    data = read(folder, file, notes.MAX_BYTES)
    try:
        note = notes.parse(data)
        head = notes.checkpoint(note)
        witnesses = genesis.cosigners(note)
    except LedgerError as exc:
        raise ArchiveInvalid(file=file, rule="content", got=exc.message, wanted="a certificate") from exc
    if head.origin != genesis.terms.origin(owner) or head.size == 0:
        got, wanted = f"{head.origin[:160]} at {head.size}", f"{genesis.terms.origin(owner)} with entries"
        raise ArchiveInvalid(file=file, rule="log", got=got, wanted=wanted)
    if len(witnesses) < genesis.quorum:
        got = f"{', '.join(witnesses) or 'no witness'} of {genesis.name}"
        raise ArchiveInvalid(file=file, rule="cosigned by", got=got, wanted=f"{genesis.quorum} witnesses")
    return LogFolder(root=folder, owner=owner, head=head, note=data)


def import_archive(
    folder: Path, path: Path, genesis: Genesis | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Make a new store at `path` of an archive, once all of it is checked; how many logs and entries it has.

    Raises:
        ArchiveInvalid: naming the file; GenesisInvalid: it is of another network; StoreUnreadable: see there.
    """
    found = genesis_of(folder, genesis)
    if os.path.lexists(path):
        raise StoreUnreadable(f"{path}: there is something already; choose another place for the new ledger")
    part = path.with_name(f".{path.name}.part")
    logs, entries = owners(folder), 0
    try:
        _forget(part)
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with Store.open(part, found, create=True) as store:
            for number, owner in enumerate(logs):
                entries += log_folder(folder, owner, found).take_over(store)
                if progress is not None:
                    progress(number + 1, len(logs))
            check_keys(folder, store)
        part.rename(path)
    except OSError as exc:
        raise StoreUnreadable(f"{exc.filename or path}: cannot write: {exc.strerror}") from exc
    finally:
        _forget(part)
    return {"logs": len(logs), "entries": entries}


def take_all(folder: Path, store: Store) -> dict[str, ArchiveInvalid]:
    """Store every log of an archive that is sound; by origin, why others are not."""
    refused = {}
    for owner in owners(folder):
        try:
            log_folder(folder, owner, store.genesis).take_over(store)
        except ArchiveInvalid as exc:
            refused[store.genesis.terms.origin(owner)] = exc
    return refused


def check_keys(folder: Path, store: Store) -> None:
    """Check that an archive's `keys`, where it has that file, are those of its witnesses and writers.

    Raises:
        ArchiveInvalid: other tools would believe the wrong keys.
    """
    wanted = archive.verifier_keys(store)
    if os.path.lexists(folder / archive.KEYS) and read(folder, archive.KEYS, len(wanted)) != wanted:
        raise ArchiveInvalid(file=archive.KEYS, rule="content", got="other keys", wanted="the witnesses' and writers'")


def _forget(part: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal", ".lock"):
        part.with_name(part.name + end).unlink(missing_ok=True)
