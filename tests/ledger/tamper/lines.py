"""Certificates with lines of any kind, and the checks that verifier and replica refuse certificates and entries.

IO: through the ledger under test.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ledger import notes
from ledger.entries import Entry
from ledger.errors import EntryInvalid, LedgerError, QuorumMissing
from ledger.fold.fold import conservation
from ledger.keys import PrivateKey
from ledger.notes import Signature
from ledger.store.store import Store
from tests.ledger.world import NOW

from .kit import DATA, RUN_LOG, Ledger, certificate

SIZE = len(DATA[RUN_LOG])
PLACE = f"certificate at {SIZE}"


def with_lines(note: bytes, *lines: bytes) -> bytes:
    """The note with these lines after its own, whatever they are."""
    return note + b"".join(lines)


def line(name: str, key: PrivateKey, note: bytes, time_s: int = NOW, key_id: bytes | None = None) -> bytes:
    """A cosignature line, under another key id where one is given."""
    whole = notes.cosign(note, name, key, time_s)
    found = notes.parse(note + whole).signatures[-1]
    return Signature(name=name, key_id=found.key_id if key_id is None else key_id, blob=found.blob).line()


def refused(
    ledger: Ledger, replica: Store, whole: bytes, match: str, error: type[LedgerError] = QuorumMissing,
    origin: str = RUN_LOG,
) -> None:  # fmt: skip
    """The verifier names the certificate of the log and no replica takes it."""
    ledger.set_note(origin, whole)
    fault = ledger.fault()
    assert (fault.origin, fault.entry, fault.rule) == (origin, None, f"certificate at {len(DATA[origin])}")
    assert match in fault.got
    assert ledger.report().ledger.decided.get(origin, 0) == 0  # so nothing of it counts
    with pytest.raises(error, match=match):
        replica.accept(origin, 0, DATA[origin], whole)
    assert replica.origins() == []


def named(
    ledger: Ledger, replica: Store, log: Sequence[Entry], rule: str, index: int | None = None, origin: str = RUN_LOG
) -> None:
    """A run's log, signed by all, is refused at its last entry (or `index`) by the verifier and by any replica."""
    index = len(log) - 1 if index is None else index
    ledger.forge(origin, log)
    fault = ledger.fault()
    assert (fault.origin, fault.entry, fault.rule) == (origin, index, rule)
    assert conservation(ledger.report().ledger)
    with pytest.raises(EntryInvalid) as caught:
        replica.accept(origin, 0, [entry.encode() for entry in log], certificate(origin, log))
    assert (caught.value.index, caught.value.rule) == (index, rule)
    assert replica.origins() == []
