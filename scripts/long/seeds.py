"""Plays thousands of simulated runs (`tests.sim.world`) on all cores and names every seed that breaks a rule.

IO: worker processes, standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN = 20


def play(seed: int) -> tuple[int, str, str]:
    """(seed, how the run ended, what broke)."""
    from tests.sim.world import run

    try:
        return seed, run(seed).reason, ""
    except AssertionError as exc:
        return seed, "", str(exc).splitlines()[0] if str(exc) else "assertion without words"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if no seed broke anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--count", type=int, default=10_000, help="how many seeds (default: 10000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    seeds = range(given.first, given.first + given.count)
    started, reasons, broken = time.monotonic(), Counter[str](), 0
    with get_context("forkserver").Pool(given.processes) as pool:
        for done, (seed, reason, fault) in enumerate(pool.imap_unordered(play, seeds, chunksize=16), 1):
            reasons[reason or "broken"] += 1
            if fault:
                broken += 1
                print(f"seed {seed}: {fault}" if broken <= SHOWN else f"seed {seed}", flush=True)
            if done % 1000 == 0:
                print(f"{done} of {len(seeds)} seeds, {broken} broken, {time.monotonic() - started:.0f} s", flush=True)
    ended = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    print(f"{len(seeds)} runs from seed {given.first}: {ended}")
    if broken:
        print("play one again: python -c 'from tests.sim.world import run; run(SEED)'")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
