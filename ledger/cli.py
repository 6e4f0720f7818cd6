"""`forge-ledger`: verify and read a ledger, offline.

Exit codes: 0 fine, 1 the ledger is not sound, 2 it could not be read or was asked for wrongly. Heavy imports happen
inside the commands, so that `--help` answers at once.

IO: files and the terminal.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import GenesisInvalid, LedgerError, StoreUnreadable

if TYPE_CHECKING:
    from .balances import Outcome
    from .genesis import Genesis
    from .report import Report
    from .store import Store

_File = click.Path(path_type=Path)


class _Command(click.Command):
    """A command whose errors are one line (or one JSON object) and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LedgerError as exc:
            if ctx.params.get("as_json"):
                click.echo(json.dumps({"error": {"code": exc.code, "message": exc.message}}))
            click.echo(f"{exc.code}: {exc.message}", err=True)
            ctx.exit(2)


class Place:
    """The ledger that a command is about."""

    def __init__(self, home: Path | None, store: Path | None, network: Path | None) -> None:
        if home is None and (store is None or network is None):
            raise click.UsageError("say which ledger: --home DIR, or --store FILE --network FILE")
        self.store = store or (home or Path()) / "ledger.db"
        self._network = network or (home or Path()) / "network.json"

    def genesis(self) -> "Genesis":
        """The network's genesis."""
        from .genesis import parse_network

        try:
            data = self._network.read_bytes()
        except OSError as exc:
            raise GenesisInvalid(f"{self._network}: cannot read the network file: {exc.strerror}") from exc
        return parse_network(data, str(self._network))[0]

    def open(self) -> "Store":
        """The ledger, for reading."""
        from .store import Store

        return Store.open(self.store, self.genesis(), read_only=True)


