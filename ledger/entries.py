"""The entry types of account logs and run logs, as frozen values checked on construction.

`parse(bytes)` accepts exactly the canonical bytes of a valid entry; `entry.encode()` gives them back. What is checked
here concerns one entry alone; what needs the log around it is checked by `rules`, what needs other logs by `fold`.

Pure: no IO.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from . import codec, values
from .codec import Json
from .receipt import Entry, Receipt
from .spec import check_spec, run_id
from .stages import StageOpen, StageReceipt, Stages, StageSettle, stages_of
from .values import MAX_MEMO, PREFIX, Seat, Slots, StageSeat, Validation

__all__ = [
    "PREFIX", "TYPES", "Audit", "Begin", "Close", "Entry", "Issue", "Open", "Receipt", "Recv", "Seat", "Send", "Settle",
    "Slots", "StageOpen", "StageReceipt", "StageSeat", "StageSettle", "Stages", "Validation", "check_spec", "from_json",
    "parse", "run_id",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Send(Entry):
    """Owe credits to an account or a run. Account logs."""

    type: ClassVar[str] = "send"
    to: str
    """An account, or "run/<run id>"."""
    amount: int
    """Micro-credits, at least 1."""
    memo: str = ""
    """For people."""

    def __post_init__(self) -> None:
        if type(self.to) is not str or not values.is_payee(self.to):
            raise values.fail("to", self.to, 'an account or "run/<run id>"')
        values.integer("amount", self.amount, 1)
        values.text("memo", self.memo, MAX_MEMO)


@dataclass(frozen=True, kw_only=True)
class Recv(Entry):
    """Take over all that the source owes this log's owner at entries after the last claim, up to `index`."""

    type: ClassVar[str] = "recv"
    origin: str
    """The source log."""
    index: int
    """The last entry claimed."""
    size: int
    """A size of the source log, above index."""
    root: str
    """The source log's root at that size."""

    def __post_init__(self) -> None:
        if type(self.origin) is not str or not values.is_origin(self.origin):
            raise values.fail("origin", self.origin, f"{PREFIX}<16 hex>/<account> or …/run/<run id>")
        values.integer("index", self.index)
        values.integer("size", self.size, 1)
        if self.index >= self.size:
            raise values.fail("index", self.index, f"below the size {self.size}")
        values.digest("root", self.root)


@dataclass(frozen=True, kw_only=True)
class Issue(Entry):
    """Create credits within the writer's budget. Logs of issuers only."""

    type: ClassVar[str] = "issue"
    to: str
    """An account."""
    amount: int
    """Micro-credits, at least 1."""

    def __post_init__(self) -> None:
        values.account("to", self.to)
        values.integer("amount", self.amount, 1)


@dataclass(frozen=True, kw_only=True)
class Begin(Entry):
    """What a run is; entry 0 of its log and the preimage of its id."""

    type: ClassVar[str] = "begin"
    spec: Mapping[str, Json]
    """The run's canonical spec."""

    def __post_init__(self) -> None:
        check_spec(self.spec)

    @property
    def leaders(self) -> tuple[str, ...]:
        """The accounts that may write the log."""
        return tuple(cast("list[str]", self.spec["leaders"]))

    @property
    def price(self) -> int:
        """Micro-credits per million tokens."""
        return cast(int, self.spec["price"])

    @property
    def tokens_per_slot(self) -> int:
        """Tokens of one slot."""
        return cast(int, self.spec["tokens_per_slot"])

    @property
    def state(self) -> str:
        """The id of the initial state."""
        return cast("dict[str, str]", self.spec["blobs"])["state"]

    @property
    def stages(self) -> Stages | None:
        """How the run's model is cut into stages, if it is."""
        return stages_of(self.spec)


@dataclass(frozen=True, kw_only=True)
class Open(Entry):
    """Start a round: who takes part, on which slots, from which state."""

    type: ClassVar[str] = "open"
    round: int
    """One more than the last settled; the first is 1."""
    state: str
    """The id of the state that the members train from."""
    roster: tuple[Seat, ...]
    """Each member's account, first slot and number of slots."""

    def __post_init__(self) -> None:
        values.integer("round", self.round, 1)
        values.blob_id("state", self.state)
        seats = values.array("roster", self.roster)
        if not seats:
            raise values.fail("roster", "empty", "at least one member")
        for number, seat in enumerate(seats):
            account, slot_start, quota = values.array(f"roster[{number}]", seat, (3,))
            values.account(f"roster[{number}] account", account)
            values.integer(f"roster[{number}] slot_start", slot_start)
            values.integer(f"roster[{number}] quota", quota, 1)
        object.__setattr__(self, "roster", tuple(Seat(*cast("Seat", seat)) for seat in seats))


@dataclass(frozen=True, kw_only=True)
class Audit(Entry):
    """The outcome of an audit; has no effect yet."""

    type: ClassVar[str] = "audit"
    round: int
    """The audited round."""
    account: str
    """The audited member."""
    verdict: str
    """A word."""
    data: Json
    """Whatever supports it."""

    def __post_init__(self) -> None:
        values.integer("round", self.round, 1)
        values.account("account", self.account)
        values.text("verdict", self.verdict, 40)
        codec.encode(self.data)


@dataclass(frozen=True, kw_only=True)
class Settle(Entry):
    """End a round: these receipts count, and this state came of them."""

    type: ClassVar[str] = "settle"
    round: int
    """The open round."""
    receipts: tuple[int, ...]
    """Indices of the receipts, ascending."""
    state: str
    """The id of the state after the round."""
    validation: Validation | tuple[()] = ()
    """A held-out loss, where one was measured."""

    def __post_init__(self) -> None:
        values.integer("round", self.round, 1)
        object.__setattr__(self, "receipts", values.ascending("receipts", self.receipts))
        values.blob_id("state", self.state)
        object.__setattr__(self, "validation", values.validation("validation", self.validation))


@dataclass(frozen=True, kw_only=True)
class Close(Entry):
    """End the run; nothing may follow."""

    type: ClassVar[str] = "close"
    state: str
    """The id of the last state."""
    reason: str
    """For people."""

    def __post_init__(self) -> None:
        values.blob_id("state", self.state)
        values.text("reason", self.reason, MAX_MEMO)


TYPES: Mapping[str, type[Entry]] = {
    cls.type: cls
    for cls in (Send, Recv, Issue, Begin, Open, Receipt, Audit, Settle, Close, StageOpen, StageReceipt, StageSettle)
}
"""Entry types by name."""


def parse(data: bytes) -> Entry:
    """The entry that these bytes are.

    Raises:
        CodecInvalid: not canonical; EntryInvalid: not of a known type with exactly its keys and kinds of values.
    """
    return from_json(codec.decode(data))


def from_json(body: Json) -> Entry:
    """The entry that this object is; for messages that carry one.

    Raises:
        EntryInvalid: not of a known type with exactly its keys and kinds of values.
    """
    if not isinstance(body, Mapping):
        raise values.fail("entry", body, "an object")
    name = body.get("type")
    kind = TYPES.get(name) if type(name) is str else None
    if kind is None:
        raise values.fail("type", name, "one of " + ", ".join(TYPES))
    return kind.from_json(body)
