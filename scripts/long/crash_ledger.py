"""Kills a writing peer and a writing witness with SIGKILL again and again, and checks their stores each time.

No key may contradict what it published, no promise may be lost, no store may be unreadable.

IO: processes, a temporary folder, standard output.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if no kill broke anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how often each is killed (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="decides how long each one lives")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    from tests.ledger.test_crash import kill_at_random

    broken = 0
    for role in ("peer", "witness"):
        rng, started = random.Random(given.seed), time.monotonic()
        for first in range(0, given.kills, 50):  # a new store now and then: verifying an old one takes its time
            kills = min(50, given.kills - first)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    published = kill_at_random(Path(folder) / "ledger.db", role, kills, rng)
                except AssertionError as exc:
                    broken += 1
                    print(f"{role}, kills {first}..{first + kills - 1}, seed {given.seed}: {exc}", flush=True)
                    continue
            took_s = time.monotonic() - started
            print(f"{role}: killed {first + kills} times, {published:,} heads since the last line, {took_s:.0f} s")
    print(f"{given.kills} kills each of a peer and a witness: {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
