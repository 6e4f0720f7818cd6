"""Receipts of stages that we signed: on disk before they are sent, so that the same ones are sent after a restart.

IO: a file in the run's folder.
"""

from __future__ import annotations

from ledger.entries import StageReceipt, parse
from peer.files import write_atomic
from peer.runs.run import Run

FILE = "promises.json"


def keep(run: Run, receipt: StageReceipt) -> None:
    """Keep it, in place of an older one for the same round; those before as long as the log may go back to them."""
    earlier = [known for known in kept(run) if known.round < receipt.round]
    wanted = [*earlier, receipt][-1 - run.plan.max_uncertified :]
    write_atomic(run.folder / FILE, b"\n".join(known.encode() for known in wanted))


def kept(run: Run) -> list[StageReceipt]:
    """The last ones, oldest first."""
    path = run.folder / FILE
    found = [parse(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [receipt for receipt in found if isinstance(receipt, StageReceipt)]
