"""What the simulations found: a table, a result file, a plot.

IO: the files named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.bench.harness import colours, new_figure
from scripts.simulation.settings import SCHEMES, Settings
from scripts.simulation.tally import Figures

Column = tuple[str, Callable[[Figures], str]]
COLUMNS: tuple[Column, ...] = (
    ("scheme", lambda f: f.scheme),
    ("peers", lambda f: str(f.peers)),
    ("rounds/h", lambda f: f"{f.rounds_per_hour:.1f}"),
    ("round s", lambda f: f"{f.round_median_s:.0f}"),
    ("p95 s", lambda f: f"{f.round_p95_s:.0f}"),
    ("start s", lambda f: f"{f.started_s:.0f}"),
    ("cut s", lambda f: f"{f.cut_s:.0f}"),
    ("settled", lambda f: f"{f.settled_per_round:.1f}"),
    ("lost", lambda f: f"{f.dropped_per_round:.1f}"),
    ("training", lambda f: f"{f.utilisation:.0%}"),
    ("of speeds", lambda f: f"{f.efficiency:.0%}"),
    ("Mtok/h", lambda f: f"{f.tokens_per_hour / 1e6:,.0f}"),
    ("MB/h up", lambda f: f"{f.member_up_mb_per_hour:,.0f}"),
    ("MB/h down", lambda f: f"{f.member_down_mb_per_hour:,.0f}"),
    ("leader up", lambda f: f"{f.leader_up_mb_per_hour:,.0f}"),
    ("leader down", lambda f: f"{f.leader_down_mb_per_hour:,.0f}"),
    ("load", lambda f: f"{f.leader_load:.0%}"),
    ("calls/s", lambda f: f"{f.leader_calls_per_s:.0f}"),
    ("beats Mbit/s", lambda f: f"{f.beats_mbit:.1f}"),
    ("open B", lambda f: f"{f.open_entry_bytes:,}"),
)
LEGEND = """\
round s, p95 s: from settle to settle · start s: from the open to a first step, median · cut s: from the open to
the cut, median · settled: receipts that counted, a round · lost: members of the roster that went, a round · training:
share of their time online that peers train · of speeds: tokens settled over what all online could have trained · MB/h:
of one member · leader up, down: MB/h · load: of the leader's line or processor; above 100% it would fall over, and the
line is too good · calls/s, beats: of the leader · open B: longest open entry, of 16,384 at most"""

PANELS: tuple[tuple[str, Callable[[Figures], float]], ...] = (
    ("tokens settled, of all peers' speed", lambda f: f.efficiency),
    ("rounds an hour", lambda f: f.rounds_per_hour),
    ("down, MB an hour and member", lambda f: f.member_down_mb_per_hour),
)


def table(found: Sequence[Figures]) -> str:
    """One line for each run, aligned."""
    rows = [tuple(name for name, _ in COLUMNS), *(tuple(show(figures) for _, show in COLUMNS) for figures in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write(path: Path, settings: Settings, found: Sequence[Figures]) -> None:
    """The result file: the settings that all runs had, and the figures of each."""
    shared = {name: value for name, value in asdict(settings).items() if name not in {"peers", "scheme"}}
    shared["online_hours"] = str(shared["online_hours"])  # JSON has no infinity
    value: dict[str, Any] = {"name": "simulate", "settings": shared, "runs": [figures.encode() for figures in found]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def draw(path: Path, settings: Settings, found: Sequence[Figures]) -> None:
    """All schemes over the number of peers."""
    title = (
        f"{settings.parameters / 1e6:.0f}M parameters, {settings.time_budget_s:.0f} s of training a round, "
        f"updates of {settings.update_bytes / 1e6:.1f} MB, home lines, seed {settings.seed}"
    )
    with new_figure(path, title=title, width=13.0, columns=len(PANELS)) as axes:
        for axis, (name, value) in zip(axes, PANELS, strict=True):
            for scheme, colour in zip(SCHEMES, colours(2 * len(SCHEMES))[::2], strict=True):
                runs = sorted((f for f in found if f.scheme == scheme), key=lambda f: f.peers)
                if runs:
                    axis.plot([f.peers for f in runs], [value(f) for f in runs], "o-", color=colour, label=scheme)
            axis.set(title=name, xlabel="peers online", xscale="log", ylim=(0, None))
            axis.grid(alpha=0.3)
            counts = sorted({f.peers for f in found})
            axis.set_xticks(counts, labels=[str(count) for count in counts])
            axis.minorticks_off()
        axes[0].legend()
