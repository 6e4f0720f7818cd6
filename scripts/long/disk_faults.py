"""Fails every write, truncation and sync of a ledger's store in every way, and cuts the power at every one of them.

IO: a temporary folder, standard output.
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


def fail_each(folder: Path) -> tuple[int, int]:
    """Every call fails in every way; (how many failures, how many of them were wrong afterwards)."""
    from tests.ledger.faulty_vfs import installed
    from tests.ledger.test_disk_faults import WAYS, fail_at

    done = wrong = 0
    for how in WAYS:
        call, happened = 1, True
        with installed() as disk:
            while happened:
                try:
                    happened, _ = fail_at(disk, call, folder / f"{how} {call}", how)
                except AssertionError as exc:
                    wrong += 1
                    print(f"call {call} fails {how}: {exc}", flush=True)
                done, call = done + happened, call + 1
        print(f"{how}: every call failed in turn, {call - 2} calls", flush=True)
    return done, wrong


def lose_power(folder: Path, seeds: int) -> tuple[int, int]:
    """The power goes at every call, with other parts lost for every seed; (how many losses, how many were wrong)."""
    from tests.ledger.test_power_loss import KEEP, losses, moments, small_log

    done = wrong = 0
    for seed in range(seeds):
        rng = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=folder) as here:
            found = moments(Path(here) / "story", rng, 1.0, small_log)
            said = losses(Path(here), rng, found)
        for text in said:
            print(f"power lost, seed {seed}, {text}", flush=True)
        done, wrong = done + len(found) * len(KEEP), wrong + len(said)
    return done, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if nothing that was handed out was ever lost or contradicted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how often the power goes at each call (default: 20)")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        failures, wrong = fail_each(Path(folder))
        power_losses, lost = lose_power(Path(folder), given.seeds)
    took_s = time.monotonic() - started
    print(f"{failures} failed calls, {wrong} wrong; {power_losses} losses of power, {lost} wrong; {took_s:.0f} s")
    return 1 if wrong or lost else 0


if __name__ == "__main__":
    sys.exit(main())
