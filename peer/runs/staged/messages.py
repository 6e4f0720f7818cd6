"""What daemons say to each other about rounds with stages: one strict model for each RPC body, and its meaning.

Pure: values only; the base class in `wire` reads and writes them.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints

from ledger.entries import StageReceipt, parse
from peer.errors import MessageInvalid
from peer.messages import EntryText, MaybeBlob
from peer.rounds.log import OpenRound
from peer.stages import messages as stages
from peer.stages.messages import Attempt, Status
from peer.wire import Flag, Hash, Message, Natural

MICRO = 1_000_000
MOST_RECEIPTS = 256
MOST_MICROBATCHES = 1 << 14
Name = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}(/[0-9]{1,16})?$|^$")]
"""A leader's account and life."""
Bitmap = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$", max_length=MOST_MICROBATCHES // 4)]
Norm = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{16})?$")]
Stage = Annotated[int, Field(ge=0, lt=128)]
Number = Annotated[int, Field(ge=0, lt=MOST_MICROBATCHES)]


class AttemptText(Message):
    """Which attempt of which leader."""

    number: Natural
    leader: Name

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """On the wire."""
        return cls(number=attempt.number, leader=attempt.leader)

    def attempt(self) -> Attempt:
        """As the machines have it."""
        return Attempt(self.number, self.leader)


class Standing(Message):
    """`stage.status`: how a member stands, for the leader."""

    run: Hash
    life: Natural
    seq: Natural
    stage: Stage | None = None
    """Absent: none."""
    state: MaybeBlob
    memory_bytes: Natural
    microbatch_us: Natural
    round: Natural
    finished: Flag
    halted: AttemptText
    losses: AttemptText
    table: Annotated[list[Annotated[list[Natural], Field(min_length=2, max_length=128)]], Field(max_length=16384)]
    """Of a microbatch: its number, then who holds it in stages 1, 2, …: the place in the roster; its length: nobody."""
    frozen: AttemptText
    lacking: Bitmap
    receipt: EntryText
    cut: Annotated[list[EntryText], Field(max_length=MOST_RECEIPTS)]
    norm: Norm
    armed: Flag
    applied: MaybeBlob
    queue: Natural = 0
    """Passes that wait or are made."""
    busy: Annotated[int, Field(ge=0, le=1000)] = 0
    """The share of the round's time that passes took, in thousandths."""

    @classmethod
    def of(cls, run: str, status: Status, opened: OpenRound | None, *, queue: int = 0, busy: float = 0.0) -> Self:
        """On the wire; accounts of the table become places in the roster of the open round."""
        seats = {seat.account: place for place, seat in enumerate(opened.roster)} if opened is not None else {}
        seats[""] = len(seats)
        whole = all(account in seats for _, held in status.table for account in held)  # else it is of another round
        return cls(
            run=run, life=status.life, seq=status.seq, stage=status.stage if status.stage >= 0 else None,
            state=status.state,
            memory_bytes=status.memory_bytes, microbatch_us=round(status.microbatch_s * MICRO), round=status.round,
            finished=int(status.finished), halted=AttemptText.of(status.halted), losses=AttemptText.of(status.losses),
            table=[[number, *(seats[account] for account in held)] for number, held in status.table if whole],
            frozen=AttemptText.of(status.frozen), lacking=status.lacking,
            receipt=status.receipt.encode().decode() if status.receipt is not None else "",
            cut=[receipt.encode().decode() for receipt in status.cut], norm=status.norm, armed=int(status.armed),
            applied=status.applied, queue=queue, busy=round(busy * 1000),
        )  # fmt: skip

    def status(self, account: str, opened: OpenRound | None) -> Status:
        """As the machines have it; signatures are not checked. Raises MessageInvalid."""
        same = opened is not None and opened.round == self.round
        roster = [*(seat.account for seat in opened.roster), ""] if same and opened is not None else []
        if same and any(place >= len(roster) for row in self.table for place in row[1:]):
            raise MessageInvalid(f"Standing: table: a place beyond the {len(roster) - 1} of the roster")
        table = tuple((row[0], tuple(roster[place] for place in row[1:])) for row in self.table) if same else ()
        return Status(
            account=account, life=self.life, seq=self.seq, stage=-1 if self.stage is None else self.stage,
            state=self.state,
            memory_bytes=self.memory_bytes, microbatch_s=self.microbatch_us / MICRO, round=self.round,
            finished=bool(self.finished), halted=self.halted.attempt(), losses=self.losses.attempt(), table=table,
            frozen=self.frozen.attempt(), lacking=self.lacking,
            receipt=receipt_of(self.receipt) if self.receipt else None,
            cut=tuple(map(receipt_of, self.cut)), norm=self.norm, armed=bool(self.armed), applied=self.applied,
        )  # fmt: skip


