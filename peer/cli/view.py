"""What a person should see of a run: the events of its journal folded into rows and notes, and each as one plain line.

Pure: events in, values out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from peer.cli.staged import line_of_stages, stage_lines

Event = Mapping[str, Any]
BLOCKS = "▁▂▃▄▅▆▇█"
NOISE = frozenset({"opened", "receipt", "progress", "training", "delivered", "evaluated", "timing", "stages"})
OFFENCES = frozenset(
    {"suspicious", "omitted", "not_rostered", "equivocated", "bad_chunk", "flood", "clock", "disk_full"}
)
COLUMNS = ("round", "loss", "validation", "members", "tokens/s", "credits", "seconds")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One settled round."""

    round: int
    """Its number, from 1."""
    loss: float | None
    """Token-weighted training loss, nats a token."""
    validation: float | None
    """Loss on the held-out part, nats a token."""
    members: int
    """Receipts that were settled."""
    tokens: int
    """Tokens that the members trained on."""
    tokens_per_s: float
    """All members together."""
    credits: int
    """Micro-credits that the run has paid so far."""
    seconds: float
    """From opening to settling."""

    def cells(self) -> tuple[str, ...]:
        """The texts for COLUMNS."""
        return (
            str(self.round),
            nats(self.loss),
            nats(self.validation),
            str(self.members),
            f"{self.tokens_per_s:,.0f}",
            credits(self.credits),
            f"{self.seconds:.1f}",
        )


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as its journal tells it."""

    run: str = ""
    """The run's id."""
    name: str = ""
    """The submitter's name for it."""
    rows: tuple[Row, ...] = ()
    """The settled rounds in order."""
    notes: tuple[str, ...] = ()
    """Joins, drops, refusals and the like, oldest first."""
    open_round: int = 0
    """The round that is being worked on; 0 if none."""
    members: tuple[str, ...] = ()
    """Accounts on the roster of the open round."""
    receipts: int = 0
    """Receipts of the open round so far."""
    stages: tuple[str, ...] = ()
    """Where the model is cut: a line for each stage."""
    closed: str = ""
    """Why the run closed; empty while it goes on."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What to call accounts."""

    def after(self, event: Event) -> RunView:
        """The view with one more event."""
        kind = event["event"]
        if kind == "submitted":
            return replace(self, run=event.get("run", self.run), name=event.get("name", self.name))
        if kind == "opened":
            return replace(self, open_round=event["round"], members=tuple(event["members"]), receipts=0)
        if kind == "receipt" and event.get("round") == self.open_round:
            return replace(self, receipts=self.receipts + 1)
        if kind == "settled":
            measured = {event["validation_round"]: event["validation"]} if "validation_round" in event else {}
            return replace(self, rows=with_validation((*self.rows, row_of(event)), measured), receipts=0)
        if kind == "evaluated":
            return replace(self, rows=with_validation(self.rows, {event["round"]: event["validation"]}))
        if kind == "stages":
            return replace(self, stages=tuple(stage_lines(event["stages"], self.who)))
        if kind == "closed":
            return replace(self, open_round=0, members=(), closed=event.get("reason") or "closed")
        note = self.line(event)
        return self if note is None else replace(self, notes=(*self.notes, note))

    def who(self, account: object) -> str:
        """What to call an account."""
        text = str(account)
        return self.names.get(text, text[:8])

    def line(self, event: Event) -> str | None:
        """An event as one line of plain text; None for those that are only noise to a person."""
        kind = str(event["event"])
        if kind == "settled":
            return settled_line(replace(row_of(event), validation=event.get("validation")))
        if kind == "closed":
            return f"closed after round {event.get('rounds', '?')}: {event.get('reason', '')}"
        if kind == "submitted":
            return f"run {event.get('run', '')[:16]} {event.get('name', '')} submitted"
        at = f"round {event['round']}: " if "round" in event else ""
        match kind:
            case "joined":
                return f"{at}{self.who(event['account'])} joined"
            case "rejoined":
                return f"{at}{self.who(event['account'])} is back"
            case "dropped":
                return f"{at}{self.who(event['account'])} dropped: {event.get('reason', '')}"
            case "late":
                quota = event.get("quota", "?")
                return f"{at}{self.who(event['account'])} was too slow for {quota} samples, gets fewer"
            case "benched":
                until = event.get("until", "?")
                return f"{self.who(event['account'])} pauses until round {until}: {event.get('reason', '')}"
            case "refused":
                reason = f"{event.get('code', '')} {event.get('reason', '')}".strip()
                return f"{at}{self.who(event['account'])} refused: {reason}"
            case _ if kind in OFFENCES:
                what = f"{event.get('code', '')} {event.get('reason', '')}".strip()
                return f"{at}{self.who(event['account'] or event.get('peer', ''))} {kind.replace('_', ' ')}: {what}"
            case "left":
                return f"{at}{self.who(event['account'])} left: {event.get('reason', '')}"
            case "cannot_take_part":
                return f"cannot take part: {event.get('code', '')} {event.get('reason', '')}"
        return self._line_of_the_run(kind, event, at)

    def _line_of_the_run(self, kind: str, event: Event, at: str) -> str | None:
        """As `line`, for what happened to this peer or to the run as a whole."""
        if (line := line_of_stages(kind, event, at, self.who)) is not None:
            return line
        match kind:
            case "caught_up":
                return f"{at}caught up by {event.get('by', '?')} in {event.get('seconds', 0):.1f} s"
            case "restored":
                kinds = [f"{kind} of round {event[kind]}" for kind in ("residual", "optimizer") if event.get(kind)]
                return f"{at}went on with {' and '.join(kinds) or 'nothing'} of before the restart"
            case "not_carried":
                return f"{at}{event.get('reason', '')}"
            case "thrown_away":
                return f"{at}{event.get('slots', 0)} samples trained ahead do not count: {event.get('reason', '')}"
            case "waiting":
                return f"{at}waiting for members: {event.get('ready', 0)} of {event.get('needs', 1)} are ready"
            case "leads":
                return f"{self.who(event['account'])} leads in term {event.get('term', '?')}"
            case "stepped_down":
                return f"{self.who(event['account'])} leads no more: {event.get('reason', '')}"
            case "paused":
                return f"this peer does not train {pause_end(event)}"
            case "resumed":
                return "this peer trains again"
            case "uncertified":
                return f"{at}too few witnesses sign: {event.get('rounds', 0)} rounds are open and not certified"
            case "certified_again":
                return f"{at}certified again after {event.get('seconds', 0):.1f} s"
            case "rolled_back":
                return f"{at}went back to it, {event.get('lost', 0)} later rounds were never certified"
            case "claimed":
                return f"claimed {credits(event.get('micro_credits', 0))} credits"
            case "error":
                return f"{event.get('code', '')}: {event.get('message', '')}"
            case _ if kind in NOISE:
                return None
        return at + kind.replace("_", " ")

    def sparkline(self, width: int = 40) -> str:
        """The loss of the last rounds as a line of blocks, high to low."""
        losses = [row.loss for row in self.rows if row.loss is not None][-width:]
        if not losses:
            return ""
        low, high = min(losses), max(losses)
        scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(BLOCKS[round((loss - low) * scale)] for loss in losses)


