"""Blobs as chunks: ids, sizes, leaf lists.

A blob's id is the RFC 6962 root over its chunks of 1 MiB and its length.

Pure: bytes in, names out.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ledger import merkle
from peer.errors import BlobInvalid

CHUNK_BYTES = 1 << 20
LEAF_BYTES = 32
LEAVES_PER_PAGE = 16384
"""Leaf hashes in one message: 512 KiB."""
MAX_BLOB_BYTES = 1 << 42
"""4 TiB; a leaf list of 128 MiB."""
_ID = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,15})")


@dataclass(frozen=True)
class BlobName:
    """A parsed blob id."""

    root: bytes
    """RFC 6962 root over the chunks, 32 bytes."""
    length: int
    """Bytes."""

    @classmethod
    def parse(cls, blob: str) -> BlobName:
        """Raises BlobInvalid."""
        found = _ID.fullmatch(blob)
        if found is None:
            raise BlobInvalid(f"blob id {blob[:100]!r}: expected 64 hex digits, '-', and the length")
        length = int(found[2])
        if length > MAX_BLOB_BYTES:
            raise BlobInvalid(f"blob {blob[:16]}: {length} bytes, the limit is {MAX_BLOB_BYTES}")
        return cls(bytes.fromhex(found[1]), length)

    @property
    def chunks(self) -> int:
        """How many chunks it has; an empty blob has none."""
        return -(-self.length // CHUNK_BYTES)

    def size_of(self, index: int) -> int:
        """Bytes of a chunk; only the last may be short."""
        return min(CHUNK_BYTES, self.length - index * CHUNK_BYTES)


def leaves_of(data: bytes | memoryview) -> list[bytes]:
    """Leaf hashes of a whole blob in memory."""
    view = memoryview(data)
    return [leaf_of(view[start : start + CHUNK_BYTES]) for start in range(0, len(view), CHUNK_BYTES)]


def leaf_of(chunk: bytes | memoryview) -> bytes:
    """SHA256(00 ‖ chunk) without copying the chunk."""
    digest = hashlib.sha256(b"\x00")
    digest.update(chunk)
    return digest.digest()


def blob_id(leaves: list[bytes], length: int) -> str:
    """The id of the blob with these leaf hashes."""
    return f"{merkle.root(leaves).hex()}-{length}"


def id_of(data: bytes) -> str:
    """The id of these bytes."""
    return blob_id(leaves_of(data), len(data))
