"""Verification of a large ledger beside its floor: the same signatures, hashes and strict parses and nothing else.

A ledger of 1,000,000 entries in 1,000 logs, 100,000 of them signed receipts, is verified by as many processes as the
machine runs at once. The floor is measured in turns with it: that many processes do the Ed25519 verifications, the
SHA-256 leaf hashes and the strict parses of the same entries, which lie in their memory. Memory is the highest sum over
all processes of the verification, shared pages counted once; its growth is that from a tenth of the entries.

IO: starts processes; writes files in one folder.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median

import harness
import psutil
from harness import Options, Result, say

from ledger import keys, notes
from ledger.codec import encode
from ledger.entries import Begin, Receipt, parse
from ledger.genesis import Genesis
from ledger.merkle import leaf_hash
from ledger.receipt import CONTEXT
from ledger.store.database import HEADS, Database
from ledger.verify.verify import verify_store

HERE = Path(__file__)
FULL, QUICK = (1_000_000, 1000, 5), (10_000, 20, 1)
"""Entries, logs, turns."""
SAMPLE_S = 0.05
TARGETS = {"verify_over_floor": ("<=", 1.5), "memory_mb": ("<=", 500.0), "memory_growth": ("<=", 1.3)}
Check = tuple[str, bytes, bytes]
"""A signature to verify: public key, message, signature."""


def cores() -> int:
    """How many processes the machine runs at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# What runs in processes of their own


def signatures(database: Database, genesis: Genesis, origin: str, row: int) -> Iterator[Check]:
    """All signatures on the heads of a log."""
    names, writers = dict(genesis.witnesses), _writers(database, origin, row)
    for table in HEADS:
        head = database.head(table, row)
        if head is None:
            continue
        note = notes.parse(head.note)
        for line in note.signatures:
            if line.name in names:
                time_s = int.from_bytes(line.blob[:8], "big")
                yield names[line.name], f"cosignature/v1\ntime {time_s}\n{note.text}".encode(), line.blob[8:]
            else:
                [writer] = [key for key in writers if notes.log_key_id(origin, key) == line.key_id]
                yield writer, note.text.encode(), line.blob


def _writers(database: Database, origin: str, row: int) -> tuple[str, ...]:
    if "/run/" not in origin:
        return (origin[-64:],)
    begin = parse(database.entries(row, 0, 1)[0][2])
    assert isinstance(begin, Begin)
    return begin.leaders


def floor(store: Path, network: Path, place: int, processes: int) -> None:
    """One share of the floor: read it all into memory, wait for a line, do the work."""
    genesis, database = Genesis.parse(network.read_bytes()), Database.open(store, read_only=True)
    entries: list[bytes] = []
    checks: list[Check] = []
    numbers, turns = count(), count()
    for origin, row in database.logs().items():
        checks += [check for check in signatures(database, genesis, origin, row) if next(turns) % processes == place]
        entries += [data for *_, data in database.each_entry(row, 0, 2**53) if next(numbers) % processes == place]
    for data in entries:
        if b'"type":"receipt"' in data:
            receipt = parse(data)
            assert isinstance(receipt, Receipt)
            body = receipt.to_json()
            del body["signature"]
            checks.append((receipt.account, CONTEXT + encode(body), bytes.fromhex(receipt.signature)))
    for check in {check[0]: check for check in checks}.values():
        keys.verify(*check)  # keys are loaded once, as in the verification
    gc.disable()  # as in the verification's processes
    gc.collect()
    print(len(checks), flush=True)
    sys.stdin.readline()
    for data in entries:
        leaf_hash(data)
        parse(data)
    for check in checks:
        keys.verify(*check)
    print("done", flush=True)


def verify(store: Path, network: Path, processes: int) -> None:
    """One verification; prints how long it took."""
    genesis = Genesis.parse(network.read_bytes())
    started = time.perf_counter()
    report = verify_store(store, genesis, processes=processes)
    print(json.dumps({"s": time.perf_counter() - started, "ok": report.ok, **report.counts}), flush=True)


# What measures


def command(*arguments: object) -> list[str]:
    """The command line of a process of this program."""
    return [sys.executable, str(HERE), *map(str, arguments)]