def row_of(event: Event) -> Row:
    """The row of a `settled` event."""
    return Row(
        round=event["round"],
        loss=event.get("loss"),
        validation=event.get("validation") if event.get("validation_round", event["round"]) == event["round"] else None,
        members=event.get("members", 0),
        tokens=event.get("tokens", 0),
        tokens_per_s=event.get("tokens_per_s") or 0.0,
        credits=event.get("credits", 0),
        seconds=event.get("seconds") or 0.0,
    )


def with_validation(rows: tuple[Row, ...], measured: Mapping[int, float]) -> tuple[Row, ...]:
    """The rows with validation losses put where they were measured, which is before they are known."""
    return tuple(replace(row, validation=measured[row.round]) if row.round in measured else row for row in rows)


def settled_line(row: Row) -> str:
    """A settled round as one aligned line."""
    return (
        f"round {row.round:4d}  loss {nats(row.loss):>7}  validation {nats(row.validation):>7}  members {row.members}  "
        f"{row.tokens_per_s:8,.0f} tokens/s  credits {credits(row.credits)}  {row.seconds:5.1f} s"
    )


def nats(loss: float | None) -> str:
    """A loss in nats a token."""
    return "–" if loss is None else f"{loss:.4f}"


def credits(micro_credits: int) -> str:
    """Micro-credits as credits with all their digits."""
    return f"{micro_credits // 1_000_000}.{micro_credits % 1_000_000:06d}"


def pause_end(paused: Mapping[str, Any]) -> str:
    """How long a pause lasts, in this machine's time."""
    if paused.get("until") is None:
        return "until it is resumed"
    return time.strftime("until %Y-%m-%d %H:%M", time.localtime(paused["until"]))


def size(count: float) -> str:
    """Bytes with a fitting unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
