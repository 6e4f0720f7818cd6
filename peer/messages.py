"""What daemons say to each other about logs and runs: one strict model for each RPC body.

Pure: values only; the base class in `wire` reads and writes them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from peer.wire import BlobId, Hash, Message, Natural, PeerIdText, Word

Origin = Annotated[str, StringConstraints(max_length=200)]
EntryText = Annotated[str, StringConstraints(max_length=16384)]
"""One entry's canonical JSON."""
NoteText = Annotated[str, StringConstraints(max_length=65536)]
"""A signed note."""
MOST_UPDATES_TOLD = 64
MOST_PEERS_TOLD = 64
"""What one heartbeat's answer holds at most, so that it stays small."""
MaybeBlob = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}-(0|[1-9][0-9]{0,15}))?$")]


class WitnessRequest(Message):
    """`ledger.cosign`: a head to cosign, and the entries that the witness may lack."""

    origin: Origin
    start: Natural
    entries: list[EntryText] = Field(max_length=10_000)
    note: NoteText


class WitnessAnswer(Message):
    """Answer of `ledger.cosign`: the cosignature line, or from which entry on the witness needs the log."""

    cosignature: NoteText | None = None
    behind: Natural | None = None


class HeadQuery(Message):
    """`ledger.head`: how far does the peer have this log?"""

    origin: Origin


class HeadAnswer(Message):
    """Answer of `ledger.head`; a peer that does not know the log answers "", "", 0."""

    certificate: NoteText
    """Its newest certificate of the log, or empty."""
    promised: NoteText
    """If it is a witness: the newest head of the log that it cosigned, as its writer signed it; or empty."""
    size: Natural
    """Entries of the log that it has, certified or not."""


class TailQuery(Message):
    """`ledger.tail`: entries of a log from `start` on, certified or not, up to the head that it cosigned last."""

    origin: Origin
    start: Natural


class TailAnswer(Message):
    """Answer of `ledger.tail`: as many entries as one message holds; ask on from `start` + their number."""

    origin: Origin
    start: Natural
    entries: list[EntryText]
    """Entries [start, …), none beyond `size`."""
    promised: NoteText
    """The newest head of the log that the witness cosigned, as its writer signed it; empty where there is none."""
    size: Natural
    """The size that `promised` states, or 0."""


class Bundle(Message):
    """Entries of a log and a certificate whose tree they lead to, at once or together with the bundles that follow."""

    origin: Origin
    start: Natural
    entries: list[EntryText]
    certificate: NoteText
    size: Natural
    """Size of the certified tree; checked against the certificate when the entries are stored."""


class Join(Message):
    """`run.join`: a peer wants to take part; `advert` binds its PeerID to its account."""

    run: Hash
    advert: Annotated[str, StringConstraints(max_length=16384)]


class Beat(Message):
    """`run.beat`: once a second, from a member to the leader."""

    run: Hash
    state: MaybeBlob
    """Id of the state that its worker holds, or empty."""
    size: Natural
    """Certified entries of the run's log that it has."""
    round: Natural = 0
    """The newest round of which it heard of updates."""
    heard: Natural = 0
    """How many of that round."""
    peers: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{16})?$")] = ""
    """Which peers it was told of (`runs.bulletin.digest`)."""


class News(Message):
    """Answer of `run.beat`: what the member may not know yet."""

    size: Natural
    """Certified entries of the run's log that the leader has."""
    signed: Natural
    """Entries of it that members may go by: those, and what of its tail the leader has them go on with."""
    round: Natural
    """The round that the updates are of."""
    updates: Annotated[list[BlobId], Field(max_length=MOST_UPDATES_TOLD)]
    """The next updates of it that have arrived and that the member has not heard of, to be fetched ahead."""
    peers: Annotated[list[PeerIdText], Field(max_length=MOST_PEERS_TOLD)] | None = None
    """Some of the peers that take part just now, to fetch blobs from; absent if they are those that it knows."""


class AheadQuery(Message):
    """`run.tail`: what has the leader signed that is not certified?"""

    run: Hash


class Ahead(Message):
    """Answer of `run.tail`, and from a leader `run.ahead`: what it signed beyond what is certified, to go on with."""

    run: Hash
    start: Natural
    """Certified entries of the run's log that the leader has."""
    entries: list[EntryText] = Field(max_length=10_000)
    """Those that follow, up to the head."""
    head: NoteText
    """The head that the leader signed; empty where all it signed is certified."""


class Delivery(Message):
    """`run.receipt`: a member's signed receipt."""

    run: Hash
    receipt: EntryText
    took_ms: Natural = 0
    """How long the training took, for planning; 0 if nobody remembers."""


class Gossip(Message):
    """`run.gossip`: an update of the open round arrived; `peer` has it."""

    run: Hash
    update: BlobId
    peer: PeerIdText


class CountedUpdate(Message):
    """One update that a round is cut with."""

    account: Hash
    update: BlobId
    tokens: Natural


class CutNews(Message):
    """`run.cut`, from a leader: it cut this round, and applies these updates in this order."""

    run: Hash
    round: Natural
    counted: list[CountedUpdate] = Field(min_length=1, max_length=1024)


class Evaluation(Message):
    """`run.evaluate`: the leader asks a member for the held-out loss of a state."""

    run: Hash
    state: BlobId


class HeldOutLoss(Message):
    """Answer of `run.evaluate`."""

    loss: Natural
    """Micro-nats a token."""


class Goodbye(Message):
    """`run.leave`: the member stops taking part."""

    run: Hash
    reason: Word


class Cancellation(Message):
    """`run.cancel`: the submitter, which does not lead just now, wants its run to end."""

    run: Hash


class TermQuery(Message):
    """`ledger.term`: whose term of a run's log is it? With a signature, a leader's bid for it, or its leave."""

    origin: Origin
    leader: Annotated[str, StringConstraints(max_length=64)] = ""
    number: Natural = 0
    leave: Annotated[int, Field(ge=0, le=1)] = 0
    signature: Annotated[str, StringConstraints(max_length=128)] = ""


class TermAnswer(Message):
    """Answer of `ledger.term`: the term that the witness gave last, after the bid."""

    number: Natural
    leader: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
    """Whose it is; empty where none was given."""
    idle: Annotated[int, Field(ge=0, le=1)]
    """Whether that leader is silent for long, or gone."""
    promised: NoteText
    """The newest head of the log that the witness cosigned, as its writer signed it; or empty."""
