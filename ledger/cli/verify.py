"""`verify`: replay a ledger from its bytes; hold it against live witnesses; replay a run's training.

IO: reads a store or an archive, writes to the terminal and the files it is asked for.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import LedgerError, NoteInvalid, StoreUnreadable

from .base import FILE, Command, Place, on_ledger, print_json, read_file, read_network, write_file
from .peers import ask_witnesses, print_comparison, with_witnesses
from .progress import Progress

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.live import ReplayReport
    from ledger.store.store import Store
    from ledger.verify.compare import Comparison
    from ledger.verify.report import Fault, Report

@click.command("verify", cls=Command, short_help="Replay the whole ledger from its bytes.")
@click.option("--archive", type=FILE, help="Verify this exported folder instead of a ledger file.")
@click.option("--since", type=FILE, help="Certificates of an earlier verification: what they cover is checked quickly.")
@click.option("--write-cert", type=FILE, help="Write the certificates that this verification ends with.")
@click.option("--peers", is_flag=True, help="Also compare with what live witnesses certify now.")
@click.option("--bootstrap", multiple=True, metavar="ADDRESS", help="With --peers: join the network here; repeatable.")
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=15.0, show_default=True, metavar="SECONDS",
              help="With --peers: how long each witness has to answer.")  # fmt: skip
@click.option("--evidence", "folder", type=FILE, default=".", help="With --peers: where proofs of forks are written.")
@click.option("--replay", metavar="RUN", help="Also apply all updates of a run again and compare every state.")
@click.option("--processes", type=click.IntRange(1, 256), help="Processes; by default as many as there are cores.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@on_ledger
def verify(place: Place, as_json: bool, quiet: bool, **options: Any) -> None:
    """Replay the whole ledger from its bytes.

    Names the first fault of each log. Exit code 0: sound, 1: not, 2: it cannot be read, or no witness answers, or a
    blob is missing for the replay.
    """
    genesis, store = (None, None) if options["archive"] else (place.genesis(), place.store)
    with _source(place, options["archive"], genesis, store) as (genesis, path, refused):
        report = _verify(path, genesis, options, quiet)
        if refused:
            report = replace(report, ok=False, faults=(*refused, *report.faults), proven=())
        if options["write_cert"] and report.ok:
            write_file(options["write_cert"], report.certificates, StoreUnreadable)
        more = _More()
        if report.ok and options["peers"]:
            report = more.ask(place, path, genesis, report, options, quiet)
        if report.ok and options["replay"]:
            more.replay(place, path, genesis, options["replay"], quiet)
    if as_json:
        print_json({**report.to_json(), **more.to_json()})
    else:
        _print(report, genesis, more)
        for asked in ("write_cert", "peers", "replay"):
            if options[asked] and not report.ok and more.comparison is None:
                click.echo(f"--{asked.replace('_', '-')}: left out, because the ledger is not sound")
    for error in more.errors:
        click.echo(f"{error.code}: {' '.join(error.message.split())}", err=True)
    sys.exit(1 if not report.ok or more.contradicted else 2 if more.unanswered else 0)


@dataclass(kw_only=True)
class _More:
    """What was found beyond the ledger itself."""

    comparison: "Comparison | None" = None
    files: list[Path] = field(default_factory=list)
    replayed: "ReplayReport | None" = None
    errors: list[LedgerError] = field(default_factory=list)

    def ask(
        self, place: Place, path: Path, genesis: "Genesis", report: "Report", options: dict[str, Any], quiet: bool
    ) -> "Report":
        """Compare with live witnesses; the report, with what they say."""
        try:
            bootstrap = place.bootstrap(options["bootstrap"], genesis)
            if not quiet:
                click.echo("asking the witnesses …", err=True)
            with _opened(path, genesis) as store:
                found = ask_witnesses(store, bootstrap, options["timeout"], options["folder"])
        except LedgerError as exc:
            self.errors.append(exc)
            return report
        self.comparison, self.files = found
        return with_witnesses(report, self.comparison)

    def replay(self, place: Place, path: Path, genesis: "Genesis", name: str, quiet: bool) -> None:
        """Replay the training of a run."""
        from ledger import live

        from .find import find_run

        if place.home is None:
            raise click.UsageError("--replay needs --home: the blobs of the run lie there")
        progress = Progress("replaying", "rounds", quiet=quiet)
        try:
            with _opened(path, genesis) as store:
                run = find_run(store, name)
                certificate = store.certified(genesis.run_origin(run))
                entries = store.entries(genesis.run_origin(run), 0, certificate.size if certificate else 0)
            self.replayed = live.replay().replay(place.home, run, entries, progress)
        except LedgerError as exc:
            self.errors.append(exc)
        finally:
            progress.end()

    @property
    def contradicted(self) -> bool:
        """Whether a state is not the log's."""
        return self.replayed is not None and bool(self.replayed.mismatches)

    @property
    def unanswered(self) -> bool:
        """Whether something that was asked for could not be told."""
        silent = self.comparison is not None and not self.comparison.answered
        return bool(self.errors) or silent or (self.replayed is not None and bool(self.replayed.missing))

    def to_json(self) -> dict[str, Any]:
        """All of it for programs."""
        parts: dict[str, Any] = {}
        if self.comparison is not None:
            parts["peers"] = {**self.comparison.to_json(), "evidence": [str(file) for file in self.files]}
        if self.replayed is not None:
            parts["replay"] = asdict(self.replayed)
        if self.errors:
            parts["errors"] = [{"code": error.code, "message": error.message} for error in self.errors]
        return parts


