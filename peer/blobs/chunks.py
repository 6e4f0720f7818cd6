"""Blobs as chunks: ids, sizes, leaf lists, and the plan of which chunk to ask of whom.

A blob's id is the RFC 6962 root over its chunks of 1 MiB and its length.

Pure: bytes and times in, decisions out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

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


@dataclass
class _Provider:
    """What is known of one provider of one blob; owned by `Plan`."""

    in_flight: int = 0
    failures: int = 0
    not_before: float = 0.0
    dropped: str = ""
    lacks: set[int] = field(default_factory=set)
    seconds: float = 0.0
    """Smoothed duration of a request."""


@dataclass(frozen=True)
class Ask:
    """Ask this provider for this chunk."""

    chunk: int
    provider: str


class Plan:
    """Which chunk to ask of whom: the least loaded first, slow ones asked again elsewhere, bad ones never again."""

    def __init__(
        self,
        chunks: Iterable[int],
        providers: Iterable[str],
        *,
        window: int = 4,
        hedge_s: float = 1.0,
        attempts: int = 4,
    ) -> None:
        """`window`: chunks in flight per provider; `hedge_s`: after which a slow chunk is asked of another one too."""
        self._todo = dict.fromkeys(chunks)
        self._flying: dict[int, dict[str, float]] = {}
        self._providers: dict[str, _Provider] = {}
        self._window, self._hedge_s, self._attempts = window, hedge_s, attempts
        self.add_providers(providers)

    def add_providers(self, providers: Iterable[str]) -> None:
        """More places to ask; one that was dropped stays dropped."""
        for name in providers:
            self._providers.setdefault(name, _Provider())

    @property
    def done(self) -> bool:
        """Whether every chunk is here."""
        return not self._todo

    @property
    def stuck(self) -> str:
        """Why no provider can help any more, or ''."""
        if self.done or any(self._flying.values()):
            return ""
        if any(not one.dropped and set(self._todo) - one.lacks for one in self._providers.values()):
            return ""
        reasons = [f"{name}: {one.dropped or 'does not have it'}" for name, one in self._providers.items()]
        return "; ".join(reasons) or "no provider is known"

    def next(self, now: float) -> list[Ask]:
        """What to ask now; each answer must come back as `arrived`, `failed`, `lacking` or `bad`."""
        asks: list[Ask] = []
        for chunk in self._todo:
            flying = self._flying.setdefault(chunk, {})
            if flying and now - max(flying.values()) < self._patience(flying):
                continue
            name = self._choose(chunk, flying, now)
            if name is not None:
                flying[name] = now
                self._providers[name].in_flight += 1
                asks.append(Ask(chunk, name))
            elif not flying and self._full(now):
                break
        return asks

    def wake_s(self, now: float) -> float:
        """Seconds until `next` may have something new though nothing arrives."""
        waits = [one.not_before - now for one in self._providers.values() if not one.dropped and one.not_before > now]
        waits += [max(f.values()) + self._patience(f) - now for f in self._flying.values() if f]
        return max(0.01, min([1.0, *(wait for wait in waits if wait > 0)]))

    def arrived(self, ask: Ask, now: float) -> bool:
        """The chunk is here and verified; False if another provider was faster."""
        one = self._landed(ask)
        took = now - self._flying.get(ask.chunk, {}).pop(ask.provider, now)
        one.seconds = 0.7 * one.seconds + 0.3 * took if one.seconds else took
        one.failures = 0
        first = ask.chunk in self._todo
        self._todo.pop(ask.chunk, None)
        return first

    def failed(self, ask: Ask, reason: str, now: float, *, wait_s: float = 0.0) -> None:
        """No answer, or 'busy': asked again later, given up after some attempts in a row."""
        one = self._landed(ask)
        self._flying.get(ask.chunk, {}).pop(ask.provider, None)
        one.failures += 1
        one.not_before = now + (wait_s or 0.1 * 2**one.failures)
        if one.failures >= self._attempts:
            one.dropped = reason

    def lacking(self, ask: Ask) -> None:
        """The provider does not have this chunk."""
        self._landed(ask).lacks.add(ask.chunk)
        self._flying.get(ask.chunk, {}).pop(ask.provider, None)

    def bad(self, ask: Ask, reason: str) -> None:
        """The provider sent bytes that are not the chunk: it is not asked again for this blob."""
        self._landed(ask).dropped = reason
        self._flying.get(ask.chunk, {}).pop(ask.provider, None)

    def _landed(self, ask: Ask) -> _Provider:
        one = self._providers[ask.provider]
        one.in_flight -= 1
        return one

    def _choose(self, chunk: int, flying: dict[str, float], now: float) -> str | None:
        able = [
            (one.in_flight * (one.seconds or 0.05), one.failures, name)
            for name, one in self._providers.items()
            if not one.dropped and one.not_before <= now and one.in_flight < self._window
            and chunk not in one.lacks and name not in flying
        ]  # fmt: skip
        return min(able, key=lambda item: item[:2])[2] if able else None

    def _full(self, now: float) -> bool:
        """Whether no provider takes another chunk, whichever it is."""
        return all(
            one.dropped or one.not_before > now or one.in_flight >= self._window for one in self._providers.values()
        )

    def _patience(self, flying: dict[str, float]) -> float:
        usual = max((self._providers[name].seconds for name in flying), default=0.0)
        return max(self._hedge_s, 4 * usual)
