"""One unfinished download on disk: only chunks whose hash was checked count, before and after a restart.

IO: two files, the bytes and the list of leaf hashes; every method blocks, so call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

from peer.blobs.chunks import CHUNK_BYTES, BlobName, leaf_of
from peer.errors import BlobMissing
from peer.files import disk_errors, sync_folder, write_atomic


def _allocate(handle: int, length: int) -> None:
    """Keeps the room where the file system can, so that a full disk shows now and not near the end."""
    try:
        os.posix_fallocate(handle, 0, length)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(handle, length)


class Partial:
    """The bytes of a blob that are here so far; made by `begin`, owned by one download."""

    def __init__(self, folder: Path, blob: str, leaves: list[bytes]) -> None:
        self.blob = blob
        self.name = BlobName.parse(blob)
        self.leaves = leaves
        self.have: set[int] = set()
        """Chunks that are on disk and verified."""
        self._data = folder / f"{blob}.part"
        self._list = folder / f"{blob}.leaves"
        self._handle = -1
        self._guard = threading.Lock()  # a cancelled task leaves its thread behind: never use a handle that is closed

    @staticmethod
    def known_leaves(folder: Path, name: str) -> bytes:
        """The leaf list that an earlier download of the blob kept, unverified; empty if there is none."""
        try:
            return (folder / f"{name}.leaves").read_bytes()
        except OSError:
            return b""

    def begin(self) -> None:
        """Opens the files, keeps their room on the disk, and verifies what an earlier attempt left.

        Raises:
            DiskFull: there is no room for the whole blob; what an earlier attempt left stays.
        """
        length, resumed = self.name.length, self._data.exists() and self._list.exists()
        with disk_errors(self._data, length):
            self._handle = os.open(self._data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _allocate(self._handle, length)
                if resumed:
                    self.have = {index for index in range(self.name.chunks) if self._holds(index)}
                else:
                    write_atomic(self._list, b"".join(self.leaves))
            except BaseException:
                self.close()
                raise

    def _holds(self, index: int) -> bool:
        return leaf_of(os.pread(self._handle, self.name.size_of(index), index * CHUNK_BYTES)) == self.leaves[index]

    def write(self, index: int, chunk: bytes) -> None:
        """Keeps a chunk that the caller has verified; raises DiskFull."""
        view, offset = memoryview(chunk), index * CHUNK_BYTES
        with self._guard, disk_errors(self._data, len(chunk)):
            if self._handle < 0:
                return  # the download was cancelled while this thread was on its way
            while view:
                size = os.pwrite(self._handle, view, offset)
                view, offset = view[size:], offset + size
            self.have.add(index)

    def read(self, index: int) -> bytes:
        """A chunk that is in `have`."""
        with self._guard:
            if self._handle < 0:
                raise BlobMissing(f"blob {self.blob[:16]}: its download has just ended; ask again")
            return os.pread(self._handle, self.name.size_of(index), index * CHUNK_BYTES)

    def finish(self, place: Path) -> None:
        """Moves the complete file to its place; the list is no longer needed."""
        with self._guard, disk_errors(place):
            os.ftruncate(self._handle, self.name.length)
            os.fsync(self._handle)
            os.replace(self._data, place)
            sync_folder(place.parent)
        self._list.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Lets go of the files; what is verified stays for the next attempt."""
        with self._guard:
            if self._handle >= 0:
                with contextlib.suppress(OSError):
                    os.close(self._handle)
                self._handle = -1
