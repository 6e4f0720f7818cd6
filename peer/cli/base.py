"""What all commands of `forge-peer` share: the home option, JSON output, tables, and how errors are told.

IO: reads the environment, writes to standard output and standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from peer.errors import ForgeError

if TYPE_CHECKING:
    from peer.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])
USAGE = "FP-500"
NO_RUN = "FP-404"


def default_home() -> Path:
    """`FORGE_HOME`, or the user's data folder."""
    if given := os.environ.get("FORGE_HOME"):
        return Path(given).expanduser()
    from platformdirs import user_data_path

    return user_data_path("p2p-llm-forge")


def with_home(command: F) -> F:
    """Adds `--home`; the command gets an absolute path."""

    def absolute(_context: click.Context, _option: click.Parameter, value: str | None) -> Path:
        return Path(value).expanduser().absolute() if value else default_home().absolute()

    help_text = "Folder of the peer: keys, ledger, blobs, runs.  [default: $FORGE_HOME or the user's data folder]"
    return click.option("--home", metavar="DIR", callback=absolute, help=help_text)(command)


def with_json(command: F) -> F:
    """Adds `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def client(home: Path) -> Client:
    """The gateway of the home's daemon."""
    from peer.cli.client import Client

    return Client(home)


def choose_run(daemon: Client, run: str | None) -> str:
    """The run that a command means: as given, or the only one that goes on, or the newest.

    Raises:
        ForgeError: there is none.
    """
    if run:
        return run
    jobs = daemon.get("/jobs")
    if not jobs:
        raise ForgeError(NO_RUN, f"no run is known in {daemon.home}", "start one: forge-peer submit SPEC.yaml")
    going = [job for job in jobs if job.get("phase") != "closed"]
    return str((going if len(going) == 1 else jobs)[-1]["run"])


def print_json(value: object) -> None:
    """One line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns."""
    cells = [list(head), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, aligned."""
    pairs = [(name, str(value)) for name, value in facts]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name.ljust(width)}  {value}")


def tell(code: str, message: str, fix: str) -> None:
    """One line on standard error; with `--json` also an object on standard output."""
    line = " ".join(f"forge-peer: {code}: {message}".split())
    click.echo(line + (f" ({' '.join(fix.split())})" if fix else ""), err=True)
    if "--json" in sys.argv and "demo" not in sys.argv[:2]:  # there it names a file
        print_json({"error": {"code": code, "message": message, "fix": fix}})


def call(command: click.Command) -> int:
    """Runs a command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from ledger.errors import LedgerError
    from p2p_llm_forge.errors import EngineError

    try:
        result = command.main(prog_name="forge-peer", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "forge-peer"
        tell(USAGE, exc.format_message(), f"{path} --help")
        return 2
    except click.ClickException as exc:
        tell(USAGE, exc.format_message(), "")
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("forge-peer: interrupted", err=True)
        return 130
    except (ForgeError, LedgerError, EngineError) as exc:
        tell(exc.code, exc.message, getattr(exc, "fix", ""))
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        tell("FP-502", f"{exc.filename or 'input or output'}: {exc.strerror or exc}", "")
        return 1
