"""Plays thousands of simulated networks of replicas (tests.sim.ledger_replicas); names each seed that breaks a promise.

IO: worker processes, SQLite files in a temporary folder, standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN = 20


def play(seed: int, folder: Path) -> tuple[int, dict[str, int], str]:
    """(seed, what happened how often, what broke)."""
    from tests.sim.ledger_replicas_stores import run

    try:
        return seed, run(seed, folder), ""
    except AssertionError as exc:
        return seed, {}, str(exc).splitlines()[0][:400] if str(exc) else "assertion without words"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if no seed broke anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--count", type=int, default=5000, help="how many seeds (default: 5000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    seeds = range(given.first, given.first + given.count)
    started, happened, broken = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder, get_context("forkserver").Pool(given.processes) as pool:
        work = partial(play, folder=Path(folder))
        for done, (seed, events, fault) in enumerate(pool.imap_unordered(work, seeds, chunksize=8), 1):
            happened.update(events)
            if fault:
                broken += 1
                print(f"seed {seed}: {fault}" if broken <= SHOWN else f"seed {seed}", flush=True)
            if done % 500 == 0:
                took_s = time.monotonic() - started
                print(f"{done} of {len(seeds)} seeds, {broken} broken, {took_s:.0f} s", flush=True)
    for name, count in sorted(happened.items()):
        print(f"{count:>12,}  {name}")
    print(f"{len(seeds)} networks from seed {given.first}: {broken} broken")
    if broken:
        print("play one again: python -c 'from tests.sim.ledger_replicas_stores import run; run(SEED, FOLDER)'")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
