"""A store as the replica machine sees it, from both sides: what it answers to peers, and what it takes from them.

IO: the store it is given.
"""

from collections.abc import Collection, Iterable

from ledger.errors import Behind, LedgerError, SelfFork, StoreBusy, StoreUnreadable
from ledger.evidence import Evidence
from ledger.store.store import Store

from .values import (
    ANSWER_BYTES,
    BUNDLE,
    HEADS,
    Accusation,
    Entries,
    EntriesOf,
    Fact,
    Heads,
    HeadsSince,
    Take,
    TakeEvidence,
)

ITEMS = 4
"""The most pieces of evidence about one log in an answer; one is enough."""


def heads_since(store: Store, request: HeadsSince, most: int = HEADS) -> Heads:
    """What changed since; a cursor of another store counts as 0."""
    instance = store.instance()
    found = store.changes(request.cursor if request.instance == instance else 0, most)
    return Heads(instance=instance, cursor=found.cursor, heads=found.heads, evidence=found.evidence)


def entries_of(store: Store, request: EntriesOf, answer_bytes: int = ANSWER_BYTES) -> Entries:
    """Entries as asked, as many as an answer holds, and the proof that they lead to the certificate.

    Raises:
        Behind: so much of the log is not certified here.
    """
    certificate = store.certified(request.origin)
    if certificate is None or request.start > certificate.size:
        size = certificate.size if certificate else 0
        raise Behind(size, f"{request.origin[:200]}: {size} certified entries are here, asked from {request.start}")
    end, entries = min(request.end, certificate.size), list[bytes]()
    room, edge = answer_bytes, 0
    while room > 0 and (at := request.start + len(entries)) < end:
        for data in store.entries(request.origin, at, min(at // BUNDLE * BUNDLE + BUNDLE, end)):
            room -= len(data) + 2
            if room < 0:
                break
            entries.append(data)
        else:
            edge = len(entries) if room <= answer_bytes // 2 else 0
    if request.start + len(entries) < end and edge:
        del entries[edge:]  # whole bundles where at least half of what may be sent is
    end = request.start + len(entries)
    proof = store.consistency(request.origin, end, certificate.size) if end < certificate.size else []
    return Entries(
        entries=tuple(entries), size=certificate.size, certificate=certificate.note, proof=tuple(proof)
    )


def evidence_of(store: Store, origin: str) -> Accusation:
    """The evidence against the owner of a log."""
    return Accusation(items=tuple(evidence.encode() for evidence in store.evidence(origin)[:ITEMS]))


def facts(store: Store, origins: Iterable[str], follows: Collection[str] = ()) -> dict[str, Fact]:
    """What the store knows of logs; those that cannot be of this network are left out."""
    return {origin: fact(store, origin, follows) for origin in origins if _ours(store, origin)}


def fact(store: Store, origin: str, follows: Collection[str] = ()) -> Fact:
    """What the store knows of one log of this network."""
    have, certified, accused = store.known(origin)
    worth = origin in follows or store.is_referenced(origin)
    return Fact(have=have, certified=certified, worth=worth, accused=accused)


def take(store: Store, taken: Take | TakeEvidence) -> tuple[str, bool]:
    """Check and store; why it was refused, or empty, and whether whoever sent it is to blame.

    Raises:
        StoreUnreadable, StoreBusy: our own disk cannot.
    """
    try:
        if isinstance(taken, Take):
            store.accept(taken.origin, taken.start, taken.entries, taken.certificate, taken.proof)
        else:
            for item in taken.items:
                store.add_evidence(Evidence.parse(item))
    except (StoreUnreadable, StoreBusy):
        raise
    except LedgerError as exc:
        return str(exc), not isinstance(exc, SelfFork)
    return "", False


def _ours(store: Store, origin: str) -> bool:
    try:
        store.genesis.terms.owner(origin)
    except LedgerError:
        return False
    return True
