"""A call to p2pd that is given up leaves no connection open.

IO: real p2pd processes on loopback.
"""

import asyncio
import socket
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from peer.errors import DeadlineExceeded
from tests.peer.network_kit import Peers


async def test_a_dial_given_up_leaves_no_connection_to_p2pd_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module("peer.network.link")  # imports hivemind without its warnings
    connector = import_module("hivemind.p2p.p2p_daemon_bindings.control").DaemonConnector
    opened: list[asyncio.StreamWriter] = []
    connect = connector.open_connection

    async def noting(self: Any) -> Any:
        reader, writer = await connect(self)
        opened.append(writer)
        return reader, writer

    monkeypatch.setattr(connector, "open_connection", noting)
    peers = Peers(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, never says a word
        port = mute.getsockname()[1]
        async with peers.start("a") as a, peers.start("b") as b:
            opened.clear()  # those of the start stay open
            with pytest.raises(DeadlineExceeded):
                await a.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.peer_id}", timeout_s=0.5)
            assert opened
            assert all(writer.is_closing() for writer in opened)
