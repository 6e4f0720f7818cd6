"""What the fields of entries may hold: checks that raise `EntryInvalid`, and the small tuples inside entries.

Pure: no IO.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, cast

from .codec import MAX_INT
from .errors import EntryInvalid

PREFIX = "p2p-llm-forge/"
"""How every origin begins."""
MAX_MEMO = 200
"""The longest memo or reason, in characters."""

is_hex64 = re.compile(r"[0-9a-f]{64}").fullmatch
is_signature = re.compile(r"[0-9a-f]{128}").fullmatch
_blob = re.compile(r"[0-9a-f]{64}-(0|[1-9][0-9]{0,15})").fullmatch
is_payee = re.compile(r"(run/)?[0-9a-f]{64}").fullmatch
is_origin = re.compile(r"p2p-llm-forge/[0-9a-f]{16}/(run/)?[0-9a-f]{64}").fullmatch


class Seat(NamedTuple):
    """One member's place in a round: `quota` slots from `slot_start` on."""

    account: str
    slot_start: int
    quota: int


class StageSeat(NamedTuple):
    """One member's place in a round of a run with stages: which one it holds, and the slots that it may serve."""

    account: str
    slot_start: int
    quota: int
    stage: int


class Slots(NamedTuple):
    """The slots a receipt claims: `count` from `start` on."""

    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls on slots


class Validation(NamedTuple):
    """A held-out loss: that of the state after `round`, in micro-nats per token."""

    round: int
    loss: int


def fail(rule: str, got: object, wanted: object) -> EntryInvalid:
    """The error for a field: what it is called, what it holds, what it should hold."""
    shown = got if type(got) is str else repr(got)
    return EntryInvalid(rule=rule, got=shown if len(shown) <= 80 else shown[:77] + "…", wanted=wanted)


def same(rule: str, got: object, wanted: object) -> None:
    """Check that a field holds what follows from the others."""
    if got != wanted:
        raise EntryInvalid(rule=rule, got=got, wanted=wanted)


def integer(rule: str, value: object, least: int = 0) -> None:
    """Check an integer of at least `least`."""
    if type(value) is not int or not least <= value <= MAX_INT:
        raise fail(rule, value, f"an integer {least}..2^53-1")


def text(rule: str, value: object, most: int) -> None:
    """Check a string of at most `most` characters."""
    if type(value) is not str or len(value) > most:
        raise fail(rule, value, f"a string of at most {most} characters")


def account(rule: str, value: object) -> None:
    """Check an account."""
    if type(value) is not str or not is_hex64(value):
        raise fail(rule, value, "an account (64 lowercase hex digits)")


def digest(rule: str, value: object) -> None:
    """Check a SHA-256 in hex."""
    if type(value) is not str or not is_hex64(value):
        raise fail(rule, value, "64 lowercase hex digits")


def blob_id(rule: str, value: object) -> None:
    """Check a blob id."""
    if type(value) is not str or not _blob(value):
        raise fail(rule, value, "a blob id (64 hex digits, '-', length)")


def array(rule: str, value: object, lengths: Sequence[int] = ()) -> tuple[object, ...]:
    """Check an array, of one of these lengths if any are given; returns its items."""
    if not isinstance(value, (list, tuple)) or (lengths and len(value) not in lengths):
        raise fail(rule, value, "an array" + (f" of {' or '.join(map(str, lengths))}" if lengths else ""))
    return tuple(value)


def ascending(rule: str, value: object) -> tuple[int, ...]:
    """Check an array of distinct indices in ascending order; returns them."""
    indices, last = cast("tuple[int, ...]", array(rule, value)), -1
    for index in indices:
        integer(rule, index)
        if index <= last:
            raise fail(rule, list(indices), "distinct ascending indices")
        last = index
    return indices


def validation(rule: str, value: object) -> Validation | tuple[()]:
    """Check a held-out loss, or an empty array where none was measured; returns it."""
    numbers = array(rule, value, (0, 2))
    for number in numbers:
        integer(rule, number)
    return Validation(*cast("Validation", numbers)) if numbers else ()
