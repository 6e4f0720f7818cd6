"""Feeds everything in `ledger` that reads bytes of strangers with awkward ones, for minutes, on all cores.

With atheris installed (`pip install atheris`; not needed) inputs are guided by coverage, else made by a mutator that
knows the grammars. Every input that brings out anything but a `LedgerError`, or too much memory, is written to a file.

IO: worker processes, a temporary folder, standard output, a file per finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY_EVERY = 50
"""Memory is measured for one input in so many."""
ARCHIVES = "archive"


def found(name: str, data: bytes, wrong: str, out: Path) -> str:
    """Keep an input that something is wrong with."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}-{sha256(data).hexdigest()[:16]}"
    file.write_bytes(data)
    return f"{name}: {wrong} ({file})"


def fuzz(number: int, first: int, seconds: float, out: Path) -> tuple[dict[str, int], list[str]]:
    """One process of ours: inputs tried by parser, and what was wrong."""
    from tests.ledger.tamper.parsers import archives, judge, mutate, parsers

    tried, wrongs, until = Counter[str](), list[str](), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        all_of_them, imports = parsers(Path(folder)), archives(Path(folder), Random(first + number))
        seed = first + number
        while time.monotonic() < until:
            seed += 1009
            for parser in all_of_them:
                data = mutate(Random(seed), parser)
                try:
                    wrong = judge(parser, data, memory=seed % MEMORY_EVERY == 0)
                except AssertionError as exc:
                    wrong = str(exc)
                tried[parser.name] += 1
                if wrong:
                    wrongs.append(found(parser.name, data, wrong, out))
            if seed % 20 == 0:
                tried[ARCHIVES] += 1
                wrong = next(imports)
                if wrong:
                    wrongs.append(f"{ARCHIVES}: {wrong}; process {number}, first seed {first}")
    return tried, wrongs


def guided(name: str, seconds: float, out: Path) -> None:
    """This process is atheris's, for one parser; it ends the process."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["ledger"]):
        from tests.ledger.tamper.parsers import judge, parsers
    folder = tempfile.mkdtemp()
    [parser] = [one for one in parsers(Path(folder)) if one.name == name]
    corpus = Path(folder) / "corpus"
    corpus.mkdir()
    for index, data in enumerate(parser.corpus):
        (corpus / str(index)).write_bytes(data)

    def one(data: bytes) -> None:
        wrong = judge(parser, data)
        if wrong:
            raise RuntimeError(found(name, data, wrong, out))

    arguments = [f"-max_total_time={seconds:.0f}", "-rss_limit_mb=2048", "-timeout=10", "-max_len=20000"]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one)
    atheris.Fuzz()


def all_guided(seconds: float, processes: int, out: Path) -> int:
    """Atheris on every parser in turn, several at once; how many found something."""
    from tests.ledger.tamper.parsers import parsers

    with tempfile.TemporaryDirectory() as folder:
        names = [parser.name for parser in parsers(Path(folder))]
    share = seconds * processes / len(names)
    bad, running = 0, dict[str, subprocess.Popen[bytes]]()
    while names or running:
        while names and len(running) < processes:
            name = names.pop()
            command = [sys.executable, __file__, "--guided", name, "--seconds", str(share), "--out", str(out)]
            running[name] = subprocess.Popen(command, cwd=ROOT)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            status = running.pop(name).returncode
            bad += status != 0
            print(f"{name}: {'something is wrong, see above' if status else 'held'}", flush=True)
        time.sleep(0.5)
    return bad


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (default: 300)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=0, help="first seed of our own mutator (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "fuzz", help="where findings are written")
    parser.add_argument("--engine", choices=["auto", "own", "atheris"], default="auto")
    parser.add_argument("--guided", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    if given.guided:
        guided(given.guided, given.seconds, given.out)
    there = importlib.util.find_spec("atheris") is not None
    seconds, bad = given.seconds, 0
    if given.engine == "atheris" or (given.engine == "auto" and there):
        seconds /= 2 if given.engine == "auto" else 1
        bad += all_guided(seconds, given.processes, given.out)
    if given.engine == "atheris":
        return 1 if bad else 0
    tried, wrongs = Counter[str](), list[str]()
    with get_context("forkserver").Pool(given.processes) as pool:
        tasks: list[Any] = [(number, given.first, seconds, given.out) for number in range(given.processes)]
        for counts, lines in pool.starmap(fuzz, tasks):
            tried.update(counts)
            wrongs += lines
    for line in wrongs[:40]:
        print(line)
    print(", ".join(f"{count} × {name}" for name, count in tried.items()))
    print(f"{sum(tried.values())} inputs from seed {given.first}, {len(wrongs)} found something")
    return 1 if bad or wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
