"""The store after a loss of power: at every sync and at random writes, with any part of what was not synced.

Lost are whole writes and single sectors of 512 bytes, of the main file, its write-ahead log and its journal, in any
order. Whatever is left, all that was handed out before is there, and nothing contradicts it.

IO: one folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ledger.store.store import Store

from .disk_story import Fact, Story, check
from .faulty_vfs import Contents, installed
from .world import GENESIS

KEEP = (0.0, 0.5, 0.9)
"""Chances of a sector that was not synced to be there."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When the power goes."""

    files: dict[str, Contents]
    facts: list[Fact]

    def leave(self, folder: Path, rng: random.Random, keep: float) -> None:
        """Write into `folder` what might be left of each file."""
        folder.mkdir()
        for path, contents in self.files.items():
            (folder / Path(path).name).write_bytes(contents.left(lambda: rng.random() < keep))


def moments(folder: Path, rng: random.Random, share: float, prepare: Callable[[Store], object]) -> list[Moment]:
    """Play the story once; a moment before and after each sync, and before a share of the writes."""
    story, found = Story(), []
    folder.mkdir()
    with installed() as disk:

        def look(step: str) -> None:
            if step in ("sync", "synced", "delete") or rng.random() < share:
                found.append(Moment(files=disk.snapshot(), facts=list(story.facts)))

        disk.observe = look
        with Store.open(folder / "ledger.db", GENESIS, create=True) as store:
            prepare(store)
            for step in story.steps:
                step(store)
    return found


def losses(folder: Path, rng: random.Random, found: list[Moment], keeps: tuple[float, ...] = KEEP) -> list[str]:
    """Lose the power at each of these moments, some times; what was wrong afterwards."""
    wrong = []
    for number, moment in enumerate(found):
        for keep in keeps:
            left, story = folder / f"{number} {keep}", Story()
            moment.leave(left, rng, keep)
            story.facts += moment.facts
            try:
                with installed():
                    check(left / "ledger.db", story)
            except AssertionError as exc:
                wrong.append(f"moment {number}, keep {keep}: {exc}")
    return wrong


def small_log(store: Store) -> None:
    """Checkpoints come often, so that the main file is written too."""
    store._db.rows("PRAGMA wal_autocheckpoint = 12")


def careless(store: Store) -> None:
    """As `small_log`, and nothing is ever synced."""
    small_log(store)
    store._db.rows("PRAGMA synchronous = OFF")


def test_whenever_the_power_goes_nothing_handed_out_is_lost(tmp_path: Path) -> None:
    rng = random.Random(1)
    found = moments(tmp_path / "story", rng, 0.05, small_log)
    assert len(found) > 40
    assert len({len(moment.facts) for moment in found}) > 10  # between all steps, and inside them
    assert losses(tmp_path, rng, found, (0.0, 0.6)) == []


def test_a_store_that_does_not_sync_is_noticed(tmp_path: Path) -> None:
    rng = random.Random(1)
    found = moments(tmp_path / "story", rng, 0.3, careless)
    wrong = losses(tmp_path, rng, found[-12:], (0.0,))
    assert any("lost" in text or "left" in text for text in wrong)
