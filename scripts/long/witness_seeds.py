"""Plays thousands of simulated networks of witnesses (tests.sim.ledger_witnesses); names each seed that breaks a rule.

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


def play(seed: int) -> tuple[int, dict[str, int], str]:
    """(seed, what happened how often, what broke)."""
    from tests.sim.ledger_witnesses import run

    try:
        return seed, run(seed), ""
    except AssertionError as exc:
        return seed, {}, str(exc).splitlines()[0] if str(exc) else "assertion without words"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if no seed broke anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--count", type=int, default=10_000, help="how many seeds (default: 10000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    seeds = range(given.first, given.first + given.count)
    started, happened, broken = time.monotonic(), Counter[str](), []
    with get_context("forkserver").Pool(given.processes) as pool:
        for done, (seed, events, fault) in enumerate(pool.imap_unordered(play, seeds, chunksize=8), 1):
            happened.update(events)
            if fault:
                broken.append(seed)
                print(f"seed {seed}: {fault}" if len(broken) <= SHOWN else f"seed {seed}", flush=True)
            if done % 500 == 0:
                took_s = time.monotonic() - started
                print(f"{done} of {len(seeds)} seeds, {len(broken)} broken, {took_s:.0f} s", flush=True)
    for name, count in sorted(happened.items()):
        print(f"{count:>12,}  {name}")
    print(f"{len(seeds)} networks from seed {given.first}: {len(broken)} broken")
    if broken:
        print("play one again: python -c 'from tests.sim.ledger_witnesses import run; run(SEED)'")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
