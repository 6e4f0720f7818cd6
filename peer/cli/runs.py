"""The commands of `forge-peer` about runs: submit, runs, status, watch, cancel, export, generate.

IO: the gateway of the home's daemon, standard output.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from peer.cli.base import choose_run, client, print_facts, print_json, print_table, with_home, with_json
from peer.cli.client import Client, run_path
from peer.cli.screen import on_a_terminal, screen
from peer.cli.staged import stage_lines
from peer.cli.view import Event, RunView, credits, nats, pause_end
from peer.errors import ForgeError

RUN = click.argument("run", required=False)


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--follow/--detach", default=False, help="Watch the run until it closes, or return once it is submitted.")
@click.option("--budget", type=float, help="Credits to fund the run with.  [default: what it can cost at most]")
@click.option("--min-peers", type=click.IntRange(1), help="Start when this many peers are ready.")
@click.option("--leaders", metavar="ACCOUNT,…", help="Who may lead besides you, in this order.  [default: witnesses]")
@with_home
@with_json
def submit(
    spec: Path, follow: bool, budget: float | None, min_peers: int | None, leaders: str | None, home: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Start a training run from a spec file.

    The witnesses that are willing (lead = true) may lead it while you are away; --leaders names others, --leaders ""
    nobody else.
    """
    from p2p_llm_forge.config import RunSpec

    settings = with_overrides(RunSpec.load(spec), budget=budget, min_peers=min_peers)
    daemon = client(home)
    body = {"spec": settings.for_worker(), "spec_text": spec.read_text("utf-8")}
    if leaders is not None:
        body["leaders"] = _accounts(leaders)
    run = ""
    for event in daemon.stream("POST", "/jobs/submit", body):
        if event["event"] == "error":
            raise ForgeError(event["code"], event["message"], event.get("fix", ""))
        if event["event"] == "submitted":
            run = event["run"]
        elif not as_json:
            show_progress(event)
    if not run:
        raise ForgeError("FP-511", f"the daemon in {home} ended the submission without a run", "see its log")
    if as_json:
        print_json({"run": run, "name": settings.name})
    else:
        click.echo(f"run {run} submitted; follow it with: forge-peer watch {run[:12]} --home {home}")
    if follow:
        follow_run(daemon, run, as_json=as_json)


def _accounts(text: str) -> list[str]:
    """The accounts of a list with commas."""
    accounts = [part.strip() for part in text.split(",") if part.strip()]
    for account in accounts:
        if len(account) != 64 or set(account) - set("0123456789abcdef"):
            raise click.UsageError(f"--leaders: {account!r} is no account (64 lowercase hex digits)")
    return accounts


def with_overrides(spec: Any, *, budget: float | None, min_peers: int | None) -> Any:
    """The spec with what the command line overrides, checked like the file itself."""
    changed = spec.for_worker()
    if budget is not None:
        changed["credits"] = {**changed["credits"], "budget": budget}
    if min_peers is not None:
        most = max(min_peers, spec.members.max)
        changed["members"] = {**changed["members"], "min": min_peers, "max": most}
    return spec if budget is None and min_peers is None else type(spec).from_worker(changed)


def show_progress(event: Event) -> None:
    """A step of the preparation; on a terminal, in place."""
    phase, done, total = event.get("phase", event["event"]), event.get("done"), event.get("total")
    text = f"preparing: {phase}" + (f" {done}/{total}" if total else "")
    finished = not total or done == total
    if on_a_terminal():
        click.echo(f"\r\x1b[K{text}", nl=finished)
    elif finished:
        click.echo(text)


def follow_run(daemon: Client, run: str, *, as_json: bool) -> None:
    """Shows the events of a run until it closes."""
    if as_json:
        for event in daemon.stream("GET", run_path(run, "events"), follow=1):
            print_json(event)
        return
    names = {node["account"]: node["name"] for node in daemon.get("/nodes") if node.get("name")}
    with screen(RunView(run=run, names=names)) as shown:
        for event in daemon.stream("GET", run_path(run, "events"), follow=1):
            shown.show(event)


