"""What all commands of `forge-ledger` share: which ledger is meant, tables and JSON, and how errors are told.

Exit codes: 0 fine, 1 not sound or not proven, 2 unreadable or asked for wrongly. Nothing heavy is imported before a
command needs it, so that `--help` answers at once.

IO: files and the terminal.
"""

import contextlib
import difflib
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ledger.errors import GenesisInvalid, LedgerError

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.store.store import Store

FILE = click.Path(path_type=Path)
"""A file or folder, as the commands take it."""


class Group(click.Group):
    """A group that knows which command was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words call."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.commands, 1)
            guess = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(self.commands))}"
            raise click.UsageError(f"no command {args[0]!r}{guess}", ctx)
        return super().resolve_command(ctx, args)


class Command(click.Command):
    """A command whose errors are one line (and with --json one object) and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LedgerError as exc:
            fail(exc, as_json=bool(ctx.params.get("as_json")))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)  # click would end with 1, which says that the ledger is not sound
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(2)


def fail(error: LedgerError, *, as_json: bool, code: int = 2) -> NoReturn:
    """Tell an error and end with this exit code."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message}})
    click.echo(f"{error.code}: {' '.join(error.message.split())}", err=True)
    sys.exit(code)


class Place:
    """The ledger that a command is about."""

    def __init__(self, home: Path | None, store: Path | None, network: Path | None) -> None:
        self.home = home
        self.given_network = network
        """The network file that was named, if one was."""
        self._store = store

    @property
    def is_home(self) -> bool:
        """Whether the ledger file is the one of a home."""
        return self.home is not None and self._store is None

    @property
    def store(self) -> Path:
        """The ledger file."""
        if self.home is None and self._store is None:
            raise click.UsageError("say which ledger: --home DIR, or --store FILE --network FILE")
        return self._store or (self.home or Path()) / "ledger.db"

    @property
    def network(self) -> Path:
        """The network file."""
        if self.home is None and self.given_network is None:
            raise click.UsageError("say which ledger: --home DIR, or --store FILE --network FILE")
        return self.given_network or (self.home or Path()) / "network.json"

    def network_if_there(self) -> Path | None:
        """The network file: as named, or the one in the home where that exists."""
        if self.given_network is None and self.home is not None and (self.home / "network.json").exists():
            return self.home / "network.json"
        return self.given_network

    def genesis(self) -> "Genesis":
        """The network's genesis."""
        return read_network(self.network)[0]

    def bootstrap(self, given: Sequence[str], genesis: "Genesis") -> list[str]:
        """The addresses to join the network through: those given, in the files of network and home, of peers met."""
        found: list[object] = [*given]
        file = self.network_if_there()
        if file is not None and read_network(file)[0].id == genesis.id:
            found += read_network(file)[1]
        if self.home is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                found += tomllib.loads((self.home / "peer.toml").read_text("utf-8")).get("bootstrap", [])
            with contextlib.suppress(OSError, ValueError, TypeError):
                found += json.loads((self.home / "peers.json").read_bytes()[: 1 << 14])
        return list(dict.fromkeys(item for item in found if type(item) is str))

    def open(self, *, writable: bool = False) -> "Store":
        """The ledger, for reading unless said otherwise."""
        from ledger.store.store import Store

        store = self.store
        return Store.open(store, self.genesis(), read_only=not writable)


def read_network(path: Path) -> "tuple[Genesis, tuple[str, ...]]":
    """Genesis and bootstrap addresses of a network file, or of a bare genesis.

    Raises:
        GenesisInvalid: it cannot be read or is neither.
    """
    from ledger.genesis import parse_network

    return parse_network(read_file(path, 1 << 20, GenesisInvalid, "the network file"), str(path))


def write_network(path: Path, genesis: "Genesis") -> None:
    """Make a network file without addresses.

    Raises:
        GenesisInvalid: it cannot be written.
    """
    body = {"genesis": genesis.to_json(), "bootstrap": []}
    write_file(path, json.dumps(body, indent=1).encode() + b"\n", GenesisInvalid)


def read_file(path: Path, limit: int, error: type[LedgerError], what: str) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; "-" is standard input.

    Raises:
        LedgerError: of the class `error`, where it is none.
    """
    make: Callable[[str], LedgerError] = error
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        elif path.exists() and not path.is_file():
            raise make(f"{path}: is not a file; give {what}")
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except OSError as exc:
        raise make(f"{path}: cannot read {what}: {exc.strerror}") from exc
    if len(data) > limit:
        raise make(f"{path}: has over {limit} bytes, too many for {what}")
    return data


def write_file(path: Path, data: bytes, error: type[LedgerError]) -> None:
    """Write a file whole or not at all.

    Raises:
        LedgerError: of the class `error`, where it cannot be written.
    """
    make: Callable[[str], LedgerError] = error
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise make(f"{path}: cannot write: {exc.strerror}") from exc


def with_json(command: Callable[..., None]) -> Callable[..., None]:
    """Option --json; the command gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def on_ledger(command: Callable[..., None]) -> Callable[..., None]:
    """Options --home, --store, --network, --json; the command gets `place` and `as_json`."""

    def run(home: Path | None, store: Path | None, network: Path | None, **values: Any) -> None:
        command(place=Place(home, store, network), **values)

    run.__doc__ = command.__doc__
    run.__dict__.update(command.__dict__)  # the options and arguments that it has already
    run = with_json(run)
    run = click.option("--network", type=FILE, help="The network file; by default network.json in the home.")(run)
    run = click.option("--store", type=FILE, help="The ledger file; by default ledger.db in the home.")(run)
    return click.option("--home", type=FILE, envvar="FORGE_HOME", help="A peer's home folder [FORGE_HOME].")(run)


def print_json(value: object) -> None:
    """One line of JSON."""
    click.echo(json.dumps(value))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """A table for people; nothing where there are no rows. The first `left` columns stand to the left."""
    from ledger.describe import table

    for number, line in enumerate(table(head, rows, left=left)):
        click.secho(line, bold=number == 0)
