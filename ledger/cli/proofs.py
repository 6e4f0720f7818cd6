"""`prove` and `check`: one entry, or one exported model, shown to somebody who has no ledger.

IO: reads one store, file or folder, writes to the terminal.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import Behind, LedgerError, ProofInvalid

from .base import FILE, Command, Place, fail, on_ledger, print_json, read_file, read_network, with_json
from .exported import check_exported
from .find import find_entry

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.proof import Proven


@click.command("prove", cls=Command, short_help="Write the proof that a receipt or entry is certified.")
@click.argument("entry", metavar="RECEIPT")
@on_ledger
def prove(place: Place, entry: str, as_json: bool) -> None:
    """Write the proof that an entry is certified to standard output.

    \b
    forge-ledger prove RECEIPT > proof.txt

    RECEIPT is LOG:INDEX, or the beginning of an entry's leaf hash or of a receipt's update id. Any entry will do. The
    proof is a C2SP tlog-proof; forge-ledger check reads it without a ledger.
    """
    from ledger import proof

    with place.open() as store:
        found = find_entry(store, entry)
        is_run = store.genesis.terms.owner(found.origin).startswith("run/")
        begin = store.entries(found.origin, 0, 1)[0] if is_run else b""
        try:
            data = proof.write(store.inclusion(found.origin, found.at), found.data, begin)
        except Behind as exc:
            fail(exc, as_json=as_json, code=1)
    if as_json:
        print_json({"origin": found.origin, "index": found.at, "proof": data.decode()})
    else:
        click.echo(data, nl=False)


@click.command("check", cls=Command, short_help="Check a proof, or an exported model, offline.")
@click.argument("file", type=FILE, metavar="FILE|FOLDER")
@click.option("--network", type=FILE, required=True, help="The network file: whose witnesses are trusted.")
@with_json
def check(file: Path, network: Path, as_json: bool) -> None:
    """Check a proof that forge-ledger prove wrote, or a model that forge-peer export wrote, offline.

    Of a model's folder it proves that a quorum certified this state of this run, and that weights, configuration and
    tokenizer are those of the state and the run, bit by bit. FILE may be "-" for standard input.

    Exit code 0: it proves what is printed, 1: it proves nothing, 2: it or the network file cannot be read.
    """
    from ledger import proof

    genesis = read_network(network)[0]
    exported = (file / "provenance").is_dir()
    parsed = None if exported else proof.parse(read_file(file, proof.MAX_FILE, ProofInvalid, "a proof or a model"))
    try:
        if parsed is None:
            check_exported(file, genesis, as_json=as_json)
            return
        proven = proof.check(parsed, genesis)
    except LedgerError as exc:
        if not as_json:
            click.secho("PROVES NOTHING", fg="red", bold=True)
        fail(exc, as_json=as_json, code=1)
    if as_json:
        print_json(_to_json(proven))
    else:
        _print(proven, genesis)


def _to_json(proven: "Proven") -> dict[str, Any]:
    facts = {**asdict(proven), "entry": proven.entry.to_json(), "run": None}
    if proven.begin is not None:
        facts["run"] = {"id": proven.owner.removeprefix("run/"), "name": proven.begin.spec["name"]}
    del facts["begin"]
    facts["witnessed"] = [{"witness": name, "time_s": time_s} for name, time_s in proven.witnessed]
    return {"ok": True, **facts, "not_proven": list(_not_proven(proven))}


def _print(proven: "Proven", genesis: "Genesis") -> None:
    from ledger.describe import entry_facts, moment

    click.secho("PROVEN", fg="green", bold=True)
    facts = [("network", f"{genesis.name} {genesis.id}"), ("log", proven.origin)]
    if proven.begin is not None:
        facts.append(("run", f"{proven.begin.spec['name']!r} {proven.owner.removeprefix('run/')}"))
    facts.append(("entry", f"{proven.index} among the first {proven.size}, leaf hash {proven.leaf}"))
    facts += entry_facts(proven.entry)
    facts.append(("signed by", f"{proven.writer}, who may write this log"))
    n = len(genesis.witnesses)
    facts.append(("certified", f"by {len(proven.witnessed)} of {n} witnesses, {genesis.quorum} are wanted:"))
    facts += [("", f"{name} at {moment(time_s)}") for name, time_s in proven.witnessed]
    for title, text in facts:
        click.echo(f"{title:<12} {text}".rstrip())
    title = "not proven:"
    for sentence in _not_proven(proven):
        click.echo(f"{title:<12} {sentence}")
        title = ""


def _not_proven(proven: "Proven") -> tuple[str, ...]:
    work: tuple[str, ...]
    if proven.entry.type == "receipt":
        effect = "that the receipt was settled and paid: its run's later entries say so; forge-ledger why tells it"
        work = ("that the work behind it was honest: a receipt says who contributed which update",)
    else:
        work = ()
        effect = "that the entry had an effect: a send above the balance has none; forge-ledger why tells it"
    return (effect, *work, "that the times are right: each is what the witness's own clock said")


COMMANDS = (prove, check)
