"""A member and the tail that its leader hands out: what it goes by, what it refuses, and that it stores none of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ledger import notes
from ledger.entries import Close, Entry, Open, Seat, Settle
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from ledger.merkle import Tree, leaf_hash
from peer.errors import RunError
from peer.messages import Ahead
from peer.runs.run import Run
from tests.peer.fake_worker import spec_fields
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.test_run import receipt_of


class Story:
    """Alice's run, led by her and by Zoe, as Bob has it: round 1 is open and certified, the rest is for him to hear."""

    def __init__(self, ledgers: Ledgers, run: Run, bob: Replica, zoe: Replica) -> None:
        self.ledgers, self.run, self.bob, self.zoe = ledgers, run, bob, zoe
        self.state = run.blobs["state"]
        self.certified = 3
        self.settled: list[Entry] = [receipt_of(run, ledgers), Settle(round=1, receipts=(3,), state=f"{'12' * 32}-7")]

    def opened(self, number: int) -> Open:
        roster = (Seat(self.ledgers.alice.account, 4 * number, 4),)
        return Open(round=number, state=f"{'12' * 32}-7", roster=roster)

    def empty(self, number: int) -> Settle:
        return Settle(round=number, receipts=(), state=f"{'12' * 32}-7")

    def ahead(self, entries: Sequence[Entry], key: PrivateKey | None = None, start: int = 3, size: int = 0) -> Ahead:
        """These entries and the head over them and what is certified, signed by Alice or by `key`."""
        data = [entry.encode() for entry in entries]
        tree = notes_tree([*self.bob.store.entries(self.run.origin, 0, start), *data])
        head = notes.Checkpoint(origin=self.run.origin, size=size or start + len(data), root=tree)
        note = notes.sign_head(head, key or self.ledgers.alice.key)
        return Ahead(run=self.run.id, start=start, entries=[entry.decode() for entry in data], head=note.decode())

    def shown(self) -> tuple[int, int, int, str]:
        """How far Bob goes, what of that is certified, and what lies in his ledger."""
        log = self.run.log
        return log.size, log.certified, self.bob.store.size(self.run.origin), self.run.ahead_of


def notes_tree(entries: Sequence[bytes]) -> bytes:
    tree = Tree()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree.root()


@pytest.fixture
async def story(ledgers: Ledgers, tmp_path: Path) -> Story:
    alice, bob, zoe = ledgers.alice, ledgers.more("bob"), ledgers.more("zoe")
    spec: dict[str, Any] = {**ledgers.spec(), "config": spec_fields(), "leaders": [alice.account, zoe.account]}
    (tmp_path / "runs").mkdir()
    run = Run.create(run=ledgers.run(spec)[0], home=tmp_path, logs=bob.logs, spec=spec)
    await alice.credits.begin(run.id, spec, 100)
    opened = Open(round=1, state=run.blobs["state"], roster=(Seat(alice.account, 0, 4),))
    await alice.logs.append(run.origin, [opened])
    await bob.replication.pull(alice.network.peer_id)
    await run.refresh()
    return Story(ledgers, run, bob, zoe)


async def test_a_tail_is_gone_by_and_not_stored_and_becomes_certified(story: Story) -> None:
    alice = story.ledgers.alice
    tail = [*story.settled, story.opened(2)]
    await story.run.follow(story.ahead(tail), alice.account)
    assert story.shown() == (6, 3, 3, alice.account)
    assert [event["event"] for event in story.run.journal.events] == ["opened"], "people hear of what is certified"
    assert story.run.summary(role="member")["uncertified"] == 1
    await story.run.follow(story.ahead(tail[:2]), alice.account)
    assert story.shown() == (6, 3, 3, alice.account), "an older one that comes late changes nothing"
    await alice.logs.append(story.run.origin, tail)
    await story.bob.replication.pull(alice.network.peer_id)
    await story.run.refresh()
    assert story.shown() == (6, 6, 6, alice.account)
    assert [event["event"] for event in story.run.journal.events] == ["opened", "settled", "opened"]


async def test_a_tail_that_overlaps_what_is_certified_meanwhile_goes_on_from_there(story: Story) -> None:
    alice, tail = story.ledgers.alice, [*story.settled, story.opened(2)]
    late = story.ahead(tail)
    await alice.logs.append(story.run.origin, tail[:2])
    await story.bob.replication.pull(alice.network.peer_id)
    await story.run.follow(late, alice.account)
    assert story.shown() == (6, 5, 5, alice.account)
    await story.run.follow(Ahead(run=story.run.id, start=5, entries=[], head=""), story.zoe.account)
    assert story.shown() == (5, 5, 5, story.zoe.account), "the next leader has none"
    assert story.run.journal.last("rolled_back") is not None


async def test_another_leaders_tail_takes_the_place_of_the_first(story: Story) -> None:
    await story.run.follow(story.ahead([*story.settled, story.opened(2)]), story.ledgers.alice.account)
    await story.run.follow(story.ahead(story.settled, story.zoe.key), story.zoe.account)
    assert story.shown() == (5, 3, 3, story.zoe.account)
    (told,) = [event for event in story.run.journal.events if event["event"] == "rolled_back"]
    assert (told["round"], told["lost"]) == (0, 1)


async def test_a_tail_that_must_not_count_is_refused_and_changes_nothing(story: Story) -> None:
    alice, run = story.ledgers.alice, story.run
    good = [*story.settled, story.opened(2)]
    await run.follow(story.ahead(story.settled), alice.account)
    before, opens = story.shown(), [story.opened(2), story.empty(2), story.opened(3), story.empty(3), story.opened(4)]
    close = Close(state=f"{'12' * 32}-7", reason="so it seems")
    forged = story.ahead(good).model_copy(update={"head": story.ahead(story.settled).head})
    refused: dict[str, tuple[Ahead, str, type[Exception]]] = {
        "a stranger's": (story.ahead(good, story.bob.key), story.bob.account, LedgerError),
        "signed by another leader than who sent it": (story.ahead(good, story.zoe.key), alice.account, LedgerError),
        "entries missing": (story.ahead(good[1:]), alice.account, LedgerError),
        "another root": (story.ahead(good).model_copy(update={"start": 2}), alice.account, LedgerError),
        "a head of fewer entries": (forged, alice.account, LedgerError),
        "behind what is here": (story.ahead(good, start=3).model_copy(update={"start": 4}), alice.account, LedgerError),
        "against the rules": (story.ahead([story.opened(2)]), alice.account, LedgerError),
        "no entries": (story.ahead(good).model_copy(update={"entries": ["{}"] * 3}), alice.account, LedgerError),
        "too many rounds": (story.ahead([*story.settled, *opens]), alice.account, RunError),
        "another than before": (story.ahead([story.empty(1)]), alice.account, RunError),
        "a close": (story.ahead([*story.settled, close]), alice.account, RunError),
    }
    for name, (ahead, leader, error) in refused.items():
        with pytest.raises(error):
            await run.follow(ahead, leader)
        assert story.shown() == before, name


async def test_the_receipts_of_as_many_rounds_are_kept_as_the_log_may_go_back(story: Story) -> None:
    run, made = story.run, [receipt_of(story.run, story.ledgers, round=number) for number in (1, 2, 3, 4)]
    for receipt in made:
        run.promise(receipt)
    assert run.promised() == made[1:]
    again = receipt_of(run, story.ledgers, round=3, loss=7)
    run.promise(again)
    assert run.promised() == [made[1], again], "what came after it was of another branch"
