"""One blob from several members at once: all of them send, more are found on the way, and one may die meanwhile.

IO: blob stores under the test's own folder.
"""

import asyncio
from pathlib import Path

import pytest

from peer.blobs.chunks import id_of
from peer.errors import Unreachable
from peer.network.rpc import Body, BytesHandler
from peer.wire import Reply
from tests.peer.test_fetcher import BIG, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_several_providers_send_chunks_at_the_same_time(world: World) -> None:
    asked, all_asked = set[str](), asyncio.Event()
    peers = {name: await world.with_blob(name, BIG) for name in "abc"}

    def waiting(name: str, answer: BytesHandler) -> BytesHandler:
        async def handle(caller: str, body: Body, payload: bytes) -> Reply:
            asked.add(name)
            if asked == peers.keys():
                all_asked.set()
            await all_asked.wait()  # would never end if they were asked one after the other
            return await answer(caller, body, payload)

        return handle

    for name, peer in peers.items():
        peer.methods["blob.chunk"] = waiting(name, peer.methods["blob.chunk"])
    assert (await world.fetcher.fetch(id_of(BIG), list(peers))).read_bytes() == BIG


async def test_a_donor_that_becomes_known_in_mid_download_goes_on_where_the_first_dies(world: World) -> None:
    first = await world.with_blob("first", BIG)
    await world.with_blob("second", BIG)
    known, left = ["first"], [2]

    def die(method: str, body: Body, reply: Reply) -> Reply:
        left[0] -= method == "blob.chunk"
        if left[0] < 0:
            known.append("second")  # the first heartbeat's answer names it
            raise Unreachable("peer first: stream reset")
        return reply

    first.fault = die
    path = await world.fetcher.fetch(id_of(BIG), known[:1], source=lambda: known)
    assert path.read_bytes() == BIG
    assert world.network.asked.count(("second", "blob.chunk")) >= 4
