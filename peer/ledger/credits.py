"""Payments of one account: funding a run, claiming what runs and other accounts owe.

All amounts are integer micro-credits. Every step is an entry in a log of ours; a step that a crash interrupted is found
in the ledger and not done twice.

IO: the ledger replica.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

import structlog

from ledger.entries import Begin, Recv, Send
from peer.errors import RunError
from peer.ledger.logs import Logs

log = structlog.get_logger(__name__)


class Credits:
    """The credits of our account."""

    def __init__(self, logs: Logs) -> None:
        """Work on the logs of `logs.account`."""
        self._logs = logs
        self._claiming = asyncio.Lock()

    async def balance(self, account: str) -> dict[str, int]:
        """Spendable and claimable micro-credits of an account."""
        ledger = await self._logs.ledger()
        claimable = ledger.claimable.get(account, {})
        return {"balance": ledger.balances.get(account, 0), "claimable": sum(claimable.values())}

    async def owed(self) -> dict[str, int]:
        """What others owe us and we have not claimed yet, by the origin of their log."""
        return dict((await self._logs.ledger()).claimable.get(self._logs.account.public, {}))

    async def require(self, amount: int) -> None:
        """Refuse a run that we cannot pay.

        Raises:
            RunError: our balance is below `amount`.
        """
        balance = (await self.balance(self._logs.account.public))["balance"]
        if balance < amount:
            raise RunError(
                "FP-430",
                f"account {self._logs.account.public[:16]}: {balance} micro-credits to spend, the run needs {amount}",
                "lower credits.budget or rounds in the spec, or earn credits by training",
            )

    async def begin(self, run: str, spec: Mapping[str, Any], budget: int) -> None:
        """Start the run's log and fund it; what is already done is not done again."""
        origin = self._logs.genesis.run_origin(run)
        if await self._funded(origin, budget):
            return  # whoever leads it now, it needs nothing more of us
        for own in (origin, self._logs.origin):
            await self._logs.certify(own)  # what a crash left appended but not certified is seen only after this
        if await self._logs.size(origin) == 0:
            await self._logs.append(origin, [Begin(spec=spec)])
        if budget == 0:
            return
        sent = await self._sent(run)
        if sent is None:
            await self._logs.append(self._logs.origin, [Send(to=f"run/{run}", amount=budget, memo="run budget")])
            sent = await self._sent(run)
            assert sent is not None
        if not await self._funded(origin, budget):
            size, root = await self._head(self._logs.origin)
            await self._logs.append(origin, [Recv(origin=self._logs.origin, index=sent, size=size, root=root)])

    async def _funded(self, origin: str, budget: int) -> bool:
        """Whether the run's certified log has begun and holds our budget."""
        entries = await self._logs.entries(origin, 0)
        ours = any(isinstance(entry, Recv) and entry.origin == self._logs.origin for entry in entries)
        return bool(entries) and (ours or budget == 0)

    async def _sent(self, run: str) -> int | None:
        """Index of our entry that funds the run."""
        for index, entry in enumerate(await self._logs.entries(self._logs.origin, 0)):
            if isinstance(entry, Send) and entry.to == f"run/{run}":
                return index
        return None

    async def _head(self, origin: str) -> tuple[int, str]:
        certificate = await self._logs.certificate(origin)
        if certificate is None:
            raise RunError("FP-431", f"log {origin}: nothing certified in it yet")
        return certificate.size, certificate.root

    async def claim(self) -> int:
        """Take over everything that others owe us; returns how much that was."""
        async with self._claiming:  # two runs may end at once; nothing is claimed twice
            await self._logs.certify(self._logs.origin)  # a claim that a crash interrupted is not made twice
            return await self._claim()

    async def _claim(self) -> int:
        account = self._logs.account.public
        owed = dict((await self._logs.ledger()).claimable.get(account, {}))
        for origin, amount in owed.items():
            if amount:
                size, root = await self._head(origin)
                recv = Recv(origin=origin, index=size - 1, size=size, root=root)
                await self._logs.append(self._logs.origin, [recv])
                log.info("claimed", origin=origin[-20:], micro_credits=amount)
        return sum(owed.values())


def nonce() -> str:
    """32 random hex digits: two runs of the same spec are two runs."""
    return secrets.token_hex(16)
