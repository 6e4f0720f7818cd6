"""Whether the evidence stored about a log proves what it claims, checked as a stranger would.

IO: reads through the database it is given.
"""

from typing import NamedTuple

from ledger import evidence
from ledger.errors import EvidenceInvalid
from ledger.evidence import Evidence
from ledger.genesis import Genesis
from ledger.store.database import Database

from .report import Fault

WITNESSES = "witnesses"
"""The culprit where more than f witnesses cosigned both heads."""


class Accused(NamedTuple):
    """What the evidence about a log shows."""

    frozen: bool = False
    """A writer contradicted itself."""
    split: bool = False
    """More than f witnesses contradicted themselves."""
    fault: Fault | None = None
    """The first evidence that proves nothing."""


def accused(database: Database, genesis: Genesis, origin: str, row: int) -> Accused:
    """Check all evidence about a log."""
    frozen = split = False
    for culprit, data in database.rows("SELECT culprit, data FROM evidence WHERE log = ? ORDER BY culprit", row):
        try:
            found = Evidence.parse(data if isinstance(data, bytes) else b"")
            if culprit == WITNESSES:
                about = evidence.verify_split(found, genesis)[0], WITNESSES
                split = True
            else:
                about = evidence.verify(found, genesis.terms)
                frozen = True
        except EvidenceInvalid as exc:
            got, wanted = exc.message, "two heads that contradict each other"
            return Accused(frozen, split, Fault(origin=origin, entry=None, rule="evidence", got=got, wanted=wanted))
        if about != (origin, culprit):
            got, wanted = f"about {about[0]} by {about[1]}", f"about this log by {culprit}"
            return Accused(frozen, split, Fault(origin=origin, entry=None, rule="evidence", got=got, wanted=wanted))
    return Accused(frozen, split)
