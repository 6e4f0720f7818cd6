"""`recover`: fetch back what our own key signed elsewhere, after an old backup was restored.

IO: writes one store, reads another or an archive, or asks the network through the plug-in `live`.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import Conflict, Frozen, LedgerError, StoreBusy

from .base import FILE, Command, Place, on_ledger, print_json, print_table

if TYPE_CHECKING:
    from ledger.keys import PrivateKey
    from ledger.live import Tail
    from ledger.store.store import Store

Sources = Callable[[Mapping[str, int]], "dict[str, dict[str, Tail]]"]
"""Own logs and how much of each is certified here -> by log and source, what the source has from there on."""


@click.command("recover", cls=Command, short_help="Fetch back our own entries after restoring a backup.")
@click.option("--from", "origin", type=FILE, metavar="DIR|STORE", help="An exported folder, or another ledger file.")
@click.option("--bootstrap", multiple=True, metavar="ADDRESS", help="Join the network here; may be repeated.")
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, metavar="SECONDS",
              help="How long each witness has to answer.")  # fmt: skip
@click.option("--key", type=FILE, help="The account's key; by default keys/account.key in the home.")
@on_ledger
def recover(
    place: Place, origin: Path | None, bootstrap: tuple[str, ...], timeout: float, key: Path | None, as_json: bool
) -> None:
    """Take over entries of our own logs that our key signed but that are not here, as after restoring an old backup.

    They come from live witnesses, or with --from from an exported folder or another ledger file. The daemon must be
    stopped. Exit code 0: done, 1: our key contradicted itself and that log is lost, 2: nobody could be asked.
    """
    from ledger.keys import PrivateKey

    if key is None and place.home is None:
        raise click.UsageError("say whose logs: --home DIR, or --key FILE")
    own = PrivateKey.load(key or (place.home or Path()) / "keys" / "account.key")
    genesis, addresses = place.genesis(), [] if origin else place.bootstrap(bootstrap, place.genesis())
    problems: dict[str, str] = {}
    with _open(place) as store:
        if origin is not None:
            found = _from_file(store, origin, own)
        else:
            from ledger import live
            from ledger.describe import count

            starts = {log: _certified(store, log) for log in _own_logs(store, own)}
            if not as_json:
                witnesses, logs = count(len(genesis.witnesses), "witness", "witnesses"), count(len(starts), "log")
                click.echo(f"asking {witnesses} about {logs} …", err=True)
            found = live.live().entries(genesis, addresses, starts, timeout)
            problems = _problems(found)
        outcomes = [_take(store, log, tails, own) for log, tails in sorted(found.items())]
    asked = {name for tails in found.values() for name in tails}
    _print(outcomes, problems, as_json=as_json)
    if any(outcome.lost for outcome in outcomes):
        sys.exit(1)
    sys.exit(2 if asked and asked == set(problems) else 0)


def _open(place: Place) -> "Store":
    try:
        return place.open(writable=True)
    except StoreBusy as exc:
        raise StoreBusy(f"{place.store}: its daemon runs; stop it first: forge-peer stop --home {place.home}") from exc


def _certified(store: "Store", log: str) -> int:
    certificate = store.certified(log)
    return certificate.size if certificate else 0


def _own_logs(store: "Store", key: "PrivateKey") -> list[str]:
    """Our account's log, and those of runs that we lead."""
    from ledger.archive import exporting as archive

    account = store.genesis.origin(key.public)
    runs = [log for log in store.origins() if log != account and key.public in archive.writers(store, log)]
    return [account, *runs]


def _problems(found: "Mapping[str, Mapping[str, Tail]]") -> dict[str, str]:
    """The witnesses that failed on some log, and how."""
    return {name: tail.error for tails in found.values() for name, tail in tails.items() if tail.error}


def _from_file(store: "Store", path: Path, key: "PrivateKey") -> "dict[str, dict[str, Tail]]":
    """What an archive or another ledger has of our logs."""
    if path.is_dir() and (path / "ledger.db").is_file():
        path = path / "ledger.db"
    return _from_archive(store, path, key) if path.is_dir() else _from_store(store, path, key)


def _from_store(store: "Store", path: Path, key: "PrivateKey") -> "dict[str, dict[str, Tail]]":
    from ledger import notes
    from ledger.live import Tail
    from ledger.store.store import Store

    found = {}
    with Store.open(path, store.genesis, read_only=True) as other:
        for log in _own_logs(other, key):
            certificate = other.certified(log)
            signed = [note for note in (other.head(log), certificate.note if certificate else None) if note]
            sized = [(notes.checkpoint(notes.parse(note)).size, note) for note in signed]
            if sized:
                size, note = max(sized, key=lambda pair: pair[0])
                entries = tuple(other.entries(log, _certified(store, log), size))
                sealed = certificate.note if certificate else b""
                found[log] = {str(path): Tail(entries=entries, note=note, certificate=sealed)}
    return found


