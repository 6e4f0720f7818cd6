"""Which replicas serve which stage, and how busy they are: what people are shown.

Pure: values in, fields out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peer.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Load:
    """One replica's."""

    stage: int
    """-1: none yet."""
    queue: int
    """Passes that wait or are made."""
    busy: float
    """The share of the round's time that passes took."""
    microbatch_s: float
    """What a microbatch takes it; 0: not known."""

    def fields(self, account: str) -> dict[str, Any]:
        """As `status` and the journal have it."""
        milliseconds = round(self.microbatch_s * 1000, 1)
        return {"account": account, "queue": self.queue, "busy": round(self.busy, 3), "microbatch_ms": milliseconds}


def stages_of(run: Run, loads: Mapping[str, Load]) -> list[dict[str, Any]]:
    """Of every stage its share of the work and its replicas: those with a seat in the open round, and who said so.

    Args:
        loads: by account, as far as they are known here: the leader knows all, others their own.
    """
    assert run.staged is not None
    seats = {seat.account: seat.stage for seat in (run.log.open.roster if run.log.open is not None else ())}
    seats |= {account: load.stage for account, load in loads.items() if account not in seats}
    found = []
    for stage, share in enumerate(run.staged.shares):
        serving = [account for account, seat in seats.items() if seat == stage]
        replicas = [loads[one].fields(one) if one in loads else {"account": one} for one in serving]
        kind = {"experts": True} if stage >= run.staged.needed else {}
        found.append({"stage": stage, "share": share / 1e6, "replicas": replicas, **kind})
    return found
