"""One run on disk: journal, promise, plan, and its log taken up once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.entries import Open, Receipt, Seat, Settle, parse
from ledger.errors import LedgerError
from p2p_llm_forge.settings import MOST_MEMBERS
from peer.errors import RunError
from peer.runs.figures import plan_of, weighted_loss
from peer.runs.journal import Journal
from peer.runs.run import Run
from tests.peer.fake_worker import spec_fields
from tests.peer.ledger_kit import Ledgers

NETWORK = "ab" * 32


async def test_the_journal_survives_a_half_written_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    await journal.add("opened", round=1)
    with path.open("ab") as file:
        file.write(b'{"event": "settled", "rou')
    again = Journal(path)
    assert [event["event"] for event in again.events] == ["opened"]
    await again.add("settled", round=1)
    assert [event["event"] for event in Journal(path).events] == ["opened", "settled"]


@pytest.mark.parametrize("damage", [b"", b"\n", b'{"ev', b"\n{", bytes(40), b"\xff\xfe\n"])
async def test_a_damaged_journal_stops_nobody(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(damage)
    await Journal(path).add("opened", round=1)
    last = Journal(path).last("opened")
    assert last is not None
    assert last["round"] == 1


async def test_followers_get_the_history_and_then_the_news_until_the_close(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    await journal.add("opened", round=1)
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async for event in journal.follow(until_closed=True):
            seen.put_nowait(event["event"])

    task = asyncio.create_task(follow())
    assert await asyncio.wait_for(seen.get(), 5) == "opened"
    await journal.add("settled", round=1)
    assert await asyncio.wait_for(seen.get(), 5) == "settled"
    await journal.add("closed")
    await asyncio.wait_for(task, 5)
    assert [event["event"] async for event in journal.follow(until_closed=False)] == ["opened", "settled", "closed"]


def run_of(ledgers: Ledgers, folder: Path) -> Run:
    """A run of Alice's whose plan can be read."""
    spec = {**ledgers.spec(), "config": spec_fields(), "price": 1_000_000}
    run, _ = ledgers.run(spec)
    (folder / "runs").mkdir(exist_ok=True)
    return Run.create(run=run, home=folder, logs=ledgers.alice.logs, spec=spec)


def receipt_of(run: Run, ledgers: Ledgers, **changes: Any) -> Receipt:
    body: dict[str, Any] = {
        "network": ledgers.genesis.id, "run": run.id, "round": 1, "state_in": run.blobs["state"],
        "update": f"{'cd' * 32}-9", "tokens": 4, "slots": (0, 4), "loss": 2_000_000, "steps": 2, "leaves": "ef" * 32,
        "key": ledgers.alice.key, **changes,
    }  # fmt: skip
    return Receipt.create(**body)


async def settled_run(ledgers: Ledgers, folder: Path) -> Run:
    """A run with one settled round in its certified log, of which the run object has seen nothing."""
    run, alice = run_of(ledgers, folder), ledgers.alice
    await alice.credits.begin(run.id, run.spec, 100)
    state = run.blobs["state"]
    entries = [
        Open(round=1, state=state, roster=(Seat(alice.account, 0, 4),)),
        receipt_of(run, ledgers),
        Settle(round=1, receipts=(3,), state=f"{'12' * 32}-7", validation=()),
    ]
    await alice.logs.append(run.origin, entries)
    return run


async def test_the_log_is_taken_up_once_by_those_who_refresh_together(ledgers: Ledgers, tmp_path: Path) -> None:
    run = await settled_run(ledgers, tmp_path)
    assert sorted(await asyncio.gather(*(run.refresh() for _ in range(3)))) == [False, False, True]
    assert (run.log.size, run.log.round) == (5, 1)
    assert [event["event"] for event in run.journal.events] == ["opened", "settled"]
    summary = run.summary(role="leader")
    assert (summary["round"], summary["tokens"], summary["credits"], summary["loss"]) == (1, 4, 4, 2.0)


async def test_a_reloaded_run_tells_nothing_twice(ledgers: Ledgers, tmp_path: Path) -> None:
    run = await settled_run(ledgers, tmp_path)
    await run.refresh()
    again = Run.load(run.folder, ledgers.alice.logs)
    await again.refresh()
    assert again.journal.events == run.journal.events
    assert again.summary(role="leader") == run.summary(role="leader")
    assert (again.id, again.name, again.leaders, again.config) == (run.id, run.name, run.leaders, run.config)


