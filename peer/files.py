"""Files and folders that are there whole or not at all.

IO: the file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from peer.errors import DiskFull, HomeError

TEMPORARY = ".tmp-"
"""Prefix of files that a crash may leave; whoever owns the folder deletes them at start."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def disk_errors(path: Path, need_bytes: int = 0) -> Iterator[None]:
    """Turns 'no space left' into DiskFull that names the place and the need; leaves other errors alone."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        need = f", needs {need_bytes} bytes" if need_bytes else ""
        raise DiskFull(f"{path}: the disk is full{need}", "free some room or lower the blob quota") from exc


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """`os.write` until all of it is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Writes a file so that readers and crashes see the old content or the new, never a part.

    Raises:
        DiskFull: nothing is left behind.
        OSError: as the file system says.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with disk_errors(path, len(data)):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Creates a folder that only its owner can enter (mode 0700); one that exists is left as it is.

    Raises:
        HomeError: it cannot be created or written to.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as exc:
        raise HomeError(f"{path}: is a file, expected a folder") from exc
    except OSError as exc:
        raise HomeError(f"{path}: cannot be created: {exc.strerror}", "choose another --home") from exc
    if not os.access(path, os.W_OK | os.X_OK) or os.statvfs(path).f_flag & os.ST_RDONLY:
        raise HomeError(f"{path}: is read-only", "make it writable or choose another --home")
