"""Plays thousands of simulated worlds on all cores and names every seed that breaks a rule.

`runs` are training runs (`tests.sim.world`), `stages` are runs with stages (`tests.sim.stages_world`); `witnesses` and
`replicas` are networks of those, in `tests.sim.ledger_witnesses` and `tests.sim.ledger_replicas_stores`.

IO: worker processes, SQLite files in a temporary folder, standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN = 20
"""Seeds whose fault is told, too."""
EVERY = 500
"""Seeds between two lines of progress."""

Events = Mapping[str, int]
"""What happened, and how often."""
Played = tuple[int, Events, str]
"""Seed, what happened, and what broke or ""."""


def play_run(seed: int, folder: Path) -> Events:
    """One training run."""
    from tests.sim.world import run

    return {run(seed).reason: 1}


def play_witnesses(seed: int, folder: Path) -> Events:
    """One network of witnesses."""
    from tests.sim.ledger_witnesses import run

    return run(seed)


def play_replicas(seed: int, folder: Path) -> Events:
    """One network of replicas."""
    from tests.sim.ledger_replicas_stores import run

    return run(seed, folder)


def play_stages(seed: int, folder: Path) -> Events:
    """One run with stages."""
    from tests.sim.stages_world import run

    return run(seed).reports


WORLDS: Mapping[str, tuple[Callable[[int, Path], Events], str]] = {
    "runs": (play_run, "from tests.sim.world import run; run(SEED)"),
    "stages": (play_stages, "from tests.sim.stages_world import run; run(SEED)"),
    "witnesses": (play_witnesses, "from tests.sim.ledger_witnesses import run; run(SEED)"),
    "replicas": (play_replicas, "from tests.sim.ledger_replicas_stores import run; run(SEED, FOLDER)"),
}
"""How each world is played, and how one seed of it is played again."""


def play(seed: int, *, world: str, folder: Path) -> Played:
    """One seed in a worker process."""
    try:
        return seed, WORLDS[world][0](seed, folder), ""
    except AssertionError as exc:
        return seed, {}, str(exc).splitlines()[0][:400] if str(exc) else "assertion without words"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if no seed broke anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--count", type=int, default=10_000, help="how many seeds (default: 10000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    seeds = range(given.first, given.first + given.count)
    started, happened, broken = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder, get_context("forkserver").Pool(given.processes) as pool:
        work = partial(play, world=given.world, folder=Path(folder))
        for done, (seed, events, fault) in enumerate(pool.imap_unordered(work, seeds, chunksize=8), 1):
            happened.update(events)
            if fault:
                broken += 1
                print(f"seed {seed}: {fault}" if broken <= SHOWN else f"seed {seed}", flush=True)
            if done % EVERY == 0:
                print(f"{done} of {len(seeds)} seeds, {broken} broken, {time.monotonic() - started:.0f} s", flush=True)
    for name, count in happened.most_common():
        print(f"{count:>12,}  {name}")
    print(f"{given.world}, {len(seeds)} seeds from {given.first}: {broken} broken")
    if broken:
        print(f"play one again: python -c '{WORLDS[given.world][1]}'")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
