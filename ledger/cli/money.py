"""`history` and `why`: what happened to an account's or a run's credits, and what one entry did, with reasons.

IO: reads one store, writes to the terminal.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .base import Command, Place, on_ledger, print_json, print_table
from .find import choose, find_entry
from .read import certified_size, status_of

if TYPE_CHECKING:
    from ledger.fold.balances import Movement
    from ledger.fold.history import Line
    from ledger.receipt import AnyReceipt
    from ledger.store.store import Store


SHOWN = 50
"""Lines of a history that people get unless they ask for more."""
REASONED = ("void", "pending", "invalid")
UNIT = "(amounts within reasons are micro-credits)"


def _movements(store: "Store") -> "list[Movement]":
    from ledger.fold.history import movements

    prefixes = {origin: store.entries(origin, 0, certified_size(store, origin)) for origin in store.origins()}
    return movements({origin: entries for origin, entries in prefixes.items() if entries}, store.genesis.terms)


@click.command("history", cls=Command, short_help="The account statement of an account or a run.")
@click.argument("owner", metavar="ACCOUNT|RUN")
@click.option("--last", type=click.IntRange(0), help="Only so many; 0: all.  [default: 50, all with --json]")
@on_ledger
def history(place: Place, owner: str, last: int | None, as_json: bool) -> None:
    """Everything that happened to the credits of an account or a run, with the balance after each."""
    from ledger.fold.history import history as history_of

    with place.open() as store:
        movements = _movements(store)
        names = {movement.owner for movement in movements} | {store.genesis.terms.owner(o) for o in store.origins()}
    known = {name: name for name in names} | {name.removeprefix("run/"): name for name in names}
    whose = choose("account or run", owner, known, "forge-ledger balance and forge-ledger runs list all")
    lines = history_of(movements, whose)
    last = (0 if as_json else SHOWN) if last is None else last
    if as_json:
        body = [{**asdict(line.movement), "balance": line.balance} for line in lines[-last:]]
        print_json({"unit": "micro-credits", "owner": whose, "lines": body})
        return
    click.echo(whose)
    if not lines:
        click.echo("nothing has happened to its credits")
    shown = lines[-last:]
    if len(shown) < len(lines):
        click.echo(f"({len(lines) - len(shown):,} earlier; --last 0 shows all)")
    print_table(("entry", "what", "amount", "change", "balance", ""), [_row(line) for line in shown], left=2)
    if any(line.movement.kind in REASONED for line in shown):
        click.echo(UNIT)


def _row(line: "Line") -> tuple[str, ...]:
    from ledger.describe import credits

    moved = line.movement
    change = "" if moved.delta == 0 else ("+" if moved.delta > 0 else "-") + credits(abs(moved.delta))
    amount = credits(moved.amount) if moved.amount else ""
    kind = "owed" if moved.kind == "owe" else moved.kind
    return (_place(moved.origin, moved.index), kind, amount, change, credits(line.balance), _brief(moved.note))


def _place(origin: str, index: int) -> str:
    from ledger.describe import short

    return "genesis" if index < 0 else f"{short(origin)}:{index}"


def _brief(note: str) -> str:
    """A note with its keys and hashes shortened."""
    note = re.sub(r"p2p-llm-forge/[0-9a-f]{16}/(?=run/|[0-9a-f]{64})", "", note)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", note)


@click.command("why", cls=Command, short_help="What one entry did to whose credits, and why.")
@click.argument("entry", metavar="ENTRY")
@on_ledger
def why(place: Place, entry: str, as_json: bool) -> None:
    """What one entry did to whose credits, what that came from, and what became of it.

    ENTRY is LOG:INDEX, or the beginning of an entry's leaf hash or of a receipt's update id.
    """
    from ledger.entries import parse
    from ledger.fold.history import why as why_of
    from ledger.receipt import AnyReceipt

    with place.open() as store:
        found = find_entry(store, entry)
        origin, index, parsed = found.origin, found.at, parse(found.data)
        status = status_of(store.ledger(), origin, index, certified_size(store, origin))
        settled, fate = _settled(store, origin, index, parsed) if isinstance(parsed, AnyReceipt) else (None, "")
        moved = why_of(_movements(store), origin, index if settled is None else settled)
    if isinstance(parsed, AnyReceipt):
        moved = tuple(item for item in moved if item.owner == parsed.account) if settled is not None else ()
    at = (origin, index if settled is None else settled)
    own = [number for number, item in enumerate(moved) if (item.origin, item.index) == at]
    first, last = (own[0], own[-1] + 1) if own else (0, 0)
    parts = {"before": moved[:first], "did": moved[first:last], "after": moved[last:]}
    if as_json:
        body: dict[str, Any] = {name: [asdict(item) for item in items] for name, items in parts.items()}
        about = {"origin": origin, "index": index, "status": status, "settled_at": settled, "fate": fate}
        print_json({"unit": "micro-credits", **about, "entry": parsed.to_json(), **body})
        return
    _explain(origin, index, parsed, status, fate, parts)


def _explain(
    origin: str, index: int, entry: Any, status: str, fate: str, parts: "dict[str, tuple[Movement, ...]]"
) -> None:
    from ledger.describe import entry_line

    click.secho(f"{_place(origin, index)}  {entry_line(entry)}", bold=True)
    click.echo(f"{'status':<8}{_brief(status)}" + (f"; {fate}" if fate else ""))
    titles = {"before": "from", "did": "did", "after": "then"}
    for name, items in parts.items():
        title = titles[name]
        for item in items:
            click.echo(f"{title:<8}{_sentence(item)}")
            title = ""
    if not parts["did"] and status == "effective" and not fate:
        click.echo(f"{'did':<8}nothing to anybody's credits")
    if any(item.kind in REASONED for items in parts.values() for item in items):
        click.echo(UNIT)


def _sentence(moved: "Movement") -> str:
    """One movement in words."""
    from ledger.describe import credits, short

    amount, owner = credits(moved.amount), short(moved.owner)
    said = {
        "supply": f"{owner} has {amount} from the genesis", "send": f"{owner} sends {amount}",
        "owe": f"{owner} may claim {amount}", "receive": f"{owner} receives {amount}",
        "issue": f"{owner} issues {amount}", "reserve": f"{owner} sets {amount} aside",
        "earn": f"{owner} earns {amount}", "return": f"{owner} gets {amount} back",
        "burn": f"{owner} loses {amount}, burned", "refund": f"{owner} is refunded {amount}",
        "void": f"nothing for {owner}", "pending": f"nothing yet for {owner}", "invalid": f"nothing for {owner}",
    }.get(moved.kind, f"{owner} {moved.kind} {amount}")  # fmt: skip
    note = f": {_brief(moved.note)}" if moved.note else ""
    return f"{said}{note}  [{_place(moved.origin, moved.index)}]"


def _settled(store: "Store", origin: str, index: int, receipt: "AnyReceipt") -> tuple[int | None, str]:
    """The settle that counts a receipt, and what became of the receipt in words."""
    from ledger.entries import Close, Open, Settle, StageOpen, StageSettle, parse

    end: Sequence[bytes] = store.entries(origin, index + 1, certified_size(store, origin))
    for at, data in enumerate(end, index + 1):
        later = parse(data)
        if isinstance(later, Settle | StageSettle) and later.round == receipt.round:
            if index in later.receipts:
                return at, f"settled at entry {at}"
            return None, f"left out of the settle at entry {at}: not paid, and its update was not applied"
        if isinstance(later, Open | StageOpen | Close):
            return None, f"never settled: entry {at} gives its round up, and nothing is paid for it"
    return None, "not settled yet: nothing is paid for it so far"


COMMANDS = (history, why)
