"""A run replayed from its log and the blobs of a home: what it finds, names and leaves out.

IO: homes in temporary folders; worker processes with the real engine in one test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ledger.cli.main import main
from ledger.entries import Begin, Close, Entry, Open, Receipt, Seat, Settle
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from ledger.live import Replay, ReplayReport
from ledger.spec import run_id
from peer.audit.replay import RunReplay
from peer.blobs.chunks import id_of
from peer.identity import Home
from peer.supervisor import Worker
from tests.ledger.stage_world import run_log as staged_log
from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.daemons import World, finish
from tests.peer.fake_worker import TOKENS_PER_SLOT, Engine, fake_workers, state_bytes, update_bytes

ALICE, BOB = (PrivateKey(sha256(name.encode()).digest()) for name in ("alice", "bob"))
NETWORK = "ab" * 32


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run's log and the home with its blobs."""

    home: Path
    log: tuple[Entry, ...]
    updates: tuple[tuple[str, ...], ...]
    """Blob ids by round."""
    states: tuple[str, ...]
    """State ids, the initial one first."""

    def replay(self, log: Sequence[Entry] | None = None) -> ReplayReport:
        """Replay it, or another log with the same blobs."""
        plugin: Replay = RunReplay()
        data = [entry.encode() for entry in (self.log if log is None else log)]
        return plugin.replay(self.home, "run", data, None)

    def blob(self, blob: str) -> Path:
        """A blob's file."""
        return Home(self.home).blobs / blob[:2] / blob

    def changed(self, round_: int, **fields: Any) -> list[Entry]:
        """The log with another settle of a round."""
        return [
            replace(entry, **fields) if isinstance(entry, Settle) and entry.round == round_ else entry
            for entry in self.log
        ]


def keep(home: Path, data: bytes) -> str:
    """Put a blob into a home."""
    blob = id_of(data)
    place = Home(home).blobs / blob[:2] / blob
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return blob


Apply = Callable[[int, list[str]], Awaitable[str]]


def begun(config: dict[str, Any], blobs: dict[str, str]) -> Begin:
    """The run's first entry."""
    spec: dict[str, Any] = {
        "version": 1, "name": "replayed", "submitter": ALICE.public, "leaders": [ALICE.public], "price": 1000,
        "tokens_per_slot": TOKENS_PER_SLOT, "slots_per_epoch": 1000, "rounds": 3, "nonce": "0" * 32, "config": config,
        "blobs": blobs,
    }  # fmt: skip
    return Begin(spec=spec)


