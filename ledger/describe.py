"""Entries, amounts and logs in words, for people at a terminal.

Pure: no IO.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from .entries import (
    Begin,
    Close,
    Entry,
    Issue,
    Open,
    Receipt,
    Recv,
    Send,
    Settle,
    StageOpen,
    StageReceipt,
    StageSettle,
)  # fmt: skip

MICRO = 10**6


def credits(amount: int) -> str:
    """Micro-credits as credits, exact: "1.25", "0.000016"."""
    whole, rest = divmod(amount, MICRO)
    return f"{whole:,}" + (f".{rest:06d}".rstrip("0") if rest else "")


def short(owner: str) -> str:
    """An account, "run/<id>" or origin, as much of it as people tell apart."""
    name = owner.rsplit("/", 1)[-1][:12] + "…"
    return f"run/{name}" if "run/" in owner else name


def entry_line(entry: Entry) -> str:
    """One line about an entry."""
    match entry:
        case Send():
            return f"send {credits(entry.amount)} to {short(entry.to)}" + (f" ({entry.memo!r})" if entry.memo else "")
        case Recv():
            return f"receive what {short(entry.origin)} owes up to entry {entry.index}"
        case Issue():
            return f"issue {credits(entry.amount)} to {short(entry.to)}"
        case Begin():
            return f"begin {entry.spec['name']!r}, led by {', '.join(map(short, entry.leaders))}"
        case Open():
            seats = ", ".join(f"{short(account)}×{quota}" for account, _, quota in entry.roster)
            return f"open round {entry.round}: {seats}"
        case Receipt():
            said = f"{entry.tokens} tokens, loss {_loss(entry.loss)}"
            return f"receipt of {short(entry.account)} for round {entry.round}: {said}"
        case StageOpen():
            return f"open round {entry.round}: {_by_stage(entry)}"
        case StageReceipt():
            said = f"{entry.tokens} tokens in stage {entry.stage}" + (
                f", loss {_loss(entry.loss)}" if entry.loss else ""
            )
            return f"receipt of {short(entry.account)} for round {entry.round}: {said}"
        case Settle() | StageSettle():
            return f"settle round {entry.round}: {len(entry.receipts)} receipts, state {short(entry.state)}"
        case Close():
            return f"close: {entry.reason!r}"
    return entry.type


def entry_facts(entry: Entry) -> list[tuple[str, str]]:
    """Everything that an entry says, a title and a text each; nothing is shortened."""
    match entry:
        case Receipt():
            start, slots = entry.slots
            return [
                ("receipt of", entry.account),
                ("round", str(entry.round)),
                ("work", f"{entry.tokens} tokens, slots {start} to {start + slots - 1}, {entry.steps} steps"),
                ("loss", _loss(entry.loss)),
                ("update", entry.update),
                ("trained on", entry.state_in),
            ]
        case StageReceipt():
            served = f"{count(entry.bits.bit_count(), 'microbatch', 'microbatches')}: {_ranges(entry.bits)}"
            return [
                ("receipt of", entry.account),
                ("round", str(entry.round)),
                ("stage", str(entry.stage)),
                ("work", f"{entry.tokens} tokens, {entry.slots.count} slots out of those from {entry.slots.start} on"),
                ("served", served),
                *([("loss", _loss(entry.loss))] if entry.loss else []),
                ("update", entry.update),
                ("trained on", entry.state_in),
            ]
        case Send() | Issue():
            memo = f" ({entry.memo!r})" if isinstance(entry, Send) and entry.memo else ""
            return [(entry.type, f"{credits(entry.amount)} credits to {entry.to}{memo}")]
    return [("which says", entry_line(entry))]


def _by_stage(entry: StageOpen) -> str:
    """The seats of a round, stage by stage."""
    members: dict[int, list[str]] = {}
    for seat in sorted(entry.roster, key=lambda seat: seat.stage):
        driven = f"×{seat.quota}" if seat.stage == 0 else ""
        members.setdefault(seat.stage, []).append(short(seat.account) + driven)
    return "; ".join(f"stage {stage} {', '.join(names)}" for stage, names in members.items())


def _ranges(bits: int) -> str:
    """The numbers of a bitmap: "0-3, 5"."""
    found, first = [], 0
    for number, bit in enumerate(f"{bits:b}"[::-1] + "0"):
        if bit == "0":
            found += [str(first) if first == number - 1 else f"{first}-{number - 1}"] if first < number else []
            first = number + 1
    return ", ".join(found)


def _loss(loss: int) -> str:
    return f"{loss // MICRO}.{loss % MICRO // 100:04d}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> list[str]:
    """The lines of a table, none where there are no rows.

    The first `left` columns stand to the left, and so does one without a title; the others to the right.
    """
    lines = [tuple(head), *(tuple(str(value) for value in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left or not head[at] else cell.rjust(width) for at, (cell, width) in cells
        ).rstrip()
        for cells in (enumerate(zip(line, widths, strict=True)) for line in lines)
        if len(lines) > 1
    ]


def count(number: int, one: str, many: str = "") -> str:
    """So many of something: "1 log", "1,000 logs", "2 entries"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(time_s: int) -> str:
    """Seconds since 1970 as a date and time in UTC; what no calendar holds stays a number."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"second {time_s}"
