"""Fetching blobs over a made-up network: bad bytes, dead providers, shared downloads, resumption."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from peer.blobs.chunks import CHUNK_BYTES, id_of, leaves_of
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.errors import BlobInvalid, BlobUnavailable, Busy, DeadlineExceeded, DiskFull, Refused, Unreachable
from peer.network.rpc import Body
from peer.wire import Reply
from tests.peer.blob_world import Fault, World

BIG = os.urandom(5 * CHUNK_BYTES + 9)
SMALL = os.urandom(30_000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def flip(method: str, body: Body, reply: Reply) -> Reply:
    if method != "blob.chunk":
        return reply
    return Reply(reply.body, bytes([reply.payload[0] ^ 1]) + reply.payload[1:])


def cut(method: str, body: Body, reply: Reply) -> Reply:
    return Reply(reply.body, reply.payload[:-1]) if method == "blob.chunk" else reply


def wrong_leaves(method: str, body: Body, reply: Reply) -> Reply:
    return Reply(reply.body, bytes(len(reply.payload))) if method == "blob.leaves" else reply


async def test_a_small_blob_takes_one_round_trip(world: World) -> None:
    await world.with_blob("a", SMALL)
    path = await world.fetcher.fetch(id_of(SMALL), ["a"])
    assert path.read_bytes() == SMALL
    assert world.network.asked == [("a", "blob.chunk")]


async def test_a_long_blob_comes_from_several_providers_at_once(world: World) -> None:
    for name in ("a", "b"):
        await world.with_blob(name, BIG)
    seen: list[tuple[int, int]] = []
    path = await world.fetcher.fetch(id_of(BIG), ["a", "b"], lambda here, total: seen.append((here, total)))
    assert path.read_bytes() == BIG
    assert {peer for peer, method in world.network.asked if method == "blob.chunk"} == {"a", "b"}
    assert seen[-1] == (len(BIG), len(BIG))
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)


async def test_what_is_here_is_not_asked_for(world: World) -> None:
    blob = await world.store.add_bytes(BIG)
    assert (await world.fetcher.fetch(blob, ["a"])).read_bytes() == BIG
    assert world.network.asked == []


async def test_the_empty_blob_needs_nobody(world: World) -> None:
    assert (await world.fetcher.fetch(id_of(b""), [])).read_bytes() == b""
    with pytest.raises(BlobInvalid):
        await world.fetcher.fetch("0" * 64 + "-0", [])


@pytest.mark.parametrize("fault", [flip, cut])
@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
async def test_a_bad_chunk_is_fetched_elsewhere_and_its_sender_noted(world: World, fault: Fault, data: bytes) -> None:
    bad = await world.with_blob("bad", data)
    bad.fault = fault
    await world.with_blob("good", data)
    assert (await world.fetcher.fetch(id_of(data), ["bad", "good"])).read_bytes() == data
    assert {event.peer_id for event in world.me.events if event.kind == "bad_chunk"} == {"bad"}


async def test_a_noted_provider_is_not_asked_again_for_that_blob(world: World) -> None:
    bad = await world.with_blob("bad", SMALL)
    bad.fault = flip
    for _ in range(2):
        with pytest.raises(BlobUnavailable):
            await world.fetcher.fetch(id_of(SMALL), ["bad"])
    assert len(world.network.asked) == 1


async def test_a_false_leaf_list_is_refused_before_any_chunk(world: World) -> None:
    bad = await world.with_blob("bad", BIG)
    bad.fault = wrong_leaves
    with pytest.raises(BlobUnavailable, match="wrong leaf list"):
        await world.fetcher.fetch(id_of(BIG), ["bad"])
    assert [method for _, method in world.network.asked] == ["blob.leaves"]
    await world.with_blob("good", BIG)
    assert (await world.fetcher.fetch(id_of(BIG), ["bad", "good"])).read_bytes() == BIG


async def test_a_provider_that_dies_in_the_middle_is_replaced(world: World) -> None:
    dying = await world.with_blob("dying", BIG)
    await world.with_blob("alive", BIG)
    left = [2]

    def die(method: str, body: Body, reply: Reply) -> Reply:
        left[0] -= method == "blob.chunk" and body["start"] == 0
        if left[0] < 0:
            raise Unreachable("peer dying: stream reset")
        return reply

    dying.fault = die
    assert (await world.fetcher.fetch(id_of(BIG), ["dying", "alive"])).read_bytes() == BIG


async def test_a_provider_that_hangs_costs_a_second_not_the_deadline(world: World) -> None:
    (await world.with_blob("hung", SMALL)).hang = True
    await world.with_blob("alive", SMALL)
    began = time.monotonic()
    assert (await world.fetcher.fetch(id_of(SMALL), ["hung", "alive"])).read_bytes() == SMALL
    assert time.monotonic() - began < 5


async def test_a_busy_provider_is_asked_again_later(world: World) -> None:
    busy = await world.with_blob("busy", SMALL)
    left = [2]

    def fault(method: str, body: Body, reply: Reply) -> Reply:
        left[0] -= 1
        if left[0] >= 0:
            raise Refused(Busy.CODE, "later")
        return reply

    busy.fault = fault
    assert (await world.fetcher.fetch(id_of(SMALL), ["busy"])).read_bytes() == SMALL


async def test_nobody_having_it_says_who_was_asked_and_why_not(world: World) -> None:
    world.add("empty")
    for data in (SMALL, BIG):
        with pytest.raises(BlobUnavailable) as caught:
            await world.fetcher.fetch(id_of(data), ["empty", "gone", "me"])
        assert "empty: " in caught.value.message
        assert "gone: " in caught.value.message
        assert "me: " not in caught.value.message


async def test_callers_of_one_blob_share_one_download(world: World) -> None:
    await world.with_blob("a", BIG)
    blob = id_of(BIG)
    paths = await asyncio.gather(*(world.fetcher.fetch(blob, ["a"]) for _ in range(5)))
    assert len(set(paths)) == 1
    assert len(world.network.asked) == 1 + 6


async def test_one_caller_giving_up_does_not_disturb_the_others(world: World) -> None:
    hung = await world.with_blob("a", BIG)
    hung.hang = True
    first = asyncio.create_task(world.fetcher.fetch(id_of(BIG), ["a"]))
    second = asyncio.create_task(world.fetcher.fetch(id_of(BIG), ["b"]))
    await asyncio.sleep(0)
    await world.with_blob("b", BIG)
    first.cancel()
    hung.hang = False
    assert (await second).read_bytes() == BIG


async def test_a_late_caller_brings_its_providers_to_the_download_under_way(world: World) -> None:
    def fault(method: str, body: Body, reply: Reply) -> Reply:
        if method == "blob.chunk":
            raise DeadlineExceeded("slow")
        return reply

    (await world.with_blob("slow", BIG)).fault = fault
    await world.with_blob("fast", BIG)
    first = asyncio.create_task(world.fetcher.fetch(id_of(BIG), ["slow"]))
    while ("slow", "blob.chunk") not in world.network.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    second = asyncio.create_task(world.fetcher.fetch(id_of(BIG), ["fast"]))
    assert (await first) == (await second)


async def test_after_a_crash_only_the_missing_chunks_are_fetched(world: World, tmp_path: Path) -> None:
    a = await world.with_blob("a", BIG)
    blob, given = id_of(BIG), set[int]()

    def die(method: str, body: Body, reply: Reply) -> Reply:
        if method == "blob.chunk" and len(given | {body["chunk"]}) > 3:
            raise Unreachable("peer a: stream reset")
        given.update([body["chunk"]] if method == "blob.chunk" else [])
        return reply

    a.fault = die
    with pytest.raises(BlobUnavailable):
        await world.fetcher.fetch(blob, ["a"])
    a.fault = None
    world.network.asked.clear()
    store = BlobStore(tmp_path / "me", 1 << 30)
    assert (await BlobFetcher(store, world.network.peer("me")).fetch(blob, ["a"])).read_bytes() == BIG
    assert world.network.asked == [("a", "blob.chunk")] * 3


async def test_a_peer_serves_the_verified_part_of_its_own_download(world: World) -> None:
    store, _, _ = world.add("half")
    await world.with_blob("whole", BIG)
    blob = id_of(BIG)
    async with store.download(blob, leaves_of(BIG)) as partial:
        partial.write(2, BIG[2 * CHUNK_BYTES : 3 * CHUNK_BYTES])
        assert (await world.fetcher.fetch(blob, ["half", "whole"])).read_bytes() == BIG
    assert ("half", "blob.chunk") in world.network.asked


async def test_a_full_disk_ends_the_fetch_with_its_own_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.with_blob("a", BIG)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull, match="the disk is full"):
            await world.fetcher.fetch(id_of(BIG), ["a"])
    assert not world.store.has(id_of(BIG))
    assert (await world.fetcher.fetch(id_of(BIG), ["a"])).read_bytes() == BIG


async def test_a_name_that_is_no_id_is_refused(world: World) -> None:
    with pytest.raises(BlobInvalid):
        await world.fetcher.fetch("../../etc/passwd", ["a"])
