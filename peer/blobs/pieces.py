"""How much of a chunk to ask of a provider at once: little of a slow one, which so shows that it lives, else all of it.

Pure: sizes and seconds in, sizes out.
"""

from __future__ import annotations

from collections import OrderedDict

from peer.blobs.chunks import CHUNK_BYTES

FIRST_BYTES = 64 << 10
LEAST_BYTES = 1 << 10
"""Who sends less than was asked and less than this does not want to be done."""
QUICK_S = 0.25
SLOW_S = 1.0
_KNOWN = 1024


class Pieces:
    """The size of a piece by provider, learnt from how long the last ones took."""

    def __init__(self) -> None:
        """Nobody is known yet."""
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def of(self, provider: str) -> int:
        """Bytes to ask of this provider at once."""
        return self._sizes.get(provider, FIRST_BYTES)

    def took(self, provider: str, size: int, seconds: float) -> None:
        """A piece of `size` bytes came after `seconds`."""
        usual = self.of(provider)
        if seconds <= QUICK_S and size >= usual:
            self._learn(provider, 4 * usual)
        elif seconds > SLOW_S:
            self._learn(provider, usual // 2)

    def lost(self, provider: str) -> None:
        """A piece did not come at all."""
        self._learn(provider, self.of(provider) // 4)

    def _learn(self, provider: str, size: int) -> None:
        self._sizes[provider] = max(LEAST_BYTES, min(CHUNK_BYTES, size))
        self._sizes.move_to_end(provider)
        if len(self._sizes) > _KNOWN:
            self._sizes.popitem(last=False)