def _on_ledger(command: Callable[..., None]) -> Callable[..., None]:
    """Options --home, --store, --network, --json; the command gets `place` and `as_json`."""

    def run(home: Path | None, store: Path | None, network: Path | None, **values: Any) -> None:
        command(place=Place(home, store, network), **values)

    run.__doc__ = command.__doc__
    run = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(run)
    run = click.option("--network", type=_File, help="The network file; by default network.json in the home.")(run)
    run = click.option("--store", type=_File, help="The ledger file; by default ledger.db in the home.")(run)
    return click.option("--home", type=_File, envvar="FORGE_HOME", help="A peer's home folder [FORGE_HOME].")(run)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Verify and read the ledger of a P2P-LLM-Forge network, offline."""


@main.command("verify", cls=_Command)
@_on_ledger
def verify_command(place: Place, as_json: bool) -> None:
    """Replay the whole ledger from its bytes.

    Names the first fault of each log. Exit code 0: sound, 1: not, 2: unreadable.
    """
    from .verify import verify_store

    genesis = place.genesis()
    report = verify_store(place.store, genesis)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        _print_report(report, genesis)
    sys.exit(0 if report.ok else 1)


def _print_report(report: "Report", genesis: "Genesis") -> None:
    counts = report.counts
    click.echo(f"network {genesis.name} {genesis.id[:16]}")
    click.echo(
        f"{counts['logs']} logs, {counts['entries']} entries ({counts['certified']} certified), "
        f"{counts['receipts']} receipts, {counts['void']} void, {counts['pending']} pending"
    )
    if report.ok:
        click.secho("SOUND", fg="green", bold=True)
    else:
        faults = "1 fault" if len(report.faults) == 1 else f"{len(report.faults)} faults"
        click.secho(f"NOT SOUND: {faults}", fg="red", bold=True)
        for fault in report.faults:
            click.echo(f"  {fault}")
    for title, sentences in (("proven:", report.proven), ("not proven:", report.not_proven)):
        for sentence in sentences:
            click.echo(f"{title:<12} {sentence}")
            title = ""


@main.command("show", cls=_Command)
@_on_ledger
def show_command(place: Place, as_json: bool) -> None:
    """The network, its logs and its runs."""
    from .describe import credits, short

    with place.open() as store:
        genesis, ledger = store.genesis, store.ledger()
        certificates = {origin: store.certified(origin) for origin in store.origins()}
        logs = [(origin, store.size(origin), found.size if found else 0) for origin, found in certificates.items()]
        if as_json:
            runs = {run: asdict(account) for run, account in ledger.runs.items()}
            totals = {"issued": ledger.issued, "burned": ledger.burned, "unclaimed": ledger.unclaimed}
            sizes = [{"origin": origin, "entries": size, "certified": certified} for origin, size, certified in logs]
            click.echo(json.dumps({"id": genesis.id, **genesis.to_json(), "logs": sizes, "runs": runs, **totals}))
            return
        click.echo(f"network   {genesis.name} {genesis.id}")
        names = ", ".join(name for name, _ in genesis.witnesses)
        click.echo(f"witnesses {names} (quorum {genesis.quorum}, f = {genesis.f})")
        amounts = (ledger.issued, ledger.burned, ledger.unclaimed)
        click.echo("credits   {} issued, {} burned, {} unclaimed".format(*map(credits, amounts)))
        _table(("log", "entries", "certified"), [(short(log[0]), *log[1:]) for log in logs])
        rows = [
            (short("run/" + run), account.name, account.rounds_settled, "closed" if account.closed else "running",
             credits(account.balance), credits(sum(account.paid.values())))
            for run, account in ledger.runs.items()
        ]  # fmt: skip
        _table(("run", "name", "rounds", "status", "balance", "paid"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    from .describe import table

    for number, line in enumerate(table(head, rows)):
        click.secho(line, bold=number == 0)


@main.command("log", cls=_Command)
@click.argument("log")
@click.option("--start", type=click.IntRange(0), default=0, help="The first entry.")
@click.option("--end", type=click.IntRange(0), default=None, help="The entry to stop before.")
@_on_ledger
def log_command(place: Place, log: str, start: int, end: int | None, as_json: bool) -> None:
    """The entries of one LOG: an origin, an account, "run/" and a run id, or the beginning of one."""
    from .describe import entry_line
    from .entries import parse

    with place.open() as store:
        origin = _find(store, log)
        ledger, certificate = store.ledger(), store.certified(origin)
        certified = certificate.size if certificate else 0
        without = {void.index: void for void in ledger.voids if void.origin == origin}
        entries = []
        for index, data in enumerate(store.entries(origin, start, store.size(origin) if end is None else end), start):
            entry = parse(data)
            status = _status(index, certified, ledger.decided.get(origin, 0), without.get(index))
            entries.append({"index": index, "status": status, "entry": entry.to_json()})
            if not as_json:
                click.echo(f"{index:>6}  {entry_line(entry)}" + ("" if status == "effective" else f"  [{status}]"))
        if as_json:
            click.echo(json.dumps({"origin": origin, "certified": certified, "entries": entries}))


def _status(index: int, certified: int, decided: int, void: "Outcome | None") -> str:
    if index >= certified:
        return "not certified"
    if void is not None:
        return f"void: {void.rule} is {void.got}, wanted {void.wanted}"
    return "effective" if index < decided else "pending"


def _find(store: "Store", name: str) -> str:
    """The one log that this name means."""
    origins = store.origins()
    owners = {origin: store.genesis.terms.owner(origin) for origin in origins}
    found = [origin for origin, owner in owners.items() if name in (origin, owner, owner.removeprefix("run/"))]
    if name and not found:
        found = [origin for origin, owner in owners.items() if owner.startswith((name, f"run/{name}"))]
    if len(found) != 1:
        many = f"{len(found)} logs begin so" if found else "there is no such log"
        raise StoreUnreadable(f"log {name!r}: {many}; forge-ledger show --json lists all {len(origins)}")
    return found[0]


@main.command("balance", cls=_Command)
@click.argument("account", required=False)
@_on_ledger
def balance_command(place: Place, account: str | None, as_json: bool) -> None:
    """What ACCOUNT, or every account, can spend and may yet claim."""
    from .describe import credits

    with place.open() as store:
        ledger = store.ledger()
    claimable = {owner: sum(sources.values()) for owner, sources in ledger.claimable.items() if "/" not in owner}
    owners = sorted({*ledger.balances, *claimable})
    if account is not None:
        found = [owner for owner in owners if owner.startswith(account)]
        if len(found) != 1:
            many = f"{len(found)} accounts begin so" if found else "no such account owns anything here"
            raise StoreUnreadable(f"account {account!r}: {many}; forge-ledger balance lists all {len(owners)}")
        owners = found
    rows = [(owner, ledger.balances.get(owner, 0), claimable.get(owner, 0)) for owner in owners]
    if as_json:
        body = {owner: {"balance": balance, "claimable": claim} for owner, balance, claim in rows}
        click.echo(json.dumps({"unit": "micro-credits", "accounts": body}))
    else:
        lines = [(owner, credits(balance), credits(claim)) for owner, balance, claim in rows]
        _table(("account", "credits", "claimable"), lines)


@main.command("export", cls=_Command)
@click.argument("folder", type=_File)
@_on_ledger
def export_command(place: Place, folder: Path, as_json: bool) -> None:
    """Write all certified logs into FOLDER as tlog-tiles, with the genesis beside them."""
    from . import tiles
    from .merkle import Tree, leaf_hash

    with place.open() as store:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreUnreadable(f"{folder}: is not an empty folder; choose another")
        counts = {"logs": 0, "entries": 0, "files": 1}
        try:
            _write(folder / "genesis.json", store.genesis.encode())
            for origin in store.origins():
                certificate = store.certified(origin)
                if certificate is None:
                    continue
                entries = store.entries(origin, 0, certificate.size)
                tree = Tree(map(leaf_hash, entries))
                place_ = folder / store.genesis.terms.owner(origin)
                for name, data in tiles.files(tree, certificate.size, entries, certificate.note):
                    _write(place_ / name, data)
                    counts["files"] += 1
                counts["logs"] += 1
                counts["entries"] += len(entries)
        except OSError as exc:
            raise StoreUnreadable(f"{exc.filename or folder}: cannot write: {exc.strerror}") from exc
    click.echo(
        json.dumps({"folder": str(folder), **counts})
        if as_json
        else f"{counts['logs']} logs with {counts['entries']} entries in {folder}"
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@main.command("keygen", cls=_Command)
@click.argument("file", type=_File)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def keygen_command(file: Path, as_json: bool) -> None:
    """Make a key, keep it in FILE for its owner only, and print its public part."""
    from .keys import PrivateKey

    key = PrivateKey.generate()
    key.save(file)
    click.echo(json.dumps({"file": str(file), "public": key.public}) if as_json else key.public)
