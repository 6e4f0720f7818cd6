"""`evidence`: proofs that somebody signed two heads that cannot both be prefixes of one log.

IO: reads one store or one file, writes files and to the terminal.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import EvidenceInvalid, NoteInvalid, StoreUnreadable

from .base import FILE, Command, Place, fail, on_ledger, print_json, print_table, read_file, write_file
from .find import find_log

if TYPE_CHECKING:
    from ledger.evidence import Evidence
    from ledger.genesis import Genesis
    from ledger.store.store import Store


@click.command("evidence", cls=Command, short_help="Who contradicted itself; check such evidence.")
@click.argument("log", required=False)
@click.option("--check", "file", type=FILE, help="Check this evidence file, offline; only --network is needed.")
@click.option("--out", type=FILE, help="Write each piece of evidence into this folder, for others.")
@on_ledger
def evidence(place: Place, log: str | None, file: Path | None, out: Path | None, as_json: bool) -> None:
    """Who contradicted itself: the evidence in the ledger about one LOG or all, or in a file.

    Exit code of --check: 0: it proves what is printed, 1: it proves nothing, 2: it cannot be read.
    """
    if file is not None:
        _check(file, place.genesis(), as_json)
        return
    with place.open() as store:
        found = list(_found(store, find_log(store, log) if log is not None else None))
        rows = [_facts(item, store.genesis) for item in found]
    if out is not None:
        for number, (item, facts) in enumerate(zip(found, rows, strict=True), 1):
            facts["file"] = str(_write(out, number, item))
    if as_json:
        print_json({"evidence": rows})
    elif not rows:
        click.echo("there is no evidence against anybody here")
    else:
        _print(rows)


def _found(store: "Store", log: str | None) -> "Iterator[Evidence]":
    for origin in store.origins() if log is None else [log]:
        yield from store.evidence(origin)


def _facts(item: "Evidence", genesis: "Genesis") -> dict[str, Any]:
    """What a piece of evidence proves.

    Raises:
        EvidenceInvalid: nothing.
    """
    from ledger import evidence, notes

    sizes = [notes.checkpoint(notes.parse(note)).size for note in (item.first, item.second)]
    try:
        origin, key = evidence.verify(item, genesis.terms)
        return {"origin": origin, "kind": "equivocation", "by": [key], "sizes": sizes}
    except EvidenceInvalid:
        origin, names = evidence.verify_split(item, genesis)
        return {"origin": origin, "kind": "split", "by": list(names), "sizes": sizes}


def _write(folder: Path, number: int, item: "Evidence") -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreUnreadable(f"{folder}: cannot make this folder: {exc.strerror}") from exc
    path = folder / f"evidence-{number}.json"
    write_file(path, item.encode(), StoreUnreadable)
    return path


def _print(rows: list[dict[str, Any]]) -> None:
    from ledger.describe import short

    head = ("log", "heads at", "signed both", "file")
    lines = [
        (short(row["origin"]), " and ".join(map(str, row["sizes"])), _who(row), row.get("file", "")) for row in rows
    ]
    width = 4 if any(line[3] for line in lines) else 3
    print_table(head[:width], [line[:width] for line in lines], left=4)


def _who(row: dict[str, Any]) -> str:
    from ledger.describe import short

    if row["kind"] == "split":
        return "witnesses " + ", ".join(row["by"])
    return f"its writer {short(row['by'][0])}"


def _check(file: Path, genesis: "Genesis", as_json: bool) -> None:
    from ledger import evidence

    item = evidence.Evidence.parse(read_file(file, evidence.MAX_BYTES, EvidenceInvalid, "evidence"))
    try:
        facts = _facts(item, genesis)
    except EvidenceInvalid as exc:
        if not as_json:
            click.secho("PROVES NOTHING", fg="red", bold=True)
        fail(exc, as_json=as_json, code=1)
    except NoteInvalid as exc:
        fail(EvidenceInvalid(f"evidence: {exc.message}"), as_json=as_json, code=1)
    if as_json:
        print_json({"ok": True, **facts})
        return
    click.secho("PROVEN", fg="green", bold=True)
    first, second = facts["sizes"]
    click.echo(f"{'log':<10}{facts['origin']}")
    click.echo(f"{'heads':<10}at {first} and at {second}: they cannot both be prefixes of one log")
    if facts["kind"] == "split":
        click.echo(f"{'signed by':<10}witnesses {', '.join(facts['by'])}: more than f = {genesis.f} of this network")
    else:
        click.echo(f"{'signed by':<10}{facts['by'][0]}, its writer: it is cosigned no more")


COMMANDS = (evidence,)
