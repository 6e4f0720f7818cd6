"""`show`, `log`, `balance`, `runs`: what is in a ledger.

IO: reads one store, writes to the terminal.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .base import Command, Place, on_ledger, print_json, print_table
from .find import choose, find_log

if TYPE_CHECKING:
    from ledger.fold.fold import Ledger, RunAccount
    from ledger.store.store import Store


@click.command("show", cls=Command)
@on_ledger
def show(place: Place, as_json: bool) -> None:
    """The network, its logs and its runs."""
    from ledger.describe import credits, short

    with place.open() as store:
        genesis, ledger = store.genesis, store.ledger()
        logs = [(origin, store.size(origin), certified_size(store, origin)) for origin in store.origins()]
        accused = [origin for origin in store.origins() if store.known(origin)[2]]
    if as_json:
        runs = {run: asdict(account) for run, account in ledger.runs.items()}
        totals = {"issued": ledger.issued, "burned": ledger.burned, "unclaimed": ledger.unclaimed}
        sizes = [{"origin": origin, "entries": size, "certified": certified} for origin, size, certified in logs]
        print_json({"id": genesis.id, **genesis.to_json(), "logs": sizes, "runs": runs, **totals, "accused": accused})
        return
    click.echo(f"network   {genesis.name} {genesis.id}")
    names = ", ".join(name for name, _ in genesis.witnesses)
    click.echo(f"witnesses {names} (quorum {genesis.quorum}, f = {genesis.f})")
    amounts = (ledger.issued, ledger.burned, ledger.unclaimed)
    click.echo("credits   {} issued, {} burned, {} unclaimed".format(*map(credits, amounts)))
    print_table(("log", "entries", "certified"), [(short(log[0]), *log[1:]) for log in logs])
    print_table(*_runs(ledger.runs.values()))
    for origin in accused:
        click.secho(f"{short(origin)} contradicted itself: forge-ledger evidence {short(origin)[:-1]}", fg="red")


def certified_size(store: "Store", origin: str) -> int:
    """How many entries of the log are certified."""
    certificate = store.certified(origin)
    return certificate.size if certificate else 0


def _runs(runs: Iterable["RunAccount"]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    from ledger.describe import credits, short

    rows: list[tuple[object, ...]] = [
        (short("run/" + run.run), run.name, run.rounds_settled, "closed" if run.closed else "running",
         len(run.paid), credits(run.balance), credits(sum(run.paid.values())))
        for run in runs
    ]  # fmt: skip
    return ("run", "name", "rounds", "status", "members", "balance", "paid"), rows


@click.command("runs", cls=Command)
@on_ledger
def runs(place: Place, as_json: bool) -> None:
    """All runs: how far they got, and what they paid."""
    with place.open() as store:
        ledger = store.ledger()
    if as_json:
        print_json({"unit": "micro-credits", "runs": {run: asdict(account) for run, account in ledger.runs.items()}})
    elif ledger.runs:
        print_table(*_runs(ledger.runs.values()))
    else:
        click.echo("no run has begun")


@click.command("log", cls=Command, short_help="The entries of one log, and what became of each.")
@click.argument("log")
@click.option("--start", type=click.IntRange(0), default=0, help="The first entry.")
@click.option("--end", type=click.IntRange(0), default=None, help="The entry to stop before.")
@on_ledger
def log(place: Place, log: str, start: int, end: int | None, as_json: bool) -> None:
    """The entries of one LOG: an origin, an account, "run/" and a run id, or the beginning of one."""
    from ledger.describe import entry_line
    from ledger.entries import parse
    from ledger.merkle import leaf_hash

    with place.open() as store:
        origin = find_log(store, log)
        ledger, certified = store.ledger(), certified_size(store, origin)
        entries = []
        for index, data in enumerate(store.entries(origin, start, store.size(origin) if end is None else end), start):
            entry = parse(data)
            status = status_of(ledger, origin, index, certified)
            leaf = leaf_hash(data).hex()
            entries.append({"index": index, "status": status, "leaf": leaf, "entry": entry.to_json()})
            if not as_json:
                click.echo(f"{index:>6}  {entry_line(entry)}" + ("" if status == "effective" else f"  [{status}]"))
        if as_json:
            print_json({"origin": origin, "certified": certified, "entries": entries})


def status_of(ledger: "Ledger", origin: str, index: int, certified: int) -> str:
    """What became of an entry: "effective", "not certified", or void, pending or invalid with the reason."""
    if index >= certified:
        return "not certified"
    for word, outcomes in (("void", ledger.voids), ("pending", ledger.pendings), ("invalid", ledger.invalid)):
        for outcome in outcomes:
            if outcome.origin == origin and outcome.index == index:
                return f"{word}: {outcome.reason}"
            if outcome.origin == origin and word != "void" and outcome.index < index:
                return f"{word}: behind entry {outcome.index}"
    return "effective"


@click.command("balance", cls=Command)
@click.argument("account", required=False)
@on_ledger
def balance(place: Place, account: str | None, as_json: bool) -> None:
    """What ACCOUNT, or every account, can spend and may yet claim."""
    from ledger.describe import credits

    with place.open() as store:
        ledger = store.ledger()
    claimable = {owner: sum(sources.values()) for owner, sources in ledger.claimable.items() if "/" not in owner}
    owners = sorted({*ledger.balances, *claimable})
    if account is not None:
        owners = [choose("account", account, {owner: owner for owner in owners}, "forge-ledger balance lists all")]
    rows = [(owner, ledger.balances.get(owner, 0), claimable.get(owner, 0)) for owner in owners]
    if as_json:
        body = {owner: {"balance": balance, "claimable": claim} for owner, balance, claim in rows}
        print_json({"unit": "micro-credits", "accounts": body})
    else:
        lines = [(owner, credits(balance), credits(claim)) for owner, balance, claim in rows]
        print_table(("account", "credits", "claimable"), lines)


COMMANDS = (show, log, balance, runs)
