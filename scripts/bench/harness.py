"""What all benchmarks share: the options, the result file with its targets, the table, the plot.

`python scripts/bench/NAME.py --json FILE [--plot FILE] [--quick] [--folder DIR]`; exit status 0 if every target is met,
1 if one is missed, 2 if nothing could be measured (without --folder the logs are gone then).

IO: standard error, and the files that the options name.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from peer.errors import ForgeError

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip
LIBRARIES = ("torch", "transformers", "hivemind")
STARTED = time.monotonic()

Target = tuple[str, float]
"""(operator, value): what a metric has to be."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every benchmark."""

    json: Path | None
    """Where to write the result."""
    plot: Path | None
    """Where to draw it."""
    quick: bool
    """A short cut: the same steps, fewer of them. Its figures are rough."""
    folder: Path
    """Homes and logs; empty."""
    more: Mapping[str, str | None]
    """Options of this benchmark alone, by name."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found."""

    name: str
    """Its file's name."""
    metrics: Mapping[str, Any]
    """Figures by their name with unit; lists are the samples behind them."""
    targets: Mapping[str, Target]
    """What some of the metrics have to be."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Where it was measured."""

    def meets(self, metric: str) -> bool:
        """Whether this metric was measured and is what it has to be."""
        sign, wanted = self.targets[metric]
        value = self.metrics.get(metric)
        return isinstance(value, int | float) and OPERATORS[sign](value, wanted)

    @property
    def ok(self) -> bool:
        """Whether all targets are met."""
        return all(self.meets(metric) for metric in self.targets)

    def encode(self) -> dict[str, Any]:
        """The result file's value."""
        return {
            "name": self.name,
            "machine": dict(self.machine),
            "metrics": dict(self.metrics),
            "targets": {metric: list(target) for metric, target in self.targets.items()},
            "ok": self.ok,
        }

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> Result:
        """What `encode` gave."""
        targets = {metric: (str(sign), float(wanted)) for metric, (sign, wanted) in value["targets"].items()}
        return cls(name=value["name"], machine=value["machine"], metrics=value["metrics"], targets=targets)


def table(results: Sequence[Result]) -> str:
    """One line per target, then the other single figures, aligned."""
    rows: list[tuple[str, ...]] = [("benchmark", "metric", "value", "wanted", "")]
    for result in results:
        for metric, (sign, wanted) in result.targets.items():
            held = "ok" if result.meets(metric) else "MISSED"
            rows.append((result.name, metric, figure(result.metrics.get(metric)), f"{sign} {wanted:g}", held))
        for metric, value in result.metrics.items():
            if metric not in result.targets and isinstance(value, int | float):
                rows.append((result.name, metric, figure(value), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def figure(value: object) -> str:
    """A value as the table shows it."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "none" if value is None else str(value)


def machine(*, quick: bool) -> dict[str, Any]:
    """Where and with what it is measured, and how busy the machine was before."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "quick": quick,
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "none"
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def write(path: Path, result: Result) -> None:
    """The result file, whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(result.encode(), indent=1) + "\n", "utf-8")
    part.replace(path)


def say(text: str) -> None:
    """A step, with the time since the start, on standard error."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def new_figure(
    path: Path, *, title: str, height: float = 4.0, width: float = 8.0, columns: int = 1
) -> Iterator[Any]:  # fmt: skip
    """Axes to draw on, or an array of so many beside each other; saved to `path` afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape, axes = pyplot.subplots(ncols=columns, figsize=(width, height), layout="constrained")
    shape.suptitle(title)
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    shape.savefig(path, dpi=120)
    pyplot.close(shape)


def colours(count: int) -> list[Any]:
    """So many colours that can be told apart."""
    from matplotlib import colormaps

    return [colormaps["tab20"](place % 20) for place in range(count)]


@contextmanager
def work_folder(given: Path | None, name: str) -> Iterator[Path]:
    """An empty folder: the one that was given, kept afterwards, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        if any(given.iterdir()):
            raise SystemExit(f"{given}: not empty; give an empty or a new folder")
        yield given.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix=f"forge-bench-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def interrupt(number: int, _frame: object) -> None:
    """SIGTERM acts like Ctrl-C, so that daemons are ended and folders removed."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(
    name: str, about: str, measure: Callable[[Options], Result], draw: Callable[[Result, Path], None],
    arguments: Sequence[str] | None = None, *, more: Mapping[str, str] | None = None,
) -> int:  # fmt: skip
    """The command line of one benchmark; returns its exit status. `more`: its own options, name → help."""
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=about)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the result here (.png, .svg, .pdf)")
    parser.add_argument("--quick", action="store_true", help="a short cut with rough figures")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep homes and logs here")
    for option, meaning in (more or {}).items():
        parser.add_argument(f"--{option}", metavar="VALUE", help=meaning)
    given = parser.parse_args(arguments)
    own = {option: getattr(given, option) for option in more or {}}
    signal.signal(signal.SIGTERM, interrupt)
    where = machine(quick=given.quick)
    with work_folder(given.folder, name) as folder:
        try:
            result = measure(Options(json=given.json, plot=given.plot, quick=given.quick, folder=folder, more=own))
        except ForgeError as exc:
            print(f"{name}: {exc} {exc.fix}".rstrip(), file=sys.stderr)
            return 2
    seconds = round(time.monotonic() - STARTED, 1)
    result = Result(
        name=name, metrics=result.metrics, targets=result.targets, machine={**where, "seconds": seconds}
    )  # fmt: skip
    if given.json is not None:
        write(given.json, result)
    if given.plot is not None:
        draw(result, given.plot)
    print(table([result]))
    return 0 if result.ok else 1
