"""Whole runs with the real engine: bit-identical weights, and unsound updates of its own format.

IO: starts worker processes.
"""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.daemons import World, finish
from tests.peer.memory_net import until
from tests.peer.stranger import stranger

ROUNDS = 5


async def submit(
    world: World, peer: Any, folder: Path, *, members: dict[str, int] | None = None, **training: Any
) -> str:
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(600))
    fields = spec_fields(corpus, rounds=ROUNDS, inner_steps=2, batch_size=2, codec={"kind": "f32"}, **training)
    fields["members"] = {**fields["members"], **(members or {})}
    async for event in peer.daemon.node.submit(fields):
        if event["event"] == "submitted":
            return str(event["run"])
    raise AssertionError("nothing was submitted")


async def test_unsound_updates_of_the_real_format_are_refused_and_the_others_agree_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        alice, bob = await world.peer("alice"), await world.peer("bob")
        run = await submit(world, alice, tmp_path)
        await alice.event(run, "opened", round=1)
        async with stranger(world, alice, run) as mallory:
            expected = {"non-finite": 0, "truncated": 0, "wrong header": 0}
            last = 0
            for fault in expected:
                opened = await mallory.seated(last + 1)
                last = opened.round
                sound = await until(lambda number=last: any_update(alice, run, number))
                data = spoil(sound, fault)
                receipt = mallory.receipt(
                    opened, update=await mallory.update(opened, data),
                    tokens=receipt_tokens(alice, run, opened.seat(mallory.account)), steps=2,
                )  # fmt: skip
                assert await mallory.deliver(receipt) == ""
                refused = await alice.event(run, "refused", account=mallory.account, round=last)
                assert (refused["code"], fault in refused["reason"]) == ("FP-107", True), refused["reason"]
        await finish(run, alice, bob)
        for settled in alice.events(run, "settled")[1:]:
            assert mallory.account not in settled["accounts"]
        assert alice.daemon.blobs.path(alice.run(run).log.state).read_bytes()


async def test_a_worker_that_dies_leaves_its_residual_and_optimizer_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        alice, bob = await world.peer("alice"), await world.peer("bob", keep_residuals=False)
        run = await submit(world, alice, tmp_path, members={"min": 2})
        for number in (1, 2):
            await alice.event(run, "opened", round=number)
            await alice.event(run, "settled", round=number)
        for peer in (alice, bob):
            os.kill(peer.daemon.host.workers[run].pid, signal.SIGKILL)
        await finish(run, alice, bob)
        (restored,) = alice.events(run, "restored")
        assert restored["residual"] in (restored["round"] - 1, restored["round"] - 2)
        assert restored["residual"] >= restored["optimizer"] >= 1
        assert bob.events(run, "restored") == []
        for peer in (alice, bob):
            folder = peer.home.path / "runs" / run / "work" / "kept"
            await until(lambda folder=folder: not folder.exists())


def any_update(peer: Any, run: str, number: int) -> bytes:
    """Somebody's sound update: of the round before, which is settled."""
    receipts = peer.run(run).log.settled[number - 2].receipts if number > 1 else ()
    return peer.daemon.blobs.path(receipts[0].update).read_bytes() if receipts else b""


def receipt_tokens(peer: Any, run: str, seat: Any) -> int:
    return int(seat.quota * peer.run(run).plan.tokens_per_slot)


def spoil(sound: bytes, fault: str) -> bytes:
    match fault:
        case "non-finite":
            return sound[:-4] + struct.pack("<f", float("nan"))
        case "truncated":
            return sound[:-1]
    return bytes([sound[0] ^ 1]) + sound[1:]
