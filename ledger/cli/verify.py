"""`verify`: replay a ledger from its bytes.

IO: reads one store, writes to the terminal.
"""

import sys
from typing import TYPE_CHECKING

import click

from .base import Command, Place, on_ledger, print_json

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.report import Report


@click.command("verify", cls=Command)
@on_ledger
def verify(place: Place, as_json: bool) -> None:
    """Replay the whole ledger from its bytes.

    Names the first fault of each log. Exit code 0: sound, 1: not, 2: unreadable.
    """
    from ledger.verify import verify_store

    genesis = place.genesis()
    report = verify_store(place.store, genesis)
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report, genesis)
    sys.exit(0 if report.ok else 1)


def print_report(report: "Report", genesis: "Genesis") -> None:
    """The report for people."""
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


COMMANDS = (verify,)