def settled(
    begin: Begin, log: list[Entry], number: int, updates: Sequence[tuple[str, int]], states: Sequence[str]
) -> None:
    """Write one round into the log: each member's update and tokens, in the order of alice, bob."""
    run, start = run_id(begin.spec), 20 * (number - 1)
    seats = tuple(Seat(key.public, start + 10 * place, 10) for place, key in enumerate((ALICE, BOB)))
    log.append(Open(round=number, state=states[-2], roster=seats))
    first = len(log)
    for key, seat, (update, tokens) in zip((ALICE, BOB), seats, updates, strict=False):
        log.append(
            Receipt.create(
                network=NETWORK, run=run, round=number, state_in=states[-2], update=update, tokens=tokens,
                slots=(seat.slot_start, tokens // TOKENS_PER_SLOT or 1), loss=1, steps=1, leaves="0" * 64, key=key,
            )
        )  # fmt: skip
    log.append(Settle(round=number, receipts=tuple(range(first, len(log))), state=states[-1]))


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Three rounds of two members, with the fake engine."""
    with fake_workers(monkeypatch, lambda folder: Engine()):
        home, state = tmp_path / "home", state_bytes("start")
        blobs = {name: keep(home, name.encode()) for name in ("model", "tokenizer", "manifest")}
        begin = begun({}, {**blobs, "state": keep(home, state)})
        log: list[Entry] = [begin]
        states, rounds = [begin.state], []
        for number in (1, 2, 3):
            updates = [update_bytes(20 * number + place) for place in range(2)]
            state = state_bytes(sha256(b"".join([state, *updates])).hexdigest())
            states.append(id_of(state))
            rounds.append(tuple(keep(home, update) for update in updates))
            settled(begin, log, number, [(blob, TOKENS_PER_SLOT) for blob in rounds[-1]], states)
        keep(home, state)  # a peer keeps its newest states
        log.append(Close(state=states[-1], reason=""))
        yield Recorded(home=home, log=tuple(log), updates=tuple(rounds), states=tuple(states))


def test_every_state_of_a_sound_run_is_computed_again(recorded):
    before = sorted(path for path in recorded.home.rglob("*"))
    assert recorded.replay() == ReplayReport(rounds=3, compared=3, mismatches=(), missing=())
    assert sorted(path for path in recorded.home.rglob("*")) == before  # the home is only read


def test_progress_is_told_round_by_round(recorded):
    told: list[tuple[int, int]] = []
    RunReplay().replay(recorded.home, "run", [entry.encode() for entry in recorded.log], lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_run_with_stages_is_refused_and_not_told_to_be_wrong(tmp_path):
    with pytest.raises(LedgerError, match="FP-438: run run: its model is cut into 3 stages"):
        RunReplay().replay(tmp_path, "run", [entry.encode() for entry in staged_log(1)], None)


def test_a_state_that_the_leader_made_up_is_named_with_its_round(recorded):
    false = f"{'0' * 64}-2000"
    found = recorded.replay(recorded.changed(2, state=false))
    assert found.mismatches == (f"round 2: state is {recorded.states[2]}, wanted {false}, that of the log",)
    assert (found.compared, found.rounds, found.missing) == (3, 3, ())  # round 3 states where it began


def test_a_last_state_that_was_made_up_is_named(recorded):
    found = recorded.replay(recorded.changed(3, state=f"{'f' * 64}-2000"))
    assert [mismatch.split(":")[0] for mismatch in found.mismatches] == ["round 3"]


def test_updates_in_another_order_or_left_out_give_another_state(recorded):
    settle = next(entry for entry in recorded.log if isinstance(entry, Settle))
    found = recorded.replay(recorded.changed(1, receipts=settle.receipts[:1]))
    assert [mismatch.split(":")[0] for mismatch in found.mismatches] == ["round 1"]


def test_a_round_without_receipts_leaves_the_state_as_it_is(recorded):
    found = recorded.replay(recorded.changed(1, receipts=()))
    assert found.mismatches[0].startswith(f"round 1: state is {recorded.states[0]}")


def test_a_changed_update_is_not_applied_but_named(recorded):
    blob = recorded.updates[1][0]
    data = bytearray(recorded.blob(blob).read_bytes())
    data[20] ^= 1
    recorded.blob(blob).write_bytes(bytes(data))
    found = recorded.replay()
    assert found.missing == (f"{blob} (damaged: its bytes are not those that its id names)",)
    assert (found.rounds, found.compared, found.left_out, found.mismatches) == (1, 1, (2, 3), ())


def test_a_missing_update_is_named_and_the_replay_goes_on_where_a_state_is_kept(recorded):
    blob = recorded.updates[0][1]
    recorded.blob(blob).unlink()
    assert recorded.replay() == ReplayReport(rounds=0, compared=0, mismatches=(), missing=(blob,), left_out=(1, 2, 3))
    state = state_bytes("start")
    for number in (1, 2):
        updates = [update_bytes(20 * number + place) for place in range(2)]
        state = state_bytes(sha256(b"".join([state, *updates])).hexdigest())
    assert keep(recorded.home, state) == recorded.states[2]
    found = recorded.replay()
    assert (found.rounds, found.compared, found.left_out, found.missing) == (1, 1, (1, 2), (blob,))


@pytest.mark.parametrize("name", ["model", "tokenizer", "manifest", "state"])
def test_without_what_it_starts_from_nothing_is_replayed_and_that_is_named(recorded, name):
    blob = recorded.log[0].spec["blobs"][name]
    recorded.blob(blob).unlink()
    found = recorded.replay()
    assert (found.missing, found.rounds, found.left_out) == ((blob,), 0, (1, 2, 3))


def test_an_update_that_the_engine_refuses_is_a_mismatch(recorded):
    bad = keep(recorded.home, b"no update")
    log = list(recorded.log)
    place = next(index for index, entry in enumerate(log) if isinstance(entry, Receipt))
    log[place] = replace(log[place], update=bad)
    found = recorded.replay(log)
    assert found.mismatches[0].startswith("round 1: the updates cannot be applied: FP-107")


def test_a_log_that_has_not_begun_cannot_be_replayed(recorded):
    with pytest.raises(LedgerError, match="nothing to replay"):
        recorded.replay([])


def test_a_worker_that_dies_is_an_error_of_the_ledger_command(recorded, monkeypatch):
    engine = Engine()
    engine.dies_in.add("apply")
    with fake_workers(monkeypatch, lambda folder: engine), pytest.raises(LedgerError, match="died in apply"):
        recorded.replay()


async def test_the_real_engine_gives_the_same_state_of_the_same_update_and_another_of_another(tmp_path):
    corpus, home, work = tmp_path / "corpus.txt", tmp_path / "home", tmp_path / "work"
    corpus.write_text(corpus_text(300))
    worker = await Worker.start(work, threads=1, device="cpu")
    try:
        fields = spec_fields(corpus, rounds=2, inner_steps=1, batch_size=2, codec={"kind": "f32"})
        made = await worker.call("prepare", spec=fields, out=str(tmp_path / "made"))
        names = ("model", "tokenizer", "manifest", "state")
        begin = begun(made["config"], {name: keep(home, Path(made["blobs"][name]).read_bytes()) for name in names})
        files = {name: made["blobs"][name] for name in (*names, "shards")}
        await worker.call("open", config=made["config"], **files)
        log: list[Entry] = [begin]
        states, updates = [begin.state], []
        for number in (1, 2):
            done = await worker.call("train", round=number, start=20 * number, count=2, seconds=5.0)
            updates.append(keep(home, Path(done["update"]).read_bytes()))
            one = {"path": str(Home(home).blobs / updates[-1][:2] / updates[-1]), "tokens": done["tokens"], "mine": 1}
            states.append(str((await worker.call("apply", round=number, updates=[one]))["state"]))
            settled(begin, log, number, [(updates[-1], done["tokens"])], states)
    finally:
        await worker.close()
    run = Recorded(home=home, log=tuple(log), updates=tuple((blob,) for blob in updates), states=tuple(states))
    changed = [replace(entry, update=updates[0]) if entry == log[-2] else entry for entry in log]
    found = await asyncio.to_thread(run.replay, changed)  # the first round as it was, the second with another update
    assert (found.compared, found.missing, found.left_out) == (2, (), ())
    [mismatch] = found.mismatches
    assert mismatch.startswith("round 2: state is ")


async def test_the_command_replays_a_run_of_real_daemons_from_a_home(tmp_path, monkeypatch):
    async with World(tmp_path, monkeypatch) as world:
        alice, bob = await world.peer("alice"), await world.peer("bob")
        run = await alice.submit()
        await finish(run, alice, bob)
        states = alice.run(run).log.settled
    command = ["verify", "--home", str(bob.home.path), "--replay", run, "--json", "--quiet"]
    with fake_workers(monkeypatch, lambda folder: Engine()):
        answer = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert answer.exit_code == 0, answer.output
    replay = json.loads(answer.output)["replay"]
    assert (replay["rounds"], replay["compared"], replay["mismatches"]) == (len(states), len(states), [])
