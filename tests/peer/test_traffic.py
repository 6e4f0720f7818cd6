"""Caps on a real line: what is sent and fetched stays below them, small calls pass meanwhile, waiting is bounded."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from peer.blobs.chunks import CHUNK_BYTES, id_of
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.config import Settings
from peer.errors import Busy, ConfigError, DeadlineExceeded, Refused
from peer.network.limits import Allowance, Limits
from peer.network.rpc import Body, Dispatcher, write_request
from peer.network.shaper import SMALL_BYTES
from peer.network.traffic import Lane, Traffic
from peer.wire import Reply, unpack_reply
from tests.peer.network_kit import Peers, address_of

DATA = os.urandom(2 * CHUNK_BYTES + 100_000)
MBIT = 10.0
LEAST_S = len(DATA) * 8 / (MBIT * 1e6)
"""At the cap it cannot take less."""


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


@pytest.mark.parametrize("capped", ["upload_mbit", "download_mbit"])
async def test_a_transfer_takes_its_bytes_over_the_cap_and_small_calls_pass_meanwhile(
    peers: Peers, tmp_path: Path, capped: str
) -> None:
    sender, taker = ({capped: MBIT}, {}) if capped == "upload_mbit" else ({}, {capped: MBIT})
    async with peers.start("a", **sender) as a, peers.start("b", await address_of(a), **taker) as b:
        stores = [BlobStore(tmp_path / f"blobs-{name}", 1 << 30) for name in "ab"]
        blob = await stores[0].add_bytes(DATA)
        BlobFetcher(stores[0], a)
        began = time.monotonic()
        fetching = asyncio.create_task(BlobFetcher(stores[1], b).fetch(blob, [a.peer_id]))
        calls = 0
        while not fetching.done():
            await b.call(a.peer_id, "echo", {})
            calls += 1
            await asyncio.wait({fetching}, timeout=0.02)
        assert (await fetching).read_bytes() == DATA
        assert time.monotonic() - began >= 0.95 * LEAST_S
        assert calls >= 3
        assert a.traffic.up.bytes >= len(DATA)
        assert b.traffic.down.bytes >= len(DATA)


class Slow:
    """A dispatcher behind a slow line, whose method `bulk` answers with so many bytes."""

    def __init__(self, mbit: float) -> None:
        self.traffic = Traffic(upload_mbit=mbit)
        self.dispatcher = Dispatcher(Allowance(Limits()), lambda event: None, self.traffic)
        self.dispatcher.add("bulk", self._answer, 1 << 20, bulk=True)
        self.dispatcher.add("small", self._answer, 1 << 16)

    async def _answer(self, caller: str, body: Body, payload: bytes) -> Reply:
        return Reply({}, bytes(body["bytes"]))

    async def ask(self, method: str, size: int, caller: str = "them", timeout_s: float = 30.0) -> Reply:
        frame = write_request(method, {"bytes": size}, b"", timeout_s)
        return unpack_reply(await self.dispatcher.answer(frame, caller))


async def test_small_answers_do_not_wait_behind_bulk_and_bulk_by_nature_does_however_small() -> None:
    slow = Slow(1.0)
    bulk = asyncio.create_task(slow.ask("bulk", 500_000))
    await bulk  # its bytes are to be paid for: four seconds of the line
    late = asyncio.create_task(slow.ask("bulk", 10))
    assert len((await slow.ask("small", 1000)).payload) == 1000
    large = asyncio.create_task(slow.ask("small", SMALL_BYTES + 1))
    await asyncio.sleep(0)
    assert len((await slow.ask("small", 1000)).payload) == 1000
    assert not late.done()
    assert not large.done()
    late.cancel(), large.cancel()
    await asyncio.gather(late, large, return_exceptions=True)


async def test_too_many_that_wait_are_told_to_come_back() -> None:
    slow = Slow(1.0)
    await slow.ask("bulk", 500_000)
    waiting = [asyncio.create_task(slow.ask("bulk", 10)) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as caught:
        await slow.ask("bulk", 10)
    assert caught.value.code == Busy.CODE
    others = asyncio.create_task(slow.ask("bulk", 10, caller="another"))
    await asyncio.sleep(0)
    assert not others.done(), "what one peer waits for is no reason to refuse another"
    for task in [*waiting, others]:
        task.cancel()
    await asyncio.gather(*waiting, others, return_exceptions=True)
    assert slow.traffic.up._shaper is not None
    assert slow.traffic.up._shaper.waiting == 0


async def test_an_answer_that_its_caller_no_longer_waits_for_is_not_sent() -> None:
    slow = Slow(1.0)
    await slow.ask("bulk", 500_000)
    before = slow.traffic.up.bytes
    with pytest.raises(Refused) as caught:
        await slow.ask("bulk", 10_000, timeout_s=0.05)
    assert caught.value.code == DeadlineExceeded.CODE
    assert slow.traffic.up.bytes == before


async def test_a_line_without_a_cap_never_waits() -> None:
    lane = Lane(0.0)
    for _ in range(1000):
        await asyncio.wait_for(lane.turn("anybody", 1 << 20), 1.0)
    assert lane.bytes == 1000 << 20
    assert lane.piece_bytes == CHUNK_BYTES


async def test_bulk_that_comes_without_being_announced_is_paid_for_before_more_is_asked() -> None:
    traffic = Traffic(download_mbit=8.0)

    async def answer() -> bytes:
        return bytes(300_000)

    began = time.monotonic()
    await traffic.exchange("a", 100, 0, answer)
    await traffic.down.turn("a", 1)
    assert time.monotonic() - began >= 0.2
    assert traffic.down.bytes == 300_001


async def test_what_did_not_come_is_given_back() -> None:
    traffic = Traffic(download_mbit=8.0)

    async def nothing() -> bytes:
        raise DeadlineExceeded("silence")

    with pytest.raises(DeadlineExceeded):
        await traffic.exchange("a", 100, 50_000, nothing)
    assert traffic.down.bytes == 0
    assert traffic.up.bytes == 100


async def test_a_cap_below_what_a_round_needs_is_refused(tmp_path: Path) -> None:
    for key in ("upload_mbit", "download_mbit"):
        with pytest.raises(ConfigError, match=r"too few to take part"):
            Settings.load(tmp_path, {key: 0.1}, {})
        assert getattr(Settings.load(tmp_path, {}, {f"FORGE_{key.upper()}": "20"}), key) == 20.0
    assert Settings.load(tmp_path, {}, {}).memory_bytes is None
    assert Settings.load(tmp_path, {"memory_gb": 1.5}, {}).memory_bytes == 1_500_000_000


async def test_a_download_of_many_pieces_is_whole(tmp_path: Path, peers: Peers) -> None:
    """The least cap that may be set: pieces of 1.5 kB."""
    data = os.urandom(40_000)
    async with peers.start("a", upload_mbit=0.25) as a, peers.start("b", await address_of(a)) as b:
        stores = [BlobStore(tmp_path / f"blobs-{name}", 1 << 30) for name in "ab"]
        await stores[0].add_bytes(data)
        BlobFetcher(stores[0], a)
        fetcher = BlobFetcher(stores[1], b)
        assert (await fetcher.fetch(id_of(data), [a.peer_id])).read_bytes() == data
