"""One blob from several members at once: all of them send, more are found on the way, and one may die meanwhile.

IO: blob stores under the test's own folder.
"""

import asyncio
from pathlib import Path

import pytest

from peer.blobs.chunks import id_of
from peer.errors import Unreachable
from peer.network.rpc import Body
from peer.wire import Reply
from tests.peer.test_fetcher import BIG, FakePeer, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_several_providers_send_chunks_at_the_same_time(world: World) -> None:
    names, asked, both = ("a", "b", "c"), set[str](), asyncio.Event()
    for name in names:
        peer = await world.with_blob(name, BIG)

        async def wait_for_all(caller: str, body: Body, payload: bytes, name: str = name, peer: FakePeer = peer) -> Reply:
            asked.add(name)
            if asked == set(names):
                both.set()
            await both.wait()  # would never end if they were asked one after the other
            return await chunks[name](caller, body, payload)

        chunks = {**(chunks if name != "a" else {}), name: peer.methods["blob.chunk"]}
        peer.methods["blob.chunk"] = wait_for_all
    assert (await world.fetcher.fetch(id_of(BIG), names)).read_bytes() == BIG


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
