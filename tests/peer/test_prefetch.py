"""Fetching ahead: once each, in an order of one's own, within the round's budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from peer.errors import BlobUnavailable
from peer.runs.prefetch import AT_ONCE, MOST_UPDATES, Prefetcher
from tests.peer.memory_net import until


def update(number: int, length: int = 100) -> str:
    return f"{number:064x}-{length}"


class Bench:
    """A prefetcher whose fetches are noted and wait for `gate`."""

    def __init__(self, seed: int = 1, budget: int = 1 << 30) -> None:
        self.round = 0
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.prefetcher = Prefetcher(
            self._fetch, round_number=lambda: self.round, most_bytes=1000, budget_bytes=budget, rng=random.Random(seed)
        )

    async def _fetch(self, blob: str, holders: Sequence[str]) -> Path:
        self.asked.append(blob)
        await self.gate.wait()
        if blob in self.broken:
            raise BlobUnavailable("nobody has it")
        return Path(blob)

    async def serve(self, count: int) -> None:
        """Serve until so many were asked for, and see that no more are."""
        serving = asyncio.create_task(self.prefetcher.serve())
        await until(lambda: len(self.asked) >= count)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(self.asked) == count
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_each_update_is_fetched_once_and_a_failure_does_not_end_the_others() -> None:
    bench = Bench()
    bench.broken = {update(1)}
    for _ in range(2):
        for number in range(3):
            bench.prefetcher.want(update(number), ["a"])
    await bench.serve(3)
    assert set(bench.asked) == {update(number) for number in range(3)}


async def test_members_fetch_in_different_orders_and_few_at_once() -> None:
    orders = []
    for seed in (1, 2):
        bench = Bench(seed)
        bench.gate.clear()
        for number in range(50):
            bench.prefetcher.want(update(number), ["a"])
        await bench.serve(AT_ONCE)
        orders.append(bench.asked)
    assert set(orders[0]) != set(orders[1])


async def test_a_budget_of_bytes_holds_for_a_round_and_the_next_has_its_own() -> None:
    bench = Bench(budget=350)
    for number in range(10):
        bench.prefetcher.want(update(number), ["a"])
    await bench.serve(3)
    bench.round = 1
    for number in range(10, 20):
        bench.prefetcher.want(update(number), ["a"])
    await bench.serve(6)


async def test_what_no_honest_leader_names_is_not_fetched() -> None:
    bench = Bench()
    bench.prefetcher.want(update(1, 1001), ["a"])
    bench.prefetcher.want(update(2, 9999999999999999), ["a"])
    for number in range(MOST_UPDATES + 5):
        bench.prefetcher.want(update(number, 1), ["a"])
    await bench.serve(MOST_UPDATES)
