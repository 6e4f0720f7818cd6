"""A disk that fails: an SQLite VFS, made with ctypes, over the one that SQLite uses by default.

While `installed`, every file that SQLite opens in this process is written through it. It counts writes, truncations and
syncs, fails the ones it is told to, and records what a loss of power could leave: what was synced, and any part of what
was not, down to single sectors of 512 bytes. Nothing in the product knows of it.

IO: SQLite's own, in this process.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p, cast, string_at
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK = 0
FULL = 13
IOERR_WRITE = 10 | 3 << 8
IOERR_FSYNC = 10 | 4 << 8
IOERR_TRUNCATE = 10 | 6 << 8
SECTOR = 512


class IoMethods(Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("iVersion", c_int),
        *((name, c_void_p) for name in (
            "xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock", "xCheckReservedLock",
            "xFileControl", "xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier",
            "xShmUnmap", "xFetch", "xUnfetch",
        )),
    )  # fmt: skip


class Vfs(Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = (
        ("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), ("pNext", c_void_p), ("zName", c_char_p),
        ("pAppData", c_void_p),
        *((name, c_void_p) for name in (
            "xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness",
            "xSleep", "xCurrentTime", "xGetLastError", "xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall",
            "xNextSystemCall",
        )),
    )  # fmt: skip


OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


def library() -> ctypes.CDLL:
    """The very SQLite that Python's sqlite3 uses.

    Raises:
        RuntimeError: it cannot be reached from here.
    """
    try:
        shared = re.search(r"\S*libsqlite3\.so\S*", Path("/proc/self/maps").read_text("utf-8"))
    except OSError:
        shared = None
    place = shared.group() if shared else getattr(_sqlite3, "__file__", None)  # else linked into the module itself
    found = ctypes.CDLL(place)
    if not hasattr(found, "sqlite3_vfs_register"):
        raise RuntimeError(f"SQLite inside {place or 'this Python'} exports no functions: no VFS can be added to it")
    found.sqlite3_libversion.restype = c_char_p
    version = found.sqlite3_libversion().decode()
    if version != sqlite3.sqlite_version:
        raise RuntimeError(f"{place} is SQLite {version}, but Python uses {sqlite3.sqlite_version}")
    found.sqlite3_vfs_find.restype = POINTER(Vfs)
    found.sqlite3_vfs_register.argtypes = (POINTER(Vfs), c_int)
    return found


@dataclass
class Contents:
    """One file as a loss of power may find it."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes (offset, bytes) and truncations (size, None) since the last sync, in order."""

    def flush(self) -> None:
        """All of it is on disk now."""
        self.synced = self.left(lambda: True)
        self.pending = []

    def left(self, kept: Callable[[], bool]) -> bytes:
        """What a loss of power leaves; `kept` is asked for every truncation and every sector of every write."""
        data = bytearray(self.synced)
        for place, written in self.pending:
            if written is None:
                if kept():
                    data[place:] = b"" if place < len(data) else bytes(place - len(data))
                continue
            for start in range(0, len(written), SECTOR):
                if kept():
                    piece = written[start : start + SECTOR]
                    end = place + start
                    data.extend(bytes(max(0, end - len(data))))
                    data[end : end + len(piece)] = piece
        return bytes(data)


class Disk:
    """What the VFS does to each file; one is installed at a time."""

    def __init__(self) -> None:
        self.calls = 0
        """Writes, truncations and syncs so far."""
        self.fail_at = 0
        """The call to fail, counted from 1; none when 0."""
        self.sticky = False
        """Whether all calls after it fail too."""
        self.full = False
        """Whether a write fails because the disk is full, after the half of it was written."""
        self.failed = 0
        self.files: dict[str, Contents] = {}
        """What is on the disk by path, recorded while `observe` is set."""
        self.observe: Callable[[str], None] | None = None
        """Called before every recorded step: "write", "truncate", "sync", "synced" or "delete"."""

    def fails(self) -> bool:
        """Count a call; whether it is to fail."""
        self.calls += 1
        doomed = bool(self.fail_at) and (self.calls >= self.fail_at if self.sticky else self.calls == self.fail_at)
        self.failed += doomed
        return doomed

    def see(self, step: str, path: str) -> Contents | None:
        """Tell the observer of a step; the file's contents, if they are recorded."""
        if self.observe is None or not path:
            return None
        self.observe(step)
        return self.files.setdefault(path, Contents())

    def snapshot(self) -> dict[str, Contents]:
        """What is on the disk just now, by path."""
        return {path: Contents(contents.synced, list(contents.pending)) for path, contents in self.files.items()}


