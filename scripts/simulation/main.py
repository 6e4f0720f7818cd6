"""Simulates training runs of up to 1,000 volunteers with home lines who come and go, on the daemon's round machines.

IO: standard output and error, and the files that the options name.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from scripts.simulation.report import LEGEND, draw, table, write
from scripts.simulation.settings import SCHEMES, Settings
from scripts.simulation.world import run

COMPARED = ("flat", "ranges")
PEERS = (10, 30, 100, 300, 1000)


def parser() -> argparse.ArgumentParser:
    """Every setting is an option."""
    made = argparse.ArgumentParser(prog="simulate", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--peers", type=int, nargs="+", default=list(PEERS), metavar="N", help="mean number online")
    made.add_argument("--scheme", choices=SCHEMES, nargs="+", default=list(COMPARED), help="how updates are combined")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw them here (.png, .svg, .pdf)")
    for field in fields(Settings):
        if field.name not in {"peers", "scheme"}:
            made.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=type(field.default),
                default=field.default,
                metavar="N",
                help="(default: %(default)s)",
            )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 2 where the settings make no sense."""
    given = vars(parser().parse_args(arguments))
    peers, schemes, json, plot = (given.pop(name) for name in ("peers", "scheme", "json", "plot"))
    try:
        wanted = [Settings(**given, peers=count, scheme=scheme) for count in peers for scheme in schemes]
    except ValueError as exc:
        print(f"simulate: {exc}", file=sys.stderr)
        return 2
    started, found = time.monotonic(), []
    for settings in wanted:
        found.append(run(settings))
        said = f"{settings.scheme}, {settings.peers} peers: {found[-1].rounds} rounds"
        print(f"[{time.monotonic() - started:6.1f} s] {said}", file=sys.stderr, flush=True)
    print(table(found))
    print(LEGEND)
    if json is not None:
        write(json, wanted[0], found)
    if plot is not None:
        draw(plot, wanted[0], found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
