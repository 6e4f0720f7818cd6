"""Where peers said that they can be found, the newest first; bounded, and no more than hearsay.

Pure: memory only.
"""

from __future__ import annotations

from collections import OrderedDict

MOST_PEERS = 4096
MOST_ADDRESSES = 16


class Contacts:
    """Addresses by PeerID. Written only by the network."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._book: OrderedDict[str, list[str]] = OrderedDict()

    def remember(self, peer_id: str, addresses: list[str]) -> None:
        """Where a peer says that it can be found, for when p2pd does not know; what it says may be wrong."""
        own = f"/p2p/{peer_id}"
        bases = [address.removesuffix(own) for address in addresses if address.endswith(own) and address != own]
        known = [*bases, *self._book.get(peer_id, [])]
        self._book[peer_id] = list(dict.fromkeys(known))[:MOST_ADDRESSES]
        self._book.move_to_end(peer_id)
        if len(self._book) > MOST_PEERS:
            self._book.popitem(last=False)

    def of(self, peer_id: str) -> list[str] | None:
        """The addresses of a peer, without its PeerID; None if it was never heard of."""
        return self._book.get(peer_id)

    def recent(self, count: int) -> list[str]:
        """Addresses of the peers that we learnt of last, one each, with PeerID."""
        newest = [(peer_id, bases) for peer_id, bases in self._book.items() if bases][-count:]
        return [f"{bases[0]}/p2p/{peer_id}" for peer_id, bases in reversed(newest)]