async def test_a_promise_survives_and_the_newest_counts(ledgers: Ledgers, tmp_path: Path) -> None:
    run = run_of(ledgers, tmp_path)
    assert run.promised() == []
    for loss in (1, 2):
        receipt = receipt_of(run, ledgers, loss=loss)
        run.promise(receipt)
        assert Run.load(run.folder, ledgers.alice.logs).promised() == [receipt]


async def test_a_damaged_spec_is_refused_with_the_way_out(ledgers: Ledgers, tmp_path: Path) -> None:
    run = run_of(ledgers, tmp_path)
    (run.folder / "spec.json").write_bytes(b"[]")
    with pytest.raises(RunError, match="delete the folder"):
        Run.load(run.folder, ledgers.alice.logs)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rounds", None), ("rounds", "x"), ("price", None), ("config", {}), ("config", []), ("tokens_per_slot", []),
        ("config", {**spec_fields(), "checkpoints": "all"}),
        ("config", {**spec_fields(), "checkpoints": {"every": "x"}}),
    ],
)
def test_a_spec_without_the_figures_of_a_plan_is_refused(place: str, value: Any) -> None:
    blobs = {"state": f"{'ab' * 32}-2000"}
    spec = {"rounds": 3, "tokens_per_slot": 16, "price": 10**6, "config": spec_fields(), "blobs": blobs}
    plan = plan_of(spec, run="cd" * 32, network=NETWORK)
    assert (plan.quota, plan.worth(plan.quota), plan.min_members, plan.rounds) == (4, 64, 2, 3)
    assert plan.most_update_bytes >= 2000
    with pytest.raises(RunError) as refused:
        plan_of({**spec, place: value}, run="cd" * 32, network=NETWORK)
    assert refused.value.code == "FP-405"


def test_the_ends_before_the_last_round_are_part_of_the_plan_and_may_be_left_out() -> None:
    config = spec_fields(training={"max_tokens": 5000, "target_loss": "2.345"}, evaluation={"patience": 3})
    spec = {"rounds": 3, "tokens_per_slot": 16, "price": 1, "config": config, "blobs": {"state": f"{'ab' * 32}-2000"}}
    plan = plan_of(spec, run="cd" * 32, network=NETWORK)
    assert (plan.max_tokens, plan.target_loss, plan.patience, plan.batch_size) == (5000, 2_345_000, 3, 2)
    plan = plan_of({**spec, "config": spec_fields()}, run="cd" * 32, network=NETWORK)
    assert (plan.max_tokens, plan.target_loss, plan.patience) == (0, 0, 0)
    config = spec_fields(training={"overlap": "true"})
    assert (plan.overlap, plan_of({**spec, "config": config}, run="cd" * 32, network=NETWORK).overlap) == (False, True)


async def test_the_loss_of_a_round_is_weighted_by_tokens(ledgers: Ledgers, tmp_path: Path) -> None:
    run = run_of(ledgers, tmp_path)
    receipts = receipt_of(run, ledgers, tokens=1, loss=1_000_000), receipt_of(run, ledgers, tokens=3, loss=5_000_000)
    assert weighted_loss(receipts) == pytest.approx(4.0)
    assert weighted_loss(()) is None


def test_a_roster_of_the_most_members_fits_into_an_entry_however_long_its_numbers() -> None:
    most = (1 << 53) - 1
    seats = tuple(Seat(f"{number:064x}", most, most) for number in range(MOST_MEMBERS + 1))
    longest = Open(round=most, state=f"{'f' * 64}-{most}", roster=seats[:-1])
    assert parse(longest.encode()) == longest
    with pytest.raises(LedgerError, match="16384"):
        replace(longest, roster=seats).encode()


def test_a_spec_from_elsewhere_with_more_members_than_fit_rosters_what_fits() -> None:
    spec = {
        "rounds": 1, "tokens_per_slot": 1, "price": 0, "blobs": {"state": f"{'ab' * 32}-8"},
        "config": spec_fields(members={"max": 1024}),
    }  # fmt: skip
    assert plan_of(spec, run="cd" * 32, network=NETWORK).max_members == MOST_MEMBERS
