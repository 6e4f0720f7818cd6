"""`export`, `import` and `keygen`: what reads and writes files besides the ledger.

IO: files and the terminal.
"""

from pathlib import Path

import click

from .base import FILE, Command, Place, on_ledger, print_json, with_json


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


@click.command("export", cls=Command)
@click.argument("folder", type=FILE)
@on_ledger
def export(place: Place, folder: Path, as_json: bool) -> None:
    """Write all certified logs into FOLDER as tlog-tiles, which other transparency-log tools read."""
    from ledger import archive

    with place.open() as store:
        counts = archive.export(store, folder)
    if as_json:
        print_json({"folder": str(folder), **counts})
    else:
        click.echo(f"{counts['logs']} logs with {counts['entries']} entries in {folder}")


COMMANDS = (export, keygen)
