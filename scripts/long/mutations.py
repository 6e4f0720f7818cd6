"""Mutates a real certified ledger 100,000 times on all cores and names every seed whose mutation was accepted.

IO: worker processes, SQLite files in a temporary folder, standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHOWN = 20
_bench: Any = None  # each process's own


def begin() -> None:
    """Make this process's ledger; in memory where the machine has a folder for that."""
    global _bench
    from tests.ledger.tamper.mutations import Bench

    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
    _bench = Bench(Path(folder.name)), folder


def play(seed: int) -> tuple[int, str, str, str]:
    """(seed, kind, outcome, detail); what is not as it must be has an outcome in capitals."""
    judged = _bench[0].play(seed)
    return seed, judged.kind, judged.outcome, "" if judged.good else judged.detail


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if no mutation was accepted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--count", type=int, default=100_000, help="how many mutations (default: 100000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    seeds, started, bad = range(given.first, given.first + given.count), time.monotonic(), 0
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with get_context("forkserver").Pool(given.processes, begin) as pool:
        for done, (seed, kind, outcome, detail) in enumerate(pool.imap_unordered(play, seeds, chunksize=32), 1):
            table[kind if "+" not in kind else "several"][outcome] += 1
            if outcome.isupper():
                bad += 1
                print(f"seed {seed}: {kind}: {outcome}: {detail}" if bad <= SHOWN else f"seed {seed}", flush=True)
            if done % 2000 == 0:
                print(f"{done} of {len(seeds)} mutations, {bad} bad, {time.monotonic() - started:.0f} s", flush=True)
    for kind, outcomes in sorted(table.items()):
        print(f"{kind:>16}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    whole = sum(table.values(), Counter())
    print(f"{len(seeds)} mutations from seed {given.first}: " + ", ".join(f"{n} {name}" for name, n in whole.items()))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
