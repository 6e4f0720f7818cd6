"""Blobs spread over their takers: their makers send them a few times only, and a lie costs no more than a retry."""

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from peer.blobs.chunks import CHUNK_BYTES, id_of
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.plan import GUESS_S, MOST_BUSY_S, MOST_HEARSAY, REST_S, Ask, Plan
from peer.blobs.serving import ChunkAnswer
from peer.blobs.spread import BACK_S, FREE, NAMES, SEAT_S, SEATS, Spread
from peer.blobs.store import BlobStore
from peer.errors import BlobUnavailable
from peer.wire import Reply
from tests.peer.memory_net import Air, MemoryNetwork, new_identity

UPDATE = os.urandom(320_000)
"""One chunk, as updates usually are."""
LONG = os.urandom(4 * CHUNK_BYTES + 77)

# ---------------------------------------------------------------- whom to send on


def test_the_first_few_are_served_and_the_others_sent_on_to_them() -> None:
    spread = Spread(random.Random(1))
    first = [f"p{number}" for number in range(FREE)]
    assert [spread.others("blob", peer, 0.0) for peer in first] == [[]] * FREE
    sent_on = spread.others("blob", "late", 0.0)
    assert sent_on
    assert set(sent_on) <= set(first)
    assert len(sent_on) <= NAMES
    assert spread.others("blob", first[0], 50.0) == [], "who is being served goes on being served"
    assert spread.others("another", "late", 0.0) == []


def test_who_comes_back_is_served_when_there_is_a_seat() -> None:
    spread = Spread(random.Random(1))
    for number in range(FREE):
        spread.others("blob", f"p{number}", 0.0)
    late = [f"late{number}" for number in range(5)]
    assert all(spread.others("blob", peer, 0.0) for peer in late)
    assert spread.others("blob", late[0], BACK_S / 2), "too soon: it asked nobody else"
    free_at = SEAT_S + 0.01
    served = [peer for peer in late if not spread.others("blob", peer, free_at)]
    assert served == late[:SEATS]
    assert [peer for peer in late[SEATS:] if not spread.others("blob", peer, 2 * free_at)] == late[SEATS : 2 * SEATS]


# ---------------------------------------------------------------- whom to ask


def test_others_are_asked_only_where_no_holder_may_help_or_none_did_for_a_while() -> None:
    plan = Plan([0], ["maker"], ["guess"])
    [ask] = plan.next(0.0)
    assert ask.provider == "maker"
    plan.busy(ask, "busy", 0.0, pause_s=100.0)
    assert plan.next(GUESS_S - 0.1) == []
    assert [ask.provider for ask in plan.next(GUESS_S)] == ["guess"]
    dead = Plan([0], ["maker"], ["guess"], attempts=1)
    [ask] = dead.next(0.0)
    dead.failed(ask, "stream reset", 0.0)
    assert [ask.provider for ask in dead.next(0.0)] == ["guess"]


def test_who_lacks_a_chunk_is_asked_again_while_somebody_else_may_have_it() -> None:
    plan = Plan([0], ["late", "busy"])
    [ask] = plan.next(0.0)
    plan.lacking(ask, 0.0)
    [other] = plan.next(0.0)
    plan.busy(other, "busy", 0.0, pause_s=60.0)
    assert plan.next(0.1) == []
    assert [ask.provider for ask in plan.next(0.3)] == ["late"]


def test_a_provider_that_is_busy_for_minutes_is_given_up() -> None:
    plan, now, asked = Plan([0], ["busy"]), 0.0, 0
    while not plan.stuck:
        for ask in plan.next(now):
            plan.busy(ask, "no time", now)
            asked += 1
        now += 0.5
    assert MOST_BUSY_S <= now < 2 * MOST_BUSY_S
    assert "no time" in plan.stuck


def test_hearsay_is_bounded_and_a_provider_that_sends_us_on_rests() -> None:
    plan = Plan([0], ["liar"])
    [ask] = plan.next(0.0)
    plan.referred(ask, [f"nobody{number}" for number in range(100)], 0.0)
    asked = set[str]()
    for _ in range(200):
        asks = plan.next(REST_S - 0.01)
        asked |= {ask.provider for ask in asks}
        for ask in asks:
            plan.bad(ask, "nonsense")
    assert len(asked) == MOST_HEARSAY
    assert plan.next(REST_S) == [Ask(0, "liar")]


def test_a_slow_chunk_that_moves_is_not_fetched_twice() -> None:
    plan = Plan([0], ["slow", "idle"], hedge_s=1.0)
    [ask] = plan.next(0.0)
    for tenth in range(5, 80, 5):
        plan.moved(ask, tenth / 10)
        assert plan.next(tenth / 10 + 0.4) == []
    assert [ask.provider for ask in plan.next(9.0)] == ["idle"], "and when it stops moving, it is"