class Shim:
    """The C structures and callbacks; must live as long as SQLite may call them."""

    def __init__(self, sqlite: ctypes.CDLL) -> None:
        self.disk = Disk()
        self._sqlite = sqlite
        self._base = sqlite.sqlite3_vfs_find(None)
        self._open = OPEN(self._base.contents.xOpen)
        self._delete = DELETE(self._base.contents.xDelete)
        self._methods: dict[int, IoMethods] = {}
        self._files: dict[int, tuple[str, IoMethods]] = {}
        """Path and default methods of every open file, by its address."""
        self._callbacks: dict[str, Any] = {
            "xWrite": WRITE(self._on_write), "xTruncate": TRUNCATE(self._on_truncate), "xSync": SYNC(self._on_sync),
        }  # fmt: skip
        self._vfs = Vfs.from_buffer_copy(self._base.contents)
        self._vfs.pNext, self._vfs.zName = None, b"forge-faulty"
        self._keep = (OPEN(self._on_open), DELETE(self._on_delete))
        self._vfs.xOpen, self._vfs.xDelete = (cast(each, c_void_p).value for each in self._keep)

    def register(self) -> None:
        """Every file that is opened from now on goes through here."""
        assert self._sqlite.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == OK

    def unregister(self) -> None:
        """No file that is opened from now on goes through here."""
        assert self._sqlite.sqlite3_vfs_register(self._base, 1) == OK
        self._sqlite.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        result: int = self._open(ctypes.addressof(self._base.contents), name, file, flags, out)
        if result == OK:
            slot = cast(file, POINTER(c_void_p))  # a sqlite3_file begins with the pointer to its methods
            default = slot[0]
            assert default is not None
            if default not in self._methods:
                copied = IoMethods.from_buffer_copy(IoMethods.from_address(default))
                for field_name, callback in self._callbacks.items():
                    setattr(copied, field_name, cast(callback, c_void_p).value)
                self._methods[default] = copied
            slot[0] = ctypes.addressof(self._methods[default])
            path = string_at(name).decode() if name else ""
            self._files[file] = (path, IoMethods.from_address(default))
            if path and self.disk.observe is not None:
                on_disk = Path(path)
                self.disk.files.setdefault(path, Contents(synced=on_disk.read_bytes() if on_disk.exists() else b""))
        return result

    def _on_write(self, file: int, data: int, amount: int, offset: int) -> int:
        path, default = self._files[file]
        if self.disk.fails():
            if self.disk.full:
                WRITE(default.xWrite)(file, data, amount // 2, offset)
            return FULL if self.disk.full else IOERR_WRITE
        if contents := self.disk.see("write", path):
            contents.pending.append((offset, string_at(data, amount)))
        return WRITE(default.xWrite)(file, data, amount, offset)  # type: ignore[no-any-return]

    def _on_truncate(self, file: int, size: int) -> int:
        path, default = self._files[file]
        if self.disk.fails():
            return IOERR_TRUNCATE
        if contents := self.disk.see("truncate", path):
            contents.pending.append((size, None))
        return TRUNCATE(default.xTruncate)(file, size)  # type: ignore[no-any-return]

    def _on_sync(self, file: int, flags: int) -> int:
        path, _ = self._files[file]
        if self.disk.fails():
            return IOERR_FSYNC
        if contents := self.disk.see("sync", path):
            contents.flush()
            self.disk.see("synced", path)
        return OK  # the real one would take its time and show nothing here

    def _on_delete(self, vfs: int, name: bytes, sync_folder: int) -> int:
        if self.disk.see("delete", name.decode()) is not None:
            del self.disk.files[name.decode()]
        return self._delete(ctypes.addressof(self._base.contents), name, sync_folder)  # type: ignore[no-any-return]


_shim: Shim | None = None


@contextmanager
def installed() -> Iterator[Disk]:
    """While the block runs, SQLite opens files on this disk; it neither fails nor records before it is told to."""
    global _shim
    if _shim is None:
        _shim = Shim(library())
    _shim.disk = Disk()
    _shim.register()
    try:
        yield _shim.disk
    finally:
        _shim.unregister()
        _shim.disk = Disk()
