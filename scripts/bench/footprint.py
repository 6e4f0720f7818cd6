"""What the tools cost when they do nothing: time of `--help`, and CPU and memory of an idle daemon.

`--help` is timed from the start of the process to its end, several times; the worse median of the two programs counts.
The daemon is idle: its network has no other peer and no run, and its first measurement of the machine is over. CPU is
that of the daemon and everything it started, over the whole interval, as a share of one core. Memory is the sum of
their resident sets, in which pages shared between them count twice; the proportional sum (PSS) stands beside it. The
floors, measured in the same run: a Python that only imports click, and one that only imports hivemind.

IO: processes of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import cluster
import harness
import psutil
from harness import Options, Result, say

from peer.demo.peers import program

COMMANDS = {
    "forge-peer --help": ("forge-peer", "--help"),
    "forge-ledger verify --help": ("forge-ledger", "verify", "--help"),
}
FULL_RUNS, QUICK_RUNS = 11, 3
FULL_IDLE_S, QUICK_IDLE_S = 30.0, 4.0
SETTLING_S = 10.0
MIB = 1 << 20
IMPORTS = """
import hivemind, os, pathlib, re
print(re.search(r"VmRSS:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


def seconds(command: Sequence[str]) -> float:
    """How long a command takes that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def console(name: str, *words: str) -> list[str]:
    """The command line of a console script, without the leash of the demo."""
    return [*program(name)[4:], *words]


def time_help(runs: int) -> dict[str, list[float]]:
    """Seconds of each command's runs, and of the floor's, taken in turn after one run that fills the caches."""
    commands = {text: console(*words) for text, words in COMMANDS.items()}
    commands["python -c 'import click'"] = [sys.executable, "-c", "import click"]
    taken: dict[str, list[float]] = {text: [] for text in commands}
    for turn in range(runs + 1):
        for text, command in commands.items():
            one = seconds(command)
            if turn:
                taken[text].append(one)
    return taken


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started and that still runs."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """CPU time of these, and of their children that have ended."""
    total = 0.0
    for process in processes:
        used = process.cpu_times()
        total += used.user + used.system
    first = processes[0].cpu_times()
    return total + getattr(first, "children_user", 0.0) + getattr(first, "children_system", 0.0)


def memory(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Resident and proportional memory of these, in MiB, summed."""
    infos = [process.memory_full_info() for process in processes]
    return {
        "idle_rss_mb": round(sum(info.rss for info in infos) / MIB, 1),
        "idle_pss_mb": round(sum(getattr(info, "pss", info.rss) for info in infos) / MIB, 1),
    }


def watch_idle(peer: cluster.Peer, idle_s: float) -> dict[str, object]:
    """CPU and memory of a daemon over an interval."""
    assert peer.process is not None
    processes = family(peer.process.pid)
    before, started = cpu_seconds(processes), time.monotonic()
    time.sleep(idle_s)
    peer.must_run()
    after, elapsed = family(peer.process.pid), time.monotonic() - started
    return {
        "idle_cpu_percent": round(100 * (cpu_seconds(after) - before) / elapsed, 2),
        **memory(after),
        "idle_s": round(elapsed, 1),
        "processes": len(after),
        "rss_by_process": {f"{one.name()}": round(one.memory_info().rss / MIB, 1) for one in after},
    }


def import_rss_mb() -> float:
    """Resident memory of a Python that has imported hivemind and nothing else, in MiB."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    return round(int(done.stdout) / 1024, 1)


def measure(options: Options) -> Result:
    """The programs' help, then the daemon."""
    runs, idle_s = (QUICK_RUNS, QUICK_IDLE_S) if options.quick else (FULL_RUNS, FULL_IDLE_S)
    taken = time_help(runs)
    medians = {text: round(median(times), 4) for text, times in taken.items()}
    say(", ".join(f"{text} {one:.3f} s" for text, one in medians.items()))
    with cluster.cluster(options.folder, 1, threads=[os.cpu_count() or 1]) as peers:
        time.sleep(0.0 if options.quick else SETTLING_S)
        idle = watch_idle(peers[0], idle_s)
    metrics = {
        "help_s": max(medians[text] for text in COMMANDS),
        **idle,
        "floor_import_click_s": medians["python -c 'import click'"],
        "floor_import_hivemind_mb": import_rss_mb(),
        "help_medians_s": medians,
        "help_runs_s": {text: [round(one, 4) for one in times] for text, times in taken.items()},
    }
    targets = {"help_s": ("<", 0.3), "idle_cpu_percent": ("<", 3.0), "idle_rss_mb": ("<=", 500.0)}
    return Result(name="footprint", metrics=metrics, targets=targets)


def draw(result: Result, path: Path) -> None:
    """Every run of the programs' help."""
    runs = result.metrics["help_runs_s"]
    idle = f"idle daemon: {result.metrics['idle_cpu_percent']} % of a core, {result.metrics['idle_rss_mb']} MiB"
    with harness.new_figure(path, title=idle, height=3.0) as axes:
        axes.boxplot(list(runs.values()), orientation="horizontal", tick_labels=list(runs))
        axes.axvline(0.3, color="tab:red", linestyle="--", label="target")
        axes.set(xlabel="s", xlim=(0, None))
        axes.legend()


if __name__ == "__main__":
    sys.exit(harness.main("footprint", (__doc__ or "").split("\n")[0], measure, draw))
