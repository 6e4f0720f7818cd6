"""Reading a folder that somebody gave us: regular files of bounded length, no links, nothing deep.

IO: reads one folder.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ledger.errors import ArchiveInvalid

MAX_DEPTH = 12
"""Folders below folders that are looked into."""


def read(folder: Path, file: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; nothing on the way to it may be a link.

    Raises:
        ArchiveInvalid: it is missing, something else, or longer.
    """
    try:
        for part in reversed(Path(file).parents[:-1]):
            if stat.S_ISLNK((folder / part).lstat().st_mode):
                raise ArchiveInvalid(file=str(part), rule="file", got="a link", wanted="a folder")
        handle = os.open(folder / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise ArchiveInvalid(file=file, rule="file", got=exc.strerror or exc, wanted="a regular file") from exc
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ArchiveInvalid(file=file, rule="file", got="something else", wanted="a regular file")
    with open(handle, "rb") as opened:
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise ArchiveInvalid(file=file, rule="length", got=f"over {limit} bytes", wanted=f"at most {limit}")
    return data


def walk(folder: Path, below: str) -> Iterator[str]:
    """Every file below a folder of the archive; links and depths that no log has are refused."""
    waiting = [below]
    while waiting:
        place = waiting.pop()
        for entry in scan(folder, place):
            name = f"{place}/{entry.name}"
            if entry.is_symlink() or name.count("/") > MAX_DEPTH:
                got = "a link" if entry.is_symlink() else "too deep"
                raise ArchiveInvalid(file=name, rule="file", got=got, wanted="files and folders of a log")
            if entry.is_dir():
                waiting.append(name)
            else:
                yield name


def scan(folder: Path, place: str) -> Iterator[os.DirEntry[str]]:
    """What lies in one folder of the archive; a folder "run/" may be missing."""
    try:
        if place == "run/" and not os.path.lexists(folder / "run"):
            return
        with os.scandir(folder / place) as entries:
            yield from entries
    except OSError as exc:
        raise ArchiveInvalid(file=place or str(folder), rule="folder", got=exc.strerror or exc, wanted="one") from exc
