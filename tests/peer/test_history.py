"""What is kept of a run: needed, kept while there is room, and found again after a restart."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from ledger.entries import Begin, Close, Open, Receipt, Seat, Settle
from ledger.keys import PrivateKey
from ledger.spec import run_id
from peer.blobs.chunks import id_of
from peer.blobs.pins import Pins
from peer.blobs.store import BlobStore
from peer.errors import QuotaFull, RunError
from peer.rounds.log import RunLog
from peer.runs.figures import plan_of
from peer.runs.history import History
from tests.peer.daemons import Peer, World, finish
from tests.peer.fake_worker import TOKENS_PER_SLOT, spec_fields

KEY = PrivateKey(bytes(31) + b"\x01")
STATE_BYTES, UPDATE_BYTES = 1000, 100


def state(number: int) -> bytes:
    return f"state {number}".encode().ljust(STATE_BYTES, b".")


def update(number: int) -> bytes:
    return f"update {number}".encode().ljust(UPDATE_BYTES, b".")


class OneRun:
    """A run whose log is written here."""

    def __init__(self, ahead: int = 0, **checkpoints: int) -> None:
        config = spec_fields(checkpoints=checkpoints)
        config["training"]["max_uncertified_rounds"] = ahead
        if not checkpoints:
            del config["checkpoints"]
        self.blobs = {name: id_of(name.encode()) for name in ("model", "tokenizer", "manifest")}
        self.blobs["state"] = id_of(state(0))
        spec: dict[str, Any] = {
            "version": 1, "name": "kept", "submitter": KEY.public, "leaders": [KEY.public], "price": 1, "rounds": 99,
            "tokens_per_slot": TOKENS_PER_SLOT, "slots_per_epoch": 1000, "nonce": "0" * 32, "config": config,
            "blobs": self.blobs,
        }  # fmt: skip
        self.id, self.log = run_id(spec), RunLog()
        self.plan, self.staged = plan_of(spec, run=self.id, network="ab" * 32), None
        self.log.extend([Begin(spec=spec)])

    def settle(self, number: int) -> None:
        """Write the next round into the log."""
        before = id_of(state(number - 1))
        receipt = Receipt.create(
            network="ab" * 32, run=self.id, round=number, state_in=before, update=id_of(update(number)),
            tokens=TOKENS_PER_SLOT, slots=(number, 1), loss=1, steps=1, leaves="0" * 64, key=KEY,
        )  # fmt: skip
        opened = Open(round=number, state=before, roster=(Seat(KEY.public, number, 1),))
        settled = Settle(round=number, receipts=(self.log.size + 1,), state=id_of(state(number)))
        self.log.extend([opened, receipt, settled])


class Disk:
    """A store with a run's history, as a member fills it."""

    def __init__(self, folder: Path, run: OneRun, quota: int = 10**9) -> None:
        self.run, self.folder, self.ours = run, folder, False
        self.open(quota)

    def open(self, quota: int) -> None:
        """As after a start of the daemon."""
        self.store = BlobStore(self.folder, quota)
        self.history = History(self.run, self.store, ours=self.ours)  # type: ignore[arg-type]

    async def apply(self, number: int) -> None:
        """A round as a member has it: the update comes, the state is written, the log names it."""
        await self.store.add_bytes(update(number))
        await self.history.hold(number, id_of(state(number)), [id_of(update(number))])
        await self.store.add_bytes(state(number))
        self.run.settle(number)

    def kept(self, upto: int) -> tuple[list[int], list[int]]:
        """Rounds whose states, and rounds whose updates are here."""
        has = self.store.has
        rounds = range(upto + 1)
        return [n for n in rounds if has(id_of(state(n)))], [n for n in rounds if has(id_of(update(n)))]


async def filled(folder: Path, rounds: int, quota: int = 10**9, **checkpoints: int) -> Disk:
    """A disk after so many rounds; the initial state is here too."""
    disk = Disk(folder, OneRun(**checkpoints), quota)
    await disk.history.take_up()
    await disk.store.add_bytes(state(0))
    for number in range(1, rounds + 1):
        await disk.apply(number)
    return disk


async def squeeze(disk: Disk, size: int) -> None:
    """Something else needs this much room."""
    await disk.store.add_bytes(bytes(size))


