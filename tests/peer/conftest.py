"""The in-memory network that tests of whole daemons share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.peer.daemons import World
from tests.peer.ledger_kit import Ledgers


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Peers with fake workers, in one process."""
    async with World(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
def ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledgers]:
    """Ledger replicas of a witness and of Alice, who has all the credits; more on demand."""
    monkeypatch.setattr("peer.ledger.cosigning.RETRY_S", 0.02)
    monkeypatch.setattr("peer.ledger.ownheads.RETRY_S", 0.02)
    ledgers = Ledgers(tmp_path)
    yield ledgers
    ledgers.close()


@pytest.fixture
def quorum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledgers]:
    """As `ledgers`, with four witnesses, three of whom must sign."""
    monkeypatch.setattr("peer.ledger.cosigning.RETRY_S", 0.02)
    monkeypatch.setattr("peer.ledger.ownheads.RETRY_S", 0.02)
    quorum = Ledgers(tmp_path, num_witnesses=4)
    yield quorum
    quorum.close()
