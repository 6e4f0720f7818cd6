"""Who is out there: our own adverts kept fresh in the DHT, other peers' adverts and advertised runs read from it.

Adverts are hints: an advert proves which account a PeerID belongs to, nothing else is believed of it.

IO: the DHT, through `Network`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog

from ledger.genesis import Genesis
from peer.errors import ForgeError
from peer.network.network import Network
from peer.records import PeerAdvert, RunAdvert

log = structlog.get_logger(__name__)

REFRESH_S = 30.0
LOOK_S = 2.0
PATIENCE = 8
"""A peer that takes no more runs looks so many times less often while nothing changes: adverts cost many bytes."""
LEADS = "leader"
"""The role of a peer that would lead runs of others."""


class Directory:
    """Adverts that we publish and adverts that we know. Written only by its own loop."""

    def __init__(
        self,
        *,
        network: Network,
        genesis: Genesis,
        advertise: Callable[[], Awaitable[PeerAdvert]],
        advertise_runs: Callable[[], Iterable[RunAdvert]],
        occupied: Callable[[], bool] = lambda: False,
    ) -> None:
        """Publish what the two callables give; they are asked again at every refresh. `start` it before use.

        `occupied` says whether we work on as many runs as we may.
        """
        self._network = network
        self._genesis = genesis
        self._advertise = advertise
        self._advertise_runs = advertise_runs
        self._occupied = occupied
        self._peers: dict[str, PeerAdvert] = {}
        self._runs: list[RunAdvert] = []
        self._own: PeerAdvert | None = None
        self._refresh = asyncio.Event()

    async def start(self) -> None:
        """Make our own advert."""
        self._own = await self._advertise()

    @property
    def own(self) -> PeerAdvert:
        """Our signed advert."""
        assert self._own is not None  # `start` came first
        return self._own

    async def serve(self) -> None:
        """Publish and look until cancelled."""
        published, seen, pause_s = -REFRESH_S, set[str](), LOOK_S
        while True:
            try:
                if self._refresh.is_set() or time.monotonic() - published >= REFRESH_S:
                    self._refresh.clear()
                    published = time.monotonic()
                    await self._publish()
                await self._look()
            except ForgeError as exc:
                log.info("directory_look_failed", reason=str(exc))
            known = {*self._peers, *(advert.run for advert in self._runs)}
            same, seen = known == seen, known
            pause_s = longer(pause_s) if same and self._occupied() else LOOK_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._refresh.wait()
            except TimeoutError:
                continue

    def refresh(self) -> None:
        """Publish now: something that our adverts say has changed."""
        self._refresh.set()

    async def _publish(self) -> None:
        self._own = await self._advertise()
        await self._network.publish(self.own)
        for advert in self._advertise_runs():
            await self._network.publish(advert)

    async def _look(self) -> None:
        self._peers = {advert.peer_id: advert for advert in await self._network.lookup(PeerAdvert)}
        self._peers[self.own.peer_id] = self.own
        self._runs = await self._network.lookup(RunAdvert)

    # ------------------------------------------------------------------ what we know

    def own_advert(self) -> str:
        """Our signed advert, for those whom we tell directly."""
        return self.own.text()

    def peers(self) -> list[str]:
        """PeerIDs of the other peers."""
        return [peer for peer in self._peers if peer != self.own.peer_id]

    def account_of(self, peer_id: str) -> str:
        """Account of a PeerID, as its advert says; empty while there is none."""
        advert = self._peers.get(peer_id)
        return advert.account if advert is not None else ""

    def peer_of(self, account: str) -> str | None:
        """PeerID of an account, as the newest advert of it or of a run that it leads says."""
        adverts: list[PeerAdvert | RunAdvert] = [*self._peers.values(), *self._runs]
        known = [advert for advert in adverts if advert.account == account]
        return max(known, key=lambda advert: advert.expires).peer_id if known else None

    def memories(self) -> list[int]:
        """Bytes of memory that the known peers lend, ours among them."""
        return [advert.memory_bytes for advert in self._peers.values() if advert.memory_bytes]

    def witness_peers(self) -> dict[str, str]:
        """Witness name → PeerID, for the witnesses of the genesis that are here; of one that moved, the newest."""
        names = {public: name for name, public in self._genesis.witnesses}
        adverts = sorted(self._peers.values(), key=lambda advert: advert.expires)
        return {names[advert.witness]: advert.peer_id for advert in adverts if advert.witness in names}

    def willing_witnesses(self) -> list[str]:
        """Accounts of the witnesses that would lead runs of others, as they say."""
        names = {public for _, public in self._genesis.witnesses}
        willing = [advert for advert in self._peers.values() if advert.witness in names and LEADS in advert.roles]
        return sorted(advert.account for advert in willing if advert is not self._own)

    def runs(self) -> list[RunAdvert]:
        """Runs that somebody advertises; whether it leads them, their logs tell."""
        return list(self._runs)

    def table(self) -> list[dict[str, Any]]:
        """The peers' adverts, for people; ours first."""
        others = [self._peers[peer] for peer in self.peers()]
        return [
            {**advert.facts(), "tflops": advert.gflops / 1000, "self": int(advert is self.own)}
            for advert in (self.own, *others)
        ]


def longer(pause_s: float) -> float:
    """The pause after a look that found nothing new and nothing that we could use."""
    return min(2 * pause_s, PATIENCE * LOOK_S)
