"""All benchmarks one after the other, each in a process of its own, and one table of what they found.

IO: starts the benchmarks; writes results and plots into a folder if one is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import Result, say, table

NAMES = (
    "footprint", "ledger", "efficiency", "round_overhead", "recovery", "agreement", "bytes", "vs_ddp", "pipeline",
    "convergence",
)  # fmt: skip
HERE = Path(__file__).parent


def run_one(name: str, folder: Path, *, quick: bool, plots: bool) -> Result | None:
    """Run one benchmark; None if it did not get to a result."""
    result = folder / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(result)]
    command += ["--quick"] if quick else []
    command += ["--plot", str(folder / f"{name}.png")] if plots else []
    status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    if not result.exists():
        say(f"{name}: failed with status {status}")
        return None
    return Result.decode(json.loads(result.read_text("utf-8")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every benchmark met its targets."""
    parser = argparse.ArgumentParser(prog="scripts/bench/all", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a short cut with rough figures")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write NAME.json and NAME.png here")
    given = parser.parse_args(arguments)
    if unknown := sorted({*given.names} - {*NAMES}):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="forge-bench-") as temporary:
        folder = given.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for name in given.names or NAMES:
            say(f"{name} …")
            found[name] = run_one(name, folder, quick=given.quick, plots=given.out is not None)
    results = [result for result in found.values() if result is not None]
    print(table(results))
    failed = [name for name, result in found.items() if result is None]
    if failed:
        print(f"no result: {', '.join(failed)}")
    return 0 if not failed and all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