def receipt_of(text: str) -> StageReceipt:
    """A stage receipt, not verified. Raises LedgerError, MessageInvalid."""
    entry = parse(text.encode())
    if not isinstance(entry, StageReceipt):
        raise MessageInvalid(f"receipt: a {entry.type} entry, wanted a stage_receipt")
    return entry


# ---------------------------------------------------------------- orders


class AssignOrder(Message):
    """`stage.assign`"""

    run: Hash
    stage: Stage

    def order(self) -> stages.Order:
        """As the machines have it."""
        return stages.Assign(stage=self.stage)


class LossesOrder(Message):
    """`stage.losses`"""

    run: Hash
    round: Natural
    leader: Name
    accounts: Annotated[list[Hash], Field(max_length=4096)]

    def order(self) -> stages.Order:
        """As the machines have it."""
        return stages.Losses(round=self.round, leader=self.leader, accounts=tuple(self.accounts))


class HaltOrder(Message):
    """`stage.halt`"""

    run: Hash
    round: Natural
    attempt: AttemptText
    gaps: list[Annotated[list[Number], Field(min_length=2, max_length=2)]]
    gone: Annotated[list[Hash], Field(max_length=4096)]

    def order(self) -> stages.Order:
        """As the machines have it."""
        gaps = tuple((stage, number) for stage, number in self.gaps)
        return stages.Halt(round=self.round, attempt=self.attempt.attempt(), gaps=gaps, gone=tuple(self.gone))


class FreezeOrder(Message):
    """`stage.freeze`"""

    run: Hash
    round: Natural
    attempt: AttemptText
    manifest: Bitmap

    def order(self) -> stages.Order:
        """As the machines have it."""
        return stages.Freeze(round=self.round, attempt=self.attempt.attempt(), manifest=self.manifest)


class CutOrder(Message):
    """`stage.cut`"""

    run: Hash
    round: Natural
    attempt: AttemptText
    receipts: Annotated[list[EntryText], Field(max_length=MOST_RECEIPTS)]
    norms: Annotated[list[Norm], Field(max_length=128)]

    def order(self) -> stages.Order:
        """As the machines have it."""
        receipts = tuple(map(receipt_of, self.receipts))
        return stages.Cut(round=self.round, attempt=self.attempt.attempt(), receipts=receipts, norms=tuple(self.norms))


AnyOrder = AssignOrder | LossesOrder | HaltOrder | FreezeOrder | CutOrder
ORDERS: dict[str, type[AnyOrder]] = {
    "assign": AssignOrder, "losses": LossesOrder, "halt": HaltOrder, "freeze": FreezeOrder, "cut": CutOrder,
}  # fmt: skip


def on_the_wire(run: str, order: stages.Order) -> tuple[str, AnyOrder]:
    """The method and the body of an order."""
    match order:
        case stages.Assign():
            return "stage.assign", AssignOrder(run=run, stage=order.stage)
        case stages.Losses():
            accounts = list(order.accounts)
            return "stage.losses", LossesOrder(run=run, round=order.round, leader=order.leader, accounts=accounts)
        case stages.Halt():
            return "stage.halt", HaltOrder(
                run=run, round=order.round, attempt=AttemptText.of(order.attempt),
                gaps=[list(gap) for gap in order.gaps], gone=list(order.gone),
            )  # fmt: skip
        case stages.Freeze():
            attempt = AttemptText.of(order.attempt)
            return "stage.freeze", FreezeOrder(run=run, round=order.round, attempt=attempt, manifest=order.manifest)
        case stages.Cut():
            return "stage.cut", CutOrder(
                run=run, round=order.round, attempt=AttemptText.of(order.attempt), norms=list(order.norms),
                receipts=[receipt.encode().decode() for receipt in order.receipts],
            )  # fmt: skip
