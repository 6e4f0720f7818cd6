"""The in-memory network that tests of whole daemons share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.peer.memory_net import World


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Peers with fake workers, in one process."""
    async with World(tmp_path, monkeypatch) as world:
        yield world
