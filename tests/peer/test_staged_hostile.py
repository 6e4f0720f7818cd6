"""Strangers, drivers and leaders that do not keep to the rules of runs with stages: refused by name, nothing changed.

IO: home folders.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger.keys import PrivateKey
from peer.errors import NetworkError, Refused
from peer.messages import Delivery, Join
from peer.runs.staged.bodies import MoreBody, PartBody, PassBody
from peer.runs.staged.messages import Standing
from peer.runs.staged.parcels import digest
from peer.stages.messages import Attempt, Status
from peer.wire import Reply
from tests.peer.daemons import Peer, World
from tests.peer.fake_stage import TENSOR_BYTES, tensor
from tests.peer.memory_net import MemoryNetwork, advert_of, outsider, until
from tests.peer.test_staged_runs import NAMES, in_round_2, stage_of, submit, through


class Scene:
    """Four daemons whose round 2 is held open, and a stranger."""

    def __init__(self, world: World, run: str, peers: list[Peer], mallory: MemoryNetwork) -> None:
        self.world, self.run, self.peers, self.mallory = world, run, peers, mallory
        self.replica = next(peer for peer in peers if stage_of(run, peer) == 1)
        self.driver = next(peer for peer in peers if stage_of(run, peer) == 0)

    def body(self, **changes: Any) -> dict[str, Any]:
        """A pass for the open round, as its driver might ask for it."""
        opened = self.replica.run(self.run).log.open
        given = self.given
        body = PassBody.read({
            "run": self.run, "call": "0" * 32, "round": 2, "state": opened.state, "stage": 1, "microbatch": 0,
            "kind": "backward", "attempt": {"number": 0, "leader": ""}, "tokens": 32, "x": TENSOR_BYTES,
            "gradient": TENSOR_BYTES, "sum": digest(given), **changes,
        })  # fmt: skip
        return body.body()

    given = tensor("x") + tensor("gradient")

    async def ask(self, network: MemoryNetwork, payload: bytes | None = None, **changes: Any) -> Reply:
        data = self.given if payload is None else payload
        return await network.exchange(self.replica.network.peer_id, "stage.pass", self.body(**changes), payload=data)

    async def end(self) -> None:
        for peer in self.peers:
            peer.engine.hold(2).set()
        await through(self.run, *self.peers)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with World(tmp_path, monkeypatch, witnesses=4) as world:
        peers = [await world.peer(name) for name in NAMES]
        for peer in peers:
            peer.engine.hold(2)
        run = await submit(peers[0], rounds=3)
        await in_round_2(run, *peers)
        async with outsider(world.air, world.genesis, PrivateKey.generate()) as mallory:
            yield Scene(world, run, peers, mallory)


async def test_a_stranger_is_served_nothing(scene: Scene) -> None:
    with pytest.raises(Refused, match="not known to take part"):
        await scene.ask(scene.mallory)
    with pytest.raises(Refused, match="is not here"):
        more = MoreBody(run=scene.run, call="0" * 32, index=1).body()
        await scene.mallory.exchange(scene.replica.network.peer_id, "stage.more", more)
    await scene.end()


async def test_a_seat_in_another_stage_drives_nothing(scene: Scene) -> None:
    other = next(peer for peer in scene.peers if stage_of(scene.run, peer) == 1 and peer is not scene.replica)
    refusal = (await scene.ask(other.network)).body["refusal"]
    assert refusal["code"] == "FP-452"
    await scene.end()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"round": 1}, "STALE"), ({"state": "ab" * 32 + "-9"}, "STALE"), ({"stage": 0}, "FP-452"),
        ({"microbatch": 99}, "FP-452"),
    ],
)  # fmt: skip
async def test_a_pass_that_does_not_fit_the_round_is_refused(scene: Scene, changes: dict[str, Any], code: str) -> None:
    refusal = (await scene.ask(scene.driver.network, **changes)).body["refusal"]
    assert refusal["code"] == code
    if code == "STALE":
        assert refusal["state"] == scene.replica.run(scene.run).log.state
    await scene.end()


async def test_bytes_that_are_not_what_was_told_are_refused(scene: Scene) -> None:
    network = scene.driver.network
    for payload, changes in (
        (scene.given[:-1], {}), (bytes(2 * TENSOR_BYTES), {}), (scene.given, {"x": 0}),
        (tensor("x"), {"gradient": 0, "sum": digest(tensor("x"))}),
    ):  # fmt: skip
        with pytest.raises(Refused, match="FP-455"):
            await scene.ask(network, payload, **changes)
    await scene.end()


async def test_a_tensor_of_the_wrong_shape_is_refused_with_the_workers_words(scene: Scene) -> None:
    for peer in scene.peers:
        peer.engine.hold(2).set()  # else the driver would wait for the worker
    data = bytes(TENSOR_BYTES) * 2
    try:
        reply = await scene.ask(scene.driver.network, data, sum=digest(data), microbatch=0)
    except NetworkError as exc:  # the round was over before we asked
        pytest.fail(str(exc))
    refusal = reply.body.get("refusal")
    if refusal is not None and refusal["code"] == "FP-453":
        assert "not a tensor of the right shape" in refusal["why"]
    await through(scene.run, *scene.peers)


async def test_parts_longer_than_any_tensor_are_refused(scene: Scene) -> None:
    part = PartBody(run=scene.run, call="0" * 32, index=0, bytes=1 << 40).body()
    with pytest.raises(Refused, match=f"wanted at most {2 * TENSOR_BYTES}"):
        await scene.mallory.exchange(scene.replica.network.peer_id, "stage.part", part, payload=b"x")
    await scene.end()


async def test_only_the_leader_gives_orders(scene: Scene) -> None:
    halt = {"run": scene.run, "round": 2, "attempt": {"number": 9, "leader": ""}, "gaps": [], "gone": []}
    for network in (scene.mallory, scene.replica.network if scene.replica is not scene.peers[0] else scene.mallory):
        with pytest.raises(Refused, match="does not lead it"):
            await network.call(scene.driver.network.peer_id, "stage.halt", halt)
    await scene.end()


async def test_statuses_are_heard_of_members_only_and_checked(scene: Scene) -> None:
    leader, run = scene.peers[0].network.peer_id, scene.run
    opened = scene.peers[0].run(run).log.open
    account = scene.mallory.identity.account

    async def say(**fields: Any) -> None:
        status = Status(account=account, life=1, seq=fields.pop("seq"), round=2, **fields)
        await scene.mallory.call(leader, "stage.status", Standing.of(run, status, opened).body())

    with pytest.raises(Refused, match="FP-420"):
        await say(seq=1)
    await scene.mallory.call(leader, "run.join", Join(run=run, advert=advert_of(scene.mallory)).body())
    with pytest.raises(Refused, match="FP-412"):
        await say(seq=2, applied="ab" * 32 + "-9")
    with pytest.raises(Refused, match="FP-412"):
        await say(seq=3, halted=Attempt(99, f"{account}/1"))
    with pytest.raises(Refused, match="FP-416"):
        await scene.mallory.call(leader, "run.receipt", Delivery(run=run, receipt="{}").body())
    assert len(scene.peers[0].events(run, "refused")) >= 2
    await scene.end()


async def test_a_driver_that_repeats_itself_is_told_that_it_is_being_served(scene: Scene) -> None:
    """Passes are held back at the worker; what is asked for again meanwhile waits nowhere."""
    asking = [asyncio.create_task(scene.ask(scene.driver.network)) for _ in range(40)]
    await until(lambda: sum(task.done() for task in asking) >= 39)
    codes = {task.result().body["refusal"]["code"] for task in asking if task.done()}
    assert codes == {"WORKING"}
    for peer in scene.peers:
        peer.engine.hold(2).set()
    await asyncio.gather(*asking, return_exceptions=True)
    await through(scene.run, *scene.peers)