def _from_archive(store: "Store", path: Path, key: "PrivateKey") -> "dict[str, dict[str, Tail]]":
    from ledger.archive import importing as archived
    from ledger.entries import Begin, parse
    from ledger.live import Tail

    archived.genesis_of(path, store.genesis)
    found = {}
    for owner in archived.owners(path):
        log = archived.log_folder(path, owner, store.genesis)
        if owner != key.public:
            begin = parse(log.entries(0, 1)[0]) if owner.startswith("run/") else None
            if not isinstance(begin, Begin) or key.public not in begin.leaders:
                continue
        log.tree()
        start = min(_certified(store, log.head.origin), log.head.size)
        entries = tuple(log.entries(start, log.head.size)) if start < log.head.size else ()
        found[log.head.origin] = {str(path): Tail(entries=entries, note=log.note, certificate=log.note)}
    return found


@dataclass(kw_only=True)
class _Outcome:
    """What became of one log."""

    log: str
    had: int
    """Entries before."""
    has: int
    """Entries now."""
    source: str = ""
    """Who gave what was missing."""
    lost: str = ""
    """Why it cannot be recovered."""
    refused: tuple[str, ...] = ()
    """What sources gave that is no good."""

    @property
    def taken(self) -> int:
        """How many entries came."""
        return max(0, self.has - self.had)


def _take(store: "Store", log: str, tails: "Mapping[str, Tail]", key: "PrivateKey") -> _Outcome:
    """Take over the longest that is good, the rest where it agrees."""
    outcome = _Outcome(log=log, had=store.size(log), has=store.size(log))
    start = _certified(store, log)
    for name, tail in sorted(tails.items(), key=lambda pair: -len(pair[1].entries)):
        if tail.error or not tail.note:
            continue
        try:
            store.recover(log, start, tail.entries, tail.note, key.public)
            if store.size(log) > outcome.has:
                outcome.source = name
            if tail.certificate:
                store.certify(log, tail.certificate)
        except LedgerError as exc:
            if isinstance(exc, Conflict | Frozen) and store.evidence(log):
                outcome.lost = _loss(store, log, start, tail, name)
                break
            outcome.refused = (*outcome.refused, f"{name}: {exc.message}")
        outcome.has = store.size(log)
    return outcome


def _loss(store: "Store", log: str, start: int, tail: "Tail", name: str) -> str:
    """What a real fork means, in words."""
    here = store.entries(log, start, store.size(log))
    same = next((i for i, pair in enumerate(zip(here, tail.entries, strict=False)) if pair[0] != pair[1]), 0)
    ours, theirs = len(here) - same, len(tail.entries) - same
    return (
        f"our key signed two histories from entry {start + same} on: {ours} entries here, and {theirs} others that "
        f"{name} has. What is certified stays true, but no witness cosigns this log any more: nothing can be added, so "
        "what its owner has cannot be moved. Go on with a new account, and never run one key on two machines"
    )


def _print(outcomes: Iterable[_Outcome], problems: Mapping[str, str], *, as_json: bool) -> None:
    from ledger.describe import short

    outcomes = list(outcomes)
    if as_json:
        logs: list[dict[str, Any]] = [
            {"origin": item.log, "had": item.had, "has": item.has, "recovered": item.taken, "source": item.source,
             "lost": item.lost, "refused": list(item.refused)} for item in outcomes
        ]  # fmt: skip
        print_json({"ok": not any(item.lost for item in outcomes), "logs": logs, "failed": dict(problems)})
        return
    for name, reason in problems.items():
        click.echo(f"  {name}: {reason}")
    rows = [(short(item.log), item.had, item.taken, item.has, item.source) for item in outcomes if item.taken]
    print_table(("log", "had", "recovered", "now", "from"), rows)
    for item in outcomes:
        for refused in item.refused:
            click.echo(f"{short(item.log)}: not taken from {refused}")
        if item.lost:
            click.secho(f"LOST {item.log}: {item.lost}", fg="red", bold=True)
    if not rows and not any(item.lost for item in outcomes):
        click.echo("nothing to recover: nobody who answered has more of your logs than is here")


COMMANDS = (recover,)
