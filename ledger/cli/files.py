"""`export`, `import` and `keygen`: what reads and writes files besides the ledger.

IO: files and the terminal.
"""

from pathlib import Path

import click

from .base import FILE, Command, Place, on_ledger, print_json, read_network, with_json, write_network
from .progress import Progress


@click.command("keygen", cls=Command)
@click.argument("file", type=FILE)
@with_json
def keygen(file: Path, as_json: bool) -> None:
    """Make a key, keep it in FILE for its owner only, and print its public part."""
    from ledger.keys import PrivateKey

    key = PrivateKey.generate()
    key.save(file)
    if as_json:
        print_json({"file": str(file), "public": key.public})
    else:
        click.echo(key.public)


@click.command("export", cls=Command, short_help="Write all certified logs into a folder of tlog-tiles.")
@click.argument("folder", type=FILE)
@on_ledger
def export(place: Place, folder: Path, as_json: bool) -> None:
    """Write all certified logs into FOLDER as tlog-tiles, which other transparency-log tools read."""
    from ledger.archive import exporting as archive

    with place.open() as store:
        counts = archive.export(store, folder)
    if as_json:
        print_json({"folder": str(folder), **counts})
    else:
        click.echo(f"{_counted(counts)} in {folder}")


@click.command("import", cls=Command, short_help="Make a new ledger of an exported folder, checked.")
@click.argument("folder", type=FILE)
@on_ledger
def import_(place: Place, folder: Path, as_json: bool) -> None:
    """Make a new ledger of an exported FOLDER, once everything in it is checked.

    With --home DIR it becomes DIR/ledger.db, and DIR/network.json is made where there is none. With --store FILE only
    that file is made. --network FILE says which network it must be of; otherwise the archive's own genesis is taken.
    """
    from ledger.archive import importing as archived

    network = place.network_if_there()
    genesis = read_network(network)[0] if network else None
    progress = Progress("importing", "logs")
    try:
        counts = archived.import_archive(folder, place.store, genesis, progress)
    finally:
        progress.end()
    if network is None and place.is_home:
        write_network(place.network, archived.genesis_of(folder))
    if as_json:
        print_json({"store": str(place.store), **counts})
    else:
        click.echo(f"{_counted(counts)} in {place.store}")
        if genesis is None:
            found = archived.genesis_of(folder)
            click.echo(f"network {found.name} {found.id}: as the archive says; compare it with a source you trust")


def _counted(counts: dict[str, int]) -> str:
    from ledger.describe import count

    return f"{count(counts['logs'], 'log')} with {count(counts['entries'], 'entry', 'entries')}"


COMMANDS = (export, import_, keygen)
