"""Blob ids, strict canonical JSON, and files that are either whole or absent.

A blob id is `<RFC 6962 root over 1 MiB chunks>-<length>`; the id of the canonical state bytes is the state id.
Canonical JSON here is sorted, compact UTF-8 whose decoding re-encodes to the very same bytes.

IO: reads and writes files; the hashing and JSON parts touch none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_llm_forge.errors import BlobError, DiskError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

CHUNK_BYTES = 1 << 20


def leaf_hash(leaf: Buffer) -> bytes:
    """The RFC 6962 hash of one leaf: SHA256(00 ‖ leaf)."""
    digest = hashlib.sha256(b"\x00")
    digest.update(leaf)
    return digest.digest()


def merkle_root(leaf_hashes: Iterable[bytes]) -> bytes:
    """The RFC 6962 root over already hashed leaves; SHA256 of nothing for an empty tree."""
    stack: list[tuple[int, bytes]] = []  # (height, hash) of complete subtrees, tallest first
    for leaf in leaf_hashes:
        height, node = 0, leaf
        while stack and stack[-1][0] == height:
            node = hashlib.sha256(b"\x01" + stack.pop()[1] + node).digest()
            height += 1
        stack.append((height, node))
    if not stack:
        return hashlib.sha256(b"").digest()
    root = stack.pop()[1]
    while stack:
        root = hashlib.sha256(b"\x01" + stack.pop()[1] + root).digest()
    return root


def blob_id(data: Buffer) -> str:
    """The id of these bytes."""
    view = memoryview(data).cast("B")
    root = merkle_root(leaf_hash(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))
    return f"{root.hex()}-{len(view)}"


def encode_json(value: Any) -> bytes:
    """Canonical bytes of a JSON value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decode_json(data: bytes, what: str) -> Any:
    """Parse canonical JSON strictly: duplicate keys, NaN, other spacing or order are refused by re-encoding.

    Raises:
        BlobError: naming `what`.
    """
    try:
        value = json.loads(data)
        same = encode_json(value) == data
    except (ValueError, RecursionError) as exc:
        raise BlobError(f"{what}: not canonical JSON ({str(exc)[:120]}); fetch it again") from exc
    if not same:
        raise BlobError(f"{what}: not canonical JSON (it re-encodes to other bytes); fetch it again")
    return value


def read_blob(path: Path, limit: int, what: str) -> bytes:
    """Read a file of at most `limit` bytes; the size is checked before anything is allocated.

    Raises:
        BlobError: oversize. DiskError: unreadable.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise BlobError(f"{what} {path.name}: {size} bytes, expected at most {limit}")
            return file.read(limit + 1)[: limit + 1]
    except OSError as exc:
        raise disk_error(exc, path) from exc


def write_atomic(path: Path, parts: Iterable[Buffer], *, durable: bool = True) -> None:
    """Write the parts to a temporary name, fsync, rename over `path`, fsync the folder.

    Args:
        durable: without it nothing is flushed: safe from the death of this process, not from a power cut.

    Raises:
        DiskError: the disk is full or refuses; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise disk_error(exc, path) from exc


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    _sync(folder)


def sync_file(path: Path) -> None:
    """Make what `write_atomic` wrote without flushing durable. Raises DiskError."""
    try:
        _sync(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise disk_error(exc, path) from exc


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(exc: OSError, path: Path) -> DiskError:
    """One line for an operating system error on `path`."""
    return DiskError(f"{path}: {exc.strerror or exc}; free space or choose another folder")


def chunks(data: Buffer) -> Iterator[memoryview]:
    """The 1 MiB chunks of these bytes, without copying."""
    view = memoryview(data).cast("B")
    for at in range(0, len(view), CHUNK_BYTES):
        yield view[at : at + CHUNK_BYTES]