def floor_s(store: Path, network: Path, processes: int) -> float:
    """How long the floor takes."""
    started = [
        subprocess.Popen(
            command("floor", store, network, place, processes), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for place in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        begin = time.perf_counter()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "done\n":
                raise RuntimeError("a process of the floor failed")
        return time.perf_counter() - begin
    finally:
        for process in started:
            process.kill()
            process.communicate()


def memory(process: psutil.Process) -> int:
    """Bytes of a process and its children, shared pages counted once where the system tells."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            full = one.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except psutil.Error:
            continue  # it ended meanwhile
    return total


def verify_s(store: Path, network: Path, processes: int, *, watched: bool = False) -> tuple[float, dict[str, int], int]:
    """How long a verification takes, what it counted, and its highest memory in bytes if it is watched."""
    arguments = command("verify", store, network, processes)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as running:
        most = 0
        while watched:
            try:
                running.wait(SAMPLE_S)
                break
            except subprocess.TimeoutExpired:
                most = max(most, memory(psutil.Process(running.pid)))
        told = json.loads(running.communicate()[0])
    if not told.pop("ok"):
        raise RuntimeError(f"{store}: the ledger that was made is not sound")
    return told.pop("s"), told, most


def made(folder: Path, entries: int, logs: int) -> tuple[Path, Path]:
    """A ledger of this size and its network file."""
    store, network = folder / f"{entries}.db", folder / f"{entries}.json"
    if not store.exists():
        say(f"making {entries:,} entries in {logs} logs")
        maker = HERE.with_name("ledger_made.py")
        subprocess.run([sys.executable, str(maker), str(store), str(network), str(entries), str(logs)], check=True)
    return store, network


def figures(folder: Path, *, quick: bool) -> dict[str, float]:
    """Everything measured in this folder."""
    entries, logs, turns = QUICK if quick else FULL
    processes = cores()
    tenth = made(folder, entries // 10, logs)
    store, network = made(folder, entries, logs)
    floors, verifies = [], []
    for turn in range(turns):
        floors.append(floor_s(store, network, processes))
        seconds, counts, _ = verify_s(store, network, processes)
        verifies.append(seconds)
        say(f"turn {turn + 1}: floor {floors[-1]:.2f} s, verify {seconds:.2f} s of {counts['entries']:,} entries")
    small, large = (verify_s(*place, processes, watched=True)[2] for place in (tenth, (store, network)))
    say(f"memory {small / 1e6:.0f} MB with a tenth of the entries, {large / 1e6:.0f} MB with all")
    return {
        "verify_over_floor": median(verifies) / median(floors),
        "verify_s": median(verifies),
        "floor_s": median(floors),
        "verify_entries_per_s": counts["entries"] / median(verifies),
        "memory_mb": large / 1e6,
        "memory_tenth_mb": small / 1e6,
        "memory_growth": large / small,
        "entries": counts["entries"],
        "logs": counts["logs"],
        "receipts": counts["receipts"],
        "processes": processes,
    }


def measure(quick: bool) -> dict[str, float]:
    """The figures, from ledgers made for it in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="forge-bench-verify-") as folder:
        return figures(Path(folder), quick=quick)


def run(options: Options) -> Result:
    """As a benchmark of its own."""
    return Result(name="ledger_verify", metrics=figures(options.folder, quick=options.quick), targets=TARGETS)


def draw(result: Result, path: Path) -> None:
    """The verification beside its floor."""
    metrics = result.metrics
    title = f"verify of {metrics['entries']:,} entries: {metrics['verify_over_floor']:.2f} × the floor"
    with harness.new_figure(path, title=title, height=2.2) as axes:
        axes.barh(["verify", "floor"], [metrics["verify_s"], metrics["floor_s"]], color=["tab:blue", "tab:gray"])
        axes.set(xlabel="seconds")


if __name__ == "__main__":
    if sys.argv[1:2] == ["floor"]:
        floor(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    elif sys.argv[1:2] == ["verify"]:
        verify(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(harness.main("ledger_verify", (__doc__ or "").split("\n")[0], run, draw))
