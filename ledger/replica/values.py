"""What the replica machine asks of peers, is answered, and wants done.

Pure: values only.
"""

from dataclasses import dataclass

BUNDLE = 256
"""Entries of a bundle, as in tlog-tiles; a range of entries ends at a multiple of it where that costs little."""
ANSWER_BYTES = 1 << 20
"""The most bytes of framed entries in one answer."""
ENTRY_BYTES = (16 << 10) + 2
"""The most bytes that one framed entry takes."""
HEADS = 1000
"""The most heads, and the most accused logs, in one answer."""


@dataclass(frozen=True, kw_only=True)
class HeadsSince:
    """Which logs were certified or accused after the cursor?"""

    instance: str
    """Whose cursor it is: the peer's store, or empty at first."""
    cursor: int
    """Where the last answer ended."""


@dataclass(frozen=True, kw_only=True)
class EntriesOf:
    """The certified entries [start, end) of a log, fewer where the log or an answer ends."""

    origin: str
    """The log."""
    start: int
    """The first entry."""
    end: int
    """Behind the last entry."""


@dataclass(frozen=True, kw_only=True)
class EvidenceOf:
    """The proofs that a log's owner contradicted itself."""

    origin: str
    """The log."""


Request = HeadsSince | EntriesOf | EvidenceOf


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What changed in a peer's store, oldest first."""

    instance: str
    """The peer's store; with another one, cursors begin at 0."""
    cursor: int
    """Where this answer ends."""
    heads: tuple[tuple[str, int], ...]
    """(origin, certified size); at most `HEADS`."""
    evidence: tuple[str, ...] = ()
    """Logs that are accused; at most `HEADS`."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A range of a log, from where it was asked."""

    entries: tuple[bytes, ...]
    """The entries; none where the log ends at the start that was asked."""
    size: int
    """Certified size of the log, as the peer says; the certificate shows whether it is so."""
    certificate: bytes
    """The head at that size with its cosignatures."""
    proof: tuple[bytes, ...]
    """Consistency of the log at the end of these entries with the certificate; empty where they are the same."""

    @property
    def room(self) -> int:
        """Bytes that the entries take."""
        return sum(map(len, self.entries)) + 2 * len(self.entries)


@dataclass(frozen=True, kw_only=True)
class Accusation:
    """The proofs against a log's owner."""

    items: tuple[bytes, ...]
    """Each for `ledger.evidence`."""


Answer = Heads | Entries | Accusation


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Ask a peer; tell the machine what it answers, or that it did not."""

    peer: str
    """Whom."""
    request: Request
    """What."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Look up what our own store knows of these logs, and tell the machine."""

    peer: str
    """Who mentioned them; empty where we ask of ourselves."""
    origins: tuple[str, ...]
    """The logs."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What our own store knows of a log."""

    have: int
    """Stored entries."""
    certified: int
    """Certified ones."""
    worth: bool
    """Whether a certified entry refers to the log, or we follow it."""
    accused: bool
    """Whether there is evidence against its owner here."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """Check and store entries; tell the machine whether they held."""

    peer: str
    """Who sent them."""
    origin: str
    """The log."""
    start: int
    """The first entry."""
    entries: tuple[bytes, ...]
    """The entries."""
    certificate: bytes
    """A certificate of the log."""
    proof: tuple[bytes, ...] | None
    """Consistency of the log after these entries with the certificate; None where the certificate is of that size."""


@dataclass(frozen=True, kw_only=True)
class TakeEvidence:
    """Check and store evidence; tell the machine whether it held."""

    peer: str
    """Who sent it."""
    origin: str
    """The accused log."""
    items: tuple[bytes, ...]
    """Each for `ledger.evidence`."""


@dataclass(frozen=True, kw_only=True)
class Blame:
    """A peer said what no honest peer says; it is left alone for a while. For the operator's log."""

    peer: str
    """Who."""
    reason: str
    """What."""
    pause_s: float
    """For how long."""


Effect = Ask | Look | Take | TakeEvidence | Blame


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The machine's limits and pauses."""

    quick_s: float = 0.5
    """Between asking for heads while there is news."""
    slow_s: float = 5.0
    """The same when nothing happens."""
    asked_peers: int = 2
    """How many peers are asked for heads each time."""
    peers: int = 128
    """How many peers are known at most; further ones are not looked at."""
    heads: int = 1024
    """How many logs one peer may make us remember; the least recent of no use go first."""
    page: int = HEADS
    """What a full answer to a question for heads holds."""
    useless_pages: int = 200
    """Full answers in a row without anything of use, before the peer is left alone."""
    requests: int = 16
    """Ranges of entries asked for at a time, of all peers together."""
    peer_requests: int = 4
    """Of one peer."""
    pending_bytes: int = 24 << 20
    """What is asked for or waits to be stored, of all peers together."""
    peer_pending_bytes: int = 8 << 20
    """Of one peer."""
    answer_bytes: int = ANSWER_BYTES
    """What one answer may hold."""
    retry_s: float = 1.0
    """First pause after a failure of the network; it doubles up to `most_retry_s`."""
    most_retry_s: float = 60.0
    """The longest."""
    blame_s: float = 5.0
    """First pause after a lie; it doubles up to `most_blame_s`."""
    most_blame_s: float = 900.0
    """The longest."""
    scan_s: float = 30.0
    """First pause before a peer's heads are gone through again, as some were dropped; doubles up to `most_scan_s`."""
    most_scan_s: float = 3600.0
    """The longest."""


@dataclass(frozen=True, kw_only=True)
class State:
    """The machine at a glance."""

    peers: int
    """Peers known."""
    resting: int
    """Those left alone for a while."""
    remembered: int
    """Logs of which a peer has more than we do, of use or not."""
    wanted: int
    """Logs that wait for a peer."""
    fetching: int
    """Logs that are being fetched."""
    requests: int
    """Requests without an answer."""
    pending_bytes: int
    """What is asked for or waits to be stored."""