# ---------------------------------------------------------------- together


class Group:
    """Peers with stores and fetchers on one network in memory, whose traffic is counted.

    For those who give blobs time stands still, so that nobody is served for having come back, however slow this is.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.air, genesis = Air(), Any
        self.networks = [MemoryNetwork(self.air, new_identity(), genesis) for _ in range(size)]  # type: ignore[arg-type]
        self.stores = [BlobStore(folder / str(number), 1 << 30) for number in range(size)]
        self.fetchers = [
            BlobFetcher(store, network, random.Random(number), clock=lambda: 0.0)
            for number, (store, network) in enumerate(zip(self.stores, self.networks, strict=True))
        ]

    @property
    def names(self) -> list[str]:
        return [network.peer_id for network in self.networks]

    async def spread(self, data: bytes, makers: list[int]) -> list[float]:
        """Everybody fetches what the makers have; returns the copies that each peer uploaded."""
        blob = id_of(data)
        for maker in makers:
            await self.stores[maker].add_bytes(data)
        before = [network.traffic.up.bytes for network in self.networks]
        holders = [self.names[maker] for maker in makers]
        async with asyncio.timeout(200):
            paths = await asyncio.gather(*(one.fetch(blob, holders, others=self.names) for one in self.fetchers))
        assert all(path.read_bytes() == data for path in paths)
        after = [network.traffic.up.bytes for network in self.networks]
        return [(end - begin) / len(data) for begin, end in zip(before, after, strict=True)]


async def test_the_maker_of_an_update_uploads_it_a_few_times_and_not_to_all_seven_others(tmp_path: Path) -> None:
    copies = await Group(tmp_path, 8).spread(UPDATE, [0])
    assert copies[0] < 3.1, "7 where everybody fetched from the maker"
    assert sum(part > 0.5 for part in copies) >= 3, "those who have it give it on"


async def test_in_a_large_group_nobody_uploads_to_all(tmp_path: Path) -> None:
    copies = await Group(tmp_path, 20).spread(UPDATE, [0])
    assert max(copies) < 3.3


async def test_a_blob_of_many_chunks_spreads_while_it_is_being_fetched(tmp_path: Path) -> None:
    copies = await Group(tmp_path, 6).spread(LONG, [0])
    assert max(copies) < 4.5


async def test_members_that_say_that_they_have_it_and_do_not_cost_a_retry(tmp_path: Path) -> None:
    group = Group(tmp_path, 4)
    maker, liar, honest, me = group.names
    blob = await group.stores[0].add_bytes(UPDATE)
    await group.stores[2].add_bytes(UPDATE)
    group.air.changes[maker, "blob.chunk"] = lambda reply: Reply(ChunkAnswer(ask=[liar, me, honest]).body())
    group.air.changes[liar, "blob.chunk"] = lambda reply: Reply({}, b"?" * 20_000)
    path = await group.fetchers[3].fetch(blob, [maker])
    assert path.read_bytes() == UPDATE


async def test_a_provider_that_only_ever_sends_us_on_does_not_keep_us_from_the_others(tmp_path: Path) -> None:
    group = Group(tmp_path, 3)
    blob = await group.stores[0].add_bytes(UPDATE)
    await group.stores[1].add_bytes(UPDATE)
    group.air.changes[group.names[0], "blob.chunk"] = lambda reply: Reply(ChunkAnswer(ask=[group.names[2]]).body())
    path = await group.fetchers[2].fetch(blob, [group.names[0]], others=group.names)
    assert path.read_bytes() == UPDATE


@pytest.mark.parametrize("data", [UPDATE, LONG], ids=["update", "long"])
async def test_what_nobody_has_is_told_at_once(tmp_path: Path, data: bytes) -> None:
    group = Group(tmp_path, 3)
    with pytest.raises(BlobUnavailable, match=r"does not have it|not in the store"):
        await group.fetchers[0].fetch(id_of(data), [group.names[1]], others=group.names)


async def test_who_was_sent_on_waits_for_a_blob_that_is_on_its_way_and_who_guesses_does_not(tmp_path: Path) -> None:
    group = Group(tmp_path, 3)
    maker, first, _ = group.names
    blob = await group.stores[0].add_bytes(UPDATE)
    stall = group.air.stalls[maker] = asyncio.Event()
    fetching = asyncio.create_task(group.fetchers[1].fetch(blob, [maker]))
    with pytest.raises(BlobUnavailable, match="does not have it"):
        await group.fetchers[2].fetch(blob, [], others=[first])
    sent_on = asyncio.create_task(group.fetchers[2].fetch(blob, [first]))
    await asyncio.sleep(0)
    stall.set()
    assert (await sent_on).read_bytes() == (await fetching).read_bytes() == UPDATE
    assert group.networks[0].traffic.up.bytes < 1.1 * len(UPDATE), "the maker sent it once"