@click.command()
@with_home
@with_json
def runs(home: Path, as_json: bool) -> None:
    """List the runs that this peer knows."""
    jobs = client(home).get("/jobs")
    if as_json:
        print_json(jobs)
        return
    rows = [
        (
            job["run"][:12],
            job.get("name", ""),
            job.get("phase", ""),
            job.get("role", ""),
            f"{job.get('round', 0)}/{job.get('rounds', '?')}",
            nats(job.get("loss")),
            credits(job.get("credits") or 0),
        )
        for job in jobs
    ]
    print_table(("run", "name", "phase", "role", "round", "loss", "credits"), rows)


@click.command()
@RUN
@with_home
@with_json
def status(run: str | None, home: Path, as_json: bool) -> None:
    """Show this peer, or one run."""
    daemon = client(home)
    facts = daemon.get(run_path(run)) if run else daemon.get("/status")
    if as_json:
        print_json(facts)
    else:
        print_facts(flat(facts))


def flat(facts: Event, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested facts as dotted names and readable values."""
    for name, value in facts.items():
        if name == "paused" and value:
            yield prefix + name, pause_end(value)
        elif isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif name == "stages" and isinstance(value, list):
            yield from ((f"{prefix}{name}", line) for line in stage_lines(value, lambda account: str(account)[:8]))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield prefix + name, ", ".join(str(item.get("name") or item.get("run", ""))[:16] for item in value)
        elif isinstance(value, list):
            yield prefix + name, ", ".join(str(item) for item in value) or "–"
        elif name in {"credits", "balance", "claimable"} and isinstance(value, int):
            yield prefix + name, credits(value)
        else:
            yield prefix + name, "–" if value is None or value == "" else value


@click.command()
@RUN
@with_home
@with_json
def watch(run: str | None, home: Path, as_json: bool) -> None:
    """Watch a run live: per round loss, members, tokens/s and credits; joins and drops."""
    daemon = client(home)
    follow_run(daemon, choose_run(daemon, run), as_json=as_json)


@click.command()
@RUN
@with_home
@with_json
def cancel(run: str | None, home: Path, as_json: bool) -> None:
    """Close a run that this peer submitted; what was settled stays paid."""
    daemon = client(home)
    answer = daemon.post(run_path(choose_run(daemon, run), "cancel"))
    said = "cancelled" if answer["cancelled"] else "its leader cannot be reached now; it is told as soon as it can be"
    print_json(answer) if as_json else click.echo(said)


@click.command()
@RUN
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Where to write the model.")
@click.option(
    "--round", "number", type=click.IntRange(0), help="After this round, 0: the initial one; else the newest."
)
@with_home
@with_json
def export(run: str | None, folder: Path, number: int | None, home: Path, as_json: bool) -> None:
    """Write a run's model as a Hugging Face folder.

    In it lies the proof that the run's certified log names this state: forge-ledger check FOLDER --network network.json
    verifies it offline, weights and all. A state of the past is computed again from the nearest one that is kept, here
    or by another peer, and the updates since.
    """
    daemon, started = client(home), time.monotonic()
    chosen = {} if number is None else {"round": number}
    answer = daemon.post(run_path(choose_run(daemon, run), "export"), to=str(folder.expanduser().absolute()), **chosen)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['folder']}: {', '.join(answer['files'])} in {time.monotonic() - started:.1f} s")
    if answer.get("unproven"):
        click.echo(f"the model can be used, but not proven: {answer['unproven']}", err=True)


@click.command()
@RUN
@click.option("--prompt", required=True, help="The text to go on from.")
@click.option("--tokens", default=60, show_default=True, type=click.IntRange(1, 10_000), help="Tokens to add.")
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(0, 10), help="0: the likeliest.")
@click.option("--top-k", default=40, show_default=True, type=click.IntRange(0), help="Draw among this many; 0: all.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Equal seeds give equal text.")
@with_home
@with_json
def generate(run: str | None, home: Path, as_json: bool, **how: Any) -> None:
    """Let a run's newest model go on from a prompt."""
    daemon = client(home)
    answer = daemon.post(run_path(choose_run(daemon, run), "generate"), **how)
    print_json(answer) if as_json else click.echo(how["prompt"] + answer["text"])


COMMANDS = (submit, runs, status, watch, cancel, export, generate)
