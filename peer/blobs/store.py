"""The blob store: files named by their ids, whole or not there, within a quota.

A file appears under its name only after its bytes were hashed, synced and renamed. What no owner pins may be evicted,
least recently used first, after that what owners merely keep (`pins`); pin before you fetch. Parts of unfinished
downloads survive a restart and are verified again before they are believed.

IO: the store's folder; hashing and disk work run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

from peer.blobs.chunks import CHUNK_BYTES, BlobName, blob_id, leaf_of, leaves_of
from peer.blobs.partial import Partial
from peer.blobs.pins import Pins
from peer.errors import BlobError, BlobMissing, Oversize, QuotaFull
from peer.files import TEMPORARY, disk_errors, make_folder, write_atomic

PARTS = "parts"


class BlobStore:
    """Blobs of one peer. Written only through this object, by tasks of one loop."""

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        """Reads the folder: temporary files of a crash are deleted, parts of downloads kept. Raises HomeError."""
        self._folder = folder
        self.quota_bytes = quota_bytes
        self._sizes: dict[str, int] = {}  # in order of use, oldest first
        self._leaves: dict[str, list[bytes]] = {}
        self.pins = Pins()
        self._stale: dict[str, int] = {}  # parts that no download is busy with
        self._active: dict[str, Partial] = {}
        self._reserved = 0
        make_folder(folder)
        make_folder(folder / PARTS)
        self._scan()

    def _scan(self) -> None:
        for path in [*self._folder.glob(f"{TEMPORARY}*"), *self._folder.glob(f"*/{TEMPORARY}*")]:
            path.unlink(missing_ok=True)
        found: list[tuple[float, str, int]] = []
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(BlobError, OSError):
                name, facts = BlobName.parse(path.name), path.stat()
                if facts.st_size == name.length and path.parent.name == path.name[:2]:
                    found.append((facts.st_mtime, path.name, name.length))
                else:
                    path.unlink()  # cut short behind our back: never believed
        self._sizes = {blob: size for _, blob, size in sorted(found)}
        for path in (self._folder / PARTS).iterdir():
            if path.suffix == ".part" and path.with_suffix(".leaves").exists():
                self._stale[path.stem] = path.stat().st_size
            elif path.suffix != ".leaves" or not path.with_suffix(".part").exists():
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ reading

    def has(self, blob: str) -> bool:
        """Whether the whole blob is here."""
        return blob in self._sizes

    def path(self, blob: str) -> Path:
        """The blob's file, to be read only; counts as a use.

        Raises:
            BlobMissing: it is not here, or its file was taken away behind our back.
        """
        size, path = self._sizes.pop(blob, None), self._place(blob)
        try:
            if size is None or path.stat().st_size != size:
                raise FileNotFoundError
            os.utime(path)
        except OSError as exc:
            raise BlobMissing(f"blob {blob[:16]}: not in the store at {self._folder}") from exc
        self._sizes[blob] = size
        return path

    async def read(self, blob: str, limit_bytes: int = CHUNK_BYTES) -> bytes:
        """The bytes of a small blob; raises BlobMissing, Oversize."""
        if BlobName.parse(blob).length > limit_bytes:
            raise Oversize(f"blob {blob[:16]}: {BlobName.parse(blob).length} bytes, the limit is {limit_bytes}")
        return await asyncio.to_thread(self.path(blob).read_bytes)

    async def leaves(self, blob: str) -> list[bytes]:
        """Leaf hashes of a blob that is here or on its way; raises BlobMissing."""
        if blob in self._active:
            return self._active[blob].leaves
        if blob not in self._leaves:
            self._leaves[blob] = await asyncio.to_thread(hash_file, self.path(blob))
        return self._leaves[blob]

    async def chunk(self, blob: str, index: int, start: int = 0, most: int = CHUNK_BYTES) -> bytes:
        """One chunk of a blob, or of the verified part of a download; or a piece of it. Raises BlobMissing."""
        name = BlobName.parse(blob)
        if not 0 <= index < name.chunks:
            raise BlobMissing(f"blob {blob[:16]}: has no chunk {index}")
        partial, size = self._active.get(blob), max(0, min(most, name.size_of(index) - start))
        if partial is not None and index in partial.have:
            return (await asyncio.to_thread(partial.read, index))[start : start + size]
        return await asyncio.to_thread(_read_at, self.path(blob), size, index * CHUNK_BYTES + start)

    def ids(self) -> list[str]:
        """Every whole blob, least recently used first."""
        return list(self._sizes)

    @property
    def used_bytes(self) -> int:
        """Bytes of all blobs, of downloads under way and of parts that are kept."""
        return sum(self._sizes.values()) + sum(self._stale.values()) + self._reserved

    # ------------------------------------------------------------------ adding

    async def add_bytes(self, data: bytes) -> str:
        """Keeps these bytes; returns their id. Raises QuotaFull or DiskFull, and then keeps nothing."""
        leaves = await asyncio.to_thread(leaves_of, data)
        return await self.add_verified(blob_id(leaves, len(data)), data, leaves)

    async def add_verified(self, blob: str, data: bytes, leaves: list[bytes]) -> str:
        """`add_bytes` for a caller that has just computed the id and the leaves."""
        if not self.has(blob):
            with self._room(blob, len(data)):
                await asyncio.to_thread(_write, self._place(blob), data)
                self._keep(blob, len(data), leaves)
        return blob

    async def add_file(self, path: Path) -> str:
        """Keeps a file's content (by hard link where possible, so do not change it in place); returns its id.

        Raises:
            QuotaFull, DiskFull: nothing is kept.
            OSError: the file cannot be read.
        """
        temporary = self._folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            leaves, size = await asyncio.to_thread(_take, path, temporary)
            blob = blob_id(leaves, size)
            if not self.has(blob):
                with self._room(blob, size):
                    await asyncio.to_thread(_settle, temporary, self._place(blob))
                    self._keep(blob, size, leaves)
        finally:
            temporary.unlink(missing_ok=True)
        return blob

    # ------------------------------------------------------------------ keeping

    async def pin(self, blobs: Iterable[str], owner: str) -> None:
        """Adds to what an owner needs: these are never evicted, even when they arrive only later."""
        self.pins.need(blobs, owner)

    async def unpin(self, owner: str) -> None:
        """The owner needs nothing any more."""
        self.pins.drop(owner)

    def discard(self, blob: str) -> None:
        """Deletes a blob, whoever needs it."""
        if self._sizes.pop(blob, None) is not None:
            self._leaves.pop(blob, None)
            self._place(blob).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _room(self, blob: str, size: int) -> Iterator[None]:
        """Sets room aside while a blob is written; evicts what may be evicted. Raises QuotaFull."""
        missing = self.used_bytes + size - self.quota_bytes
        if missing > 0:
            self._evict(blob, size, missing)
        self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size

    def _evict(self, blob: str, size: int, missing: int) -> None:
        parts = [name for name in self._stale if name != blob]
        whole = self.pins.evictable(self._sizes)
        free = sum(self._stale[name] for name in parts) + sum(self._sizes[name] for name in whole)
        if free < missing:
            raise QuotaFull(
                f"blob {blob[:16]}: {size} bytes do not fit, {self.used_bytes} of {self.quota_bytes} are used and only "
                f"{free} may be evicted", "raise blob_quota_gb in peer.toml",
            )  # fmt: skip
        for name in parts + whole:
            if missing <= 0:
                return
            missing -= self._stale.get(name, 0) or self._sizes.get(name, 0)
            self._drop_part(name) if name in self._stale else self.discard(name)

    def _drop_part(self, blob: str) -> None:
        self._stale.pop(blob, None)
        for suffix in (".part", ".leaves"):
            (self._folder / PARTS / f"{blob}{suffix}").unlink(missing_ok=True)

    def _keep(self, blob: str, size: int, leaves: list[bytes]) -> None:
        self._sizes[blob] = size
        self._leaves[blob] = leaves

    def _place(self, blob: str) -> Path:
        return self._folder / blob[:2] / blob

    # ------------------------------------------------------------------ downloads

    def kept_leaves(self, blob: str) -> bytes:
        """The leaf list of an unfinished download, to be verified by the caller; empty if there is none."""
        return Partial.known_leaves(self._folder / PARTS, blob) if blob in self._stale else b""

    @contextlib.asynccontextmanager
    async def download(self, blob: str, leaves: list[bytes]) -> AsyncIterator[Partial]:
        """A download with room set aside; its verified part is served to others meanwhile, and kept if it fails.

        Raises:
            QuotaFull, DiskFull: before anything is asked of anybody.
        """
        partial = Partial(self._folder / PARTS, blob, leaves)
        length = partial.name.length
        self._stale.pop(blob, None)  # counted by `_room` from here on
        try:
            with self._room(blob, length):
                await asyncio.to_thread(partial.begin)
                self._active[blob] = partial
                try:
                    yield partial
                    if len(partial.have) == partial.name.chunks:
                        await asyncio.to_thread(_finish, partial, self._place(blob))
                        self._keep(blob, length, leaves)
                finally:
                    del self._active[blob]
        finally:
            partial.close()
            if not self.has(blob) and partial.have:
                self._stale[blob] = length
            elif not self.has(blob):
                self._drop_part(blob)


def hash_file(path: Path) -> list[bytes]:
    """Leaf hashes of a file, reading one chunk at a time."""
    leaves = []
    with path.open("rb", buffering=0) as file:
        offset = 0
        while chunk := os.pread(file.fileno(), CHUNK_BYTES, offset):
            leaves.append(leaf_of(chunk))
            offset += len(chunk)
    return leaves


def _take(source: Path, temporary: Path) -> tuple[list[bytes], int]:
    """Links or copies a file to a name of ours, and hashes what is under that name."""
    with disk_errors(temporary, source.stat().st_size):
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)
        leaves, size = hash_file(temporary), temporary.stat().st_size
        if len(leaves) != -(-size // CHUNK_BYTES):
            raise OSError(f"{source}: changed while it was read")
        return leaves, size


def _settle(temporary: Path, place: Path) -> None:
    """Syncs a file and gives it its name."""
    with disk_errors(place):
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(temporary, place)


def _write(place: Path, data: bytes) -> None:
    with disk_errors(place, len(data)):
        place.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(place, data)


def _finish(partial: Partial, place: Path) -> None:
    with disk_errors(place):
        place.parent.mkdir(mode=0o700, exist_ok=True)
        partial.finish(place)


def _read_at(path: Path, size: int, offset: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(handle, size, offset)
    finally:
        os.close(handle)
    if len(data) != size:
        raise BlobMissing(f"{path.name[:16]}: {len(data)} bytes at {offset}, expected {size}; the file was cut short")
    return data