@contextmanager
def _source(
    place: Place, archive: Path | None, genesis: "Genesis | None", store: Path | None
) -> "Iterator[tuple[Genesis, Path, tuple[Fault, ...]]]":
    """The network, the ledger file to verify, and what made logs of an archive not get into it."""
    if archive is None:
        assert genesis is not None
        assert store is not None
        yield genesis, store, ()
        return
    from ledger.archive import importing as archived
    from ledger.store.store import Store
    from ledger.verify.report import Fault

    network = place.network_if_there()
    found = archived.genesis_of(archive, read_network(network)[0] if network else None)
    with tempfile.TemporaryDirectory(prefix="forge-ledger-") as folder:
        path = Path(folder) / "ledger.db"
        with Store.open(path, found, create=True) as opened:
            refused = archived.take_all(archive, opened)
            if not refused:
                archived.check_keys(archive, opened)
        yield found, path, tuple(
            Fault(origin=origin, entry=bad.entry, rule=bad.rule, got=bad.got, wanted=bad.wanted, what=bad.file)
            for origin, bad in refused.items()
        )


def _verify(path: Path, genesis: "Genesis", options: dict[str, Any], quiet: bool) -> "Report":
    from ledger import certificates
    from ledger.verify.verify import verify_store

    since = None
    if options["since"] is not None:
        data = read_file(options["since"], certificates.MAX_BYTES, NoteInvalid, "a certificates file")
        since = {origin: note.encode() for origin, note in certificates.parse(data).items()}
    progress = Progress("verifying", "entries", quiet=quiet)
    try:
        return verify_store(path, genesis, processes=options["processes"], since=since, progress=progress)
    finally:
        progress.end()


def _opened(path: Path, genesis: "Genesis") -> "Store":
    from ledger.store.store import Store

    return Store.open(path, genesis, read_only=True)


def _print(report: "Report", genesis: "Genesis", more: _More) -> None:
    from ledger.describe import count

    counts = report.counts
    click.echo(f"network {genesis.name} {genesis.id[:16]}")
    click.echo(
        f"{count(counts['logs'], 'log')}, {count(counts['entries'], 'entry', 'entries')} "
        f"({counts['certified']:,} certified), {count(counts['receipts'], 'receipt')}, "
        f"{counts['void']:,} void, {counts['pending']:,} pending"
    )
    if more.comparison is not None:
        print_comparison(more.comparison, more.files)
    if more.replayed is not None:
        _print_replay(more.replayed)
    if report.ok:
        click.secho("SOUND", fg="green", bold=True)
    else:
        click.secho(f"NOT SOUND: {count(len(report.faults), 'fault')}", fg="red", bold=True)
        for fault in report.faults:
            click.echo(f"  {fault}")
    for title, sentences in (("proven:", report.proven), ("not proven:", report.not_proven)):
        for sentence in sentences:
            click.echo(f"{title:<12} {sentence}")
            title = ""


def _print_replay(replayed: "ReplayReport") -> None:
    from ledger.describe import count

    states = count(replayed.compared, "state")
    click.echo(f"replayed {count(replayed.rounds, 'round')}: {states} compared with the log's")
    for mismatch in replayed.mismatches:
        click.secho(f"  ANOTHER STATE: {mismatch}", fg="red", bold=True)
    if replayed.missing:
        many = count(len(replayed.missing), "blob")
        click.echo(f"  {many} of the run not here, or damaged; a peer that took part may still have what is missing:")
    for blob in replayed.missing[:10]:
        click.echo(f"    {blob}")
    if replayed.left_out:
        click.echo(f"  not replayed: rounds {', '.join(map(str, replayed.left_out[:20]))}")


COMMANDS = (verify,)
