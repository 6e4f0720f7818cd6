"""The ledger: verification against its floor, certification by four witnesses, catching up, and what idling costs.

Three parts, each a script of its own as well: `ledger_verify` (replaying everything from bytes), `ledger_certify`
(append → certified), `ledger_catch_up` (a new replica, and twenty idle ones). Each measures its floor in the same run.

IO: daemons, processes, files.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness
import ledger_catch_up
import ledger_certify
import ledger_verify
from harness import Options, Result, Target, say

TARGETS: Mapping[str, Target] = {**ledger_verify.TARGETS, **ledger_certify.TARGETS, **ledger_catch_up.TARGETS}

METS, MISSED = "tab:blue", "tab:red"


def measure(options: Options) -> Result:
    """All three parts, one after the other."""
    metrics: dict[str, Any] = {}
    say("verification …")
    metrics |= named("verify", ledger_verify.measure(options.quick))
    say("certification …")
    metrics |= named("certify", ledger_certify.measure(options.quick, options.folder))
    say("replication …")
    metrics |= named("catch_up", ledger_catch_up.measure(options.quick))
    return Result(name="ledger", metrics=metrics, targets=TARGETS)


def named(part: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A part's metrics under names that say which part they are of, where the targets have no name for them."""
    return {name if name in TARGETS or name.startswith(part) else f"{part}_{name}": found[name] for name in found}


def shares(metrics: Mapping[str, Any], targets: Mapping[str, Target]) -> dict[str, float]:
    """How much of each target is used up: below 1 it is met, whichever way it points."""
    found = {}
    for name, (sign, wanted) in targets.items():
        value = float(metrics[name])
        found[name] = value / wanted if sign == "<=" else wanted / value
    return found


def draw(result: Result, path: Path) -> None:
    """Every target, and how long single appends took."""
    used = shares(result.metrics, result.targets)
    names = list(reversed(used))
    with harness.new_figure(path, title="", columns=2, width=13.0, height=4.5) as (left, right):
        left.barh(names, [used[name] for name in names], color=[METS if used[name] <= 1 else MISSED for name in names])
        left.set_yticks(range(len(names)), [_label(result, name) for name in names], fontsize="small")
        left.axvline(1, color=MISSED, linestyle="--")
        left.set(xlim=(0, 1.1 * max(1.0, *used.values())))
        left.set_title("share of each target that is used up", fontsize="medium")
        ledger_certify.draw_on(right, result.metrics)


def _label(result: Result, name: str) -> str:
    sign, wanted = result.targets[name]
    return f"{name} {harness.figure(result.metrics[name])}\nwanted {sign} {wanted:,.6g}"


if __name__ == "__main__":
    sys.exit(harness.main("ledger", (__doc__ or "").split("\n")[0], measure, draw))
