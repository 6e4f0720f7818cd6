"""Who joined a run: the account of each PeerID, as signed adverts bind them.

Pure: adverts in, names out.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from peer.errors import Refused
from peer.messages import Join
from peer.records import PeerAdvert

UNKNOWN_MEMBER = "FP-420"
MOST_PEERS = 4096


class Joined:
    """The peers that joined one run. Written only by the leader role."""

    def __init__(self, run: str) -> None:
        """Nobody yet."""
        self._run = run
        self._accounts: dict[str, str] = {}

    def join(self, caller: str, body: dict[str, Any], alive: Set[str] = frozenset()) -> None:
        """Bind the caller's PeerID to its account; where there is no room, one that is not `alive` makes it.

        Raises:
            Refused: the advert is another peer's. RecordInvalid: it does not hold.
        """
        advert = PeerAdvert.verify(Join.read(body).advert.encode())
        if advert.peer_id != caller:
            raise Refused("FP-422", f"the advert is of peer {advert.peer_id}, you are {caller}")
        if len(self._accounts) >= MOST_PEERS and caller not in self._accounts:
            silent = next((peer for peer, account in self._accounts.items() if account not in alive), None)
            if silent is None:
                raise Refused("FP-424", f"run {self._run[:16]}: {MOST_PEERS} peers have joined, no more are taken")
            del self._accounts[silent]
        self._accounts[caller] = advert.account

    def account_of(self, caller: str) -> str:
        """The caller's account.

        Raises:
            Refused: it has not joined; it may join and call again.
        """
        account = self._accounts.get(caller)
        if account is None:
            raise Refused(UNKNOWN_MEMBER, f"peer {caller} has not joined run {self._run[:16]}")
        return account

    def account(self, peer: str) -> str:
        """A peer's account; empty if it has not joined."""
        return self._accounts.get(peer, "")

    def peer_of(self, account: str) -> str | None:
        """The peer through which an account joined last."""
        return next((peer for peer, known in reversed(self._accounts.items()) if known == account), None)

    def peers(self, accounts: Set[str]) -> list[str]:
        """PeerIDs of those of `accounts` that joined."""
        return [peer for peer, account in self._accounts.items() if account in accounts]