async def test_with_room_every_state_and_update_stays(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 9, keep_last=2, every=4)
    assert disk.kept(9) == (list(range(10)), list(range(1, 10)))


async def test_for_want_of_room_only_states_between_checkpoints_go_first(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 9, quota=7000, keep_last=2, every=4)
    assert disk.kept(9) == ([0, 4, 6, 7, 8, 9], list(range(1, 10)))


async def test_then_history_goes_from_its_oldest_end_and_the_last_states_never(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 9, quota=7000, keep_last=2, every=4)
    await squeeze(disk, 3100)
    assert disk.kept(9) == ([4, 8, 9], list(range(1, 10)))
    await squeeze(disk, 4700)
    assert disk.kept(9) == ([8, 9], [7, 8, 9])
    with pytest.raises(QuotaFull):
        await squeeze(disk, 4900)
    assert disk.kept(9) == ([8, 9], [7, 8, 9])


async def test_states_to_which_a_member_may_have_to_go_back_are_needed_too(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 9, quota=7000, ahead=2, keep_last=2, every=4)
    with contextlib.suppress(QuotaFull):
        await squeeze(disk, 4900)
    assert disk.kept(9)[0][-4:] == [6, 7, 8, 9]


async def test_a_restart_pins_the_same_again(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 9, keep_last=2, every=4)
    disk.open(7000)
    await disk.history.take_up()
    await squeeze(disk, 1000)
    assert disk.kept(9) == ([0, 4, 7, 8, 9], list(range(1, 10)))


async def test_a_jump_over_rounds_leaves_no_old_state_pinned(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 3, keep_last=2, every=50)
    for number in range(4, 60):
        disk.run.settle(number)
    await disk.store.add_bytes(state(59))
    await disk.history.hold(59, id_of(state(59)))
    assert disk.store.pins.owners(f"{disk.run.id}/held/") == [f"{disk.run.id}/held/59"]
    disk.open(2400)
    await disk.history.take_up()
    await squeeze(disk, 900)
    assert 59 in disk.kept(59)[0]


