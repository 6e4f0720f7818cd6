"""What a person can ask of a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.errors import RunError
from tests.peer.daemons import SUPPLY, Peer, World, finish
from tests.peer.memory_net import until

UNKNOWN = "ab" * 32


async def finished(world: World) -> tuple[Peer, Peer, str]:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 2})
    await finish(run, alice, bob)
    return alice, bob, run


async def test_status_tells_who_we_are_and_what_runs(world: World) -> None:
    alice, bob, run = await finished(world)
    status = await bob.daemon.node.status()
    assert (status["account"], status["peer_id"], status["peers"]) == (bob.account, bob.network.peer_id, 1)
    assert [job["run"] for job in status["runs"]] == [run]
    assert status["credits"] == {"balance": 2 * 64, "claimable": 0}
    assert status["workers"] == [], "the run is over and its worker gone"
    peers = await bob.daemon.node.peers()
    assert [(peer["account"], peer["self"]) for peer in peers] == [(bob.account, 1), (alice.account, 0)]


async def test_balances_of_anybody_are_told(world: World) -> None:
    alice, bob, _ = await finished(world)
    for asked in (alice, bob):
        await until(lambda: True)
        theirs = await asked.daemon.node.balance(alice.account)
        assert theirs["account"] == alice.account
    assert (await alice.daemon.node.balance("me"))["balance"] == SUPPLY - 2 * 64
    assert (await alice.daemon.node.balance(UNKNOWN))["balance"] == 0


async def test_text_and_exports_come_from_the_newest_state(world: World, tmp_path: Path) -> None:
    alice, bob, run = await finished(world)
    answers = [await peer.daemon.node.generate(run, prompt="The end") for peer in (alice, bob)]
    assert answers[0] == answers[1]
    assert (answers[0]["round"], answers[0]["state"]) == (2, alice.run(run).log.state)
    exported = await bob.daemon.node.export(run, str(tmp_path / "model"))
    assert (exported["folder"], exported["round"]) == (str(tmp_path / "model"), 2)
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert weights == bob.daemon.blobs.path(exported["state"]).read_bytes()
    assert (await bob.daemon.node.status())["workers"] == [], "a worker started for this alone is ended"


async def test_text_may_be_asked_for_while_the_run_goes_on(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = bob.engine.hold(2)
    run = await alice.submit(training={"rounds": 2})
    await alice.event(run, "receipt", round=2, account=alice.account)
    answer = await alice.daemon.node.generate(run, prompt="So far")
    assert answer["round"] == 1
    gate.set()
    await finish(run, alice, bob)


async def test_runs_that_are_not_known_are_refused_by_name(world: World) -> None:
    alice = await world.peer("alice")
    node = alice.daemon.node
    for ask in (node.job(UNKNOWN), node.cancel(UNKNOWN), node.export(UNKNOWN, "x"), node.generate(UNKNOWN)):
        with pytest.raises(RunError, match=UNKNOWN[:16]) as refused:
            await ask
        assert refused.value.code == "FP-404"
    with pytest.raises(RunError):
        _ = [event async for event in node.events(UNKNOWN, True)]


async def test_a_run_of_which_no_state_is_here_cannot_be_used(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 2})
    await finish(run, alice, bob)
    for blob in bob.daemon.blobs.ids():
        bob.daemon.blobs.discard(blob)
    with pytest.raises(RunError) as refused:
        await bob.daemon.node.generate(run, prompt="x")
    assert refused.value.code == "FP-434"


async def test_a_run_that_is_over_cannot_be_cancelled(world: World) -> None:
    alice, _, run = await finished(world)
    with pytest.raises(RunError) as refused:
        await alice.daemon.node.cancel(run)
    assert refused.value.code == "FP-433"


async def test_shutdown_ends_the_daemon(world: World) -> None:
    alice = await world.peer("alice")
    await alice.daemon.node.shutdown()
    await until(lambda: alice.network.peer_id not in world.air.peers)