async def test_without_checkpoints_in_the_spec_the_initial_state_and_all_updates_are_kept(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 6, quota=5000)
    assert disk.kept(6) == ([0, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    assert [disk.history.checkpoint(number) for number in (0, 5)] == [0, 0]


async def test_a_round_that_another_leader_settled_otherwise_replaces_ours(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 3, keep_last=2, every=2)
    await disk.history.hold(4, id_of(b"ours"), [id_of(b"our update")])
    await disk.history.hold(4, id_of(state(4)), [id_of(update(4))])
    for blob in (b"ours", b"our update"):
        await disk.store.add_bytes(blob)
    assert disk.store.pins.evictable([id_of(b"ours"), id_of(b"our update")]) == [id_of(b"ours"), id_of(b"our update")]


async def test_a_run_cannot_have_more_than_three_states_kept_for_which_there_is_no_room(tmp_path: Path) -> None:
    disk = await filled(tmp_path, 9, keep_last=8, every=0)
    disk.open(12_000)
    await disk.history.take_up()
    await squeeze(disk, 2000)
    assert disk.kept(9) == ([0, 2, 3, 4, 5, 6, 7, 8, 9], list(range(1, 10)))
    await squeeze(disk, 7500)
    assert disk.kept(9) == ([6, 7, 8, 9], [7, 8, 9])
    with pytest.raises(QuotaFull):
        await squeeze(disk, 9000)
    await squeeze(disk, 8600)
    assert disk.kept(9) == ([7, 8, 9], [7, 8, 9])


@pytest.mark.parametrize("ours", [False, True])
async def test_of_a_run_that_is_over_only_its_submitter_needs_the_final_state(tmp_path: Path, ours: bool) -> None:
    disk = await filled(tmp_path, 4, keep_last=2, every=0)
    disk.ours = ours
    disk.run.log.extend([Close(state=id_of(state(4)), reason="done")])
    await disk.history.take_up()
    disk.open(4000)
    await disk.history.take_up()
    with pytest.raises(QuotaFull) if ours else contextlib.nullcontext():
        await squeeze(disk, 3900)
    assert disk.kept(4)[0] == ([0, 1, 2, 3, 4] if ours else [])


def test_what_somebody_needs_stays_whoever_else_would_only_keep_it() -> None:
    pins = Pins()
    pins.keep(["a", "b"], "old")
    pins.keep(["c"], "new")
    pins.need(["b"], "now")
    assert pins.evictable(["c", "b", "a", "x"]) == ["x", "a", "c"]
    pins.drop("now")
    assert pins.evictable(["c", "b", "a", "x"]) == ["x", "a", "b", "c"]
    assert pins.evictable(["c", "x"]) == ["x", "c"]
    assert pins.owners("") == ["new"], "an old owner of whose blobs none is left is forgotten"


async def run_of(world: World, rounds: int) -> tuple[Peer, Peer, str]:
    """A run of two peers that is over; only every second state is kept for good."""
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": rounds}, checkpoints={"keep_last": 1, "every": 2})
    await finish(run, alice, bob)
    return alice, bob, run


def forget(peer: Peer, *blobs: str) -> None:
    """These blobs are gone from a peer's disk."""
    for blob in blobs:
        peer.daemon.blobs.discard(blob)


async def test_a_state_of_the_past_is_computed_again_with_what_other_peers_kept(world: World, tmp_path: Path) -> None:
    alice, bob, run = await run_of(world, 5)
    log = bob.run(run).log
    updates = [receipt.update for done in log.settled for receipt in done.receipts]
    forget(alice, log.state_after(3))
    forget(bob, *updates, *(log.state_after(number) for number in range(5)))
    told = await bob.daemon.node.export(run, str(tmp_path / "model"), 3)
    assert told["state"] == log.state_after(3)
    assert bob.daemon.blobs.has(log.state_after(2)), "the nearest checkpoint came from the other peer"
    assert not bob.daemon.blobs.has(log.settled[1].receipts[0].update), "nothing before it was needed"
    assert (await bob.daemon.node.status())["workers"] == []


async def test_a_state_of_the_past_is_taken_out_while_the_run_s_own_worker_trains(world: World, tmp_path: Path) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = bob.engine.hold(3)
    run = await alice.submit(training={"rounds": 3}, checkpoints={"keep_last": 1, "every": 0})
    await bob.event(run, "training", round=3)
    trained = list(bob.engine.trained)
    forget(bob, bob.run(run).log.state_after(1))
    told = await bob.daemon.node.export(run, str(tmp_path / "model"), 1)
    assert (told["round"], told["state"]) == (1, bob.run(run).log.state_after(1))
    assert (bob.run(run).log.round, bob.engine.trained) == (2, trained), "nobody waited for anybody"
    gate.set()
    await finish(run, alice, bob)


async def test_what_is_lost_everywhere_is_named(world: World, tmp_path: Path) -> None:
    alice, bob, run = await run_of(world, 5)
    log = bob.run(run).log
    lost = log.settled[2].receipts[0].update
    for peer in (alice, bob):
        forget(peer, lost, log.state_after(3))
    with pytest.raises(RunError, match=f"round 3 cannot be applied again, its update {lost[:16]}") as refused:
        await bob.daemon.node.export(run, str(tmp_path / "model"), 3)
    assert refused.value.code == "FP-440"
    for peer in (alice, bob):
        forget(peer, *(log.state_after(number) for number in range(6)))
    with pytest.raises(RunError, match="no state up to round 4 is here") as refused:
        await bob.daemon.node.export(run, str(tmp_path / "model"), 4)
    assert (refused.value.code, (tmp_path / "model").exists()) == ("FP-440", False)
    assert list(tmp_path.glob(".model*")) == []


async def test_a_round_that_is_not_settled_and_a_folder_that_is_there_are_refused(world: World, tmp_path: Path) -> None:
    _, bob, run = await run_of(world, 2)
    with pytest.raises(RunError, match="round 7 is not settled, the last settled is 2"):
        await bob.daemon.node.export(run, str(tmp_path / "model"), 7)
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path):
        with pytest.raises(RunError, match="exists already") as refused:
            await bob.daemon.node.export(run, str(place), 1)
        assert refused.value.code == "FP-441"
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_state_that_comes_out_otherwise_than_in_the_log_is_refused(world: World, tmp_path: Path) -> None:
    _, bob, run = await run_of(world, 3)
    log = bob.run(run).log
    forget(bob, log.state_after(1))
    bob.engine.lies = 1
    with pytest.raises(RunError, match=rf"round 1 leads to state \S+, wanted {log.state_after(1)}"):
        await bob.daemon.node.export(run, str(tmp_path / "model"), 1)
