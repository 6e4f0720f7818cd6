"""`forge-peer pause` and `resume`: the volunteer needs the machine, for a while or until further notice.

IO: the gateway of the home's daemon, standard output.
"""

from __future__ import annotations

from pathlib import Path

import click

from peer.absence import parse_duration
from peer.cli.base import client, print_json, with_home, with_json
from peer.cli.view import pause_end


@click.command()
@click.argument("duration", required=False)
@with_home
@with_json
def pause(duration: str | None, home: Path, as_json: bool) -> None:
    """Stop training, for DURATION (30m, 2h, 1h30m, 1d) or until `forge-peer resume`.

    Takes effect at the end of the current step, and the training's memory is given back. The peer stays in the network:
    it serves blobs, cosigns as a witness, and goes on leading what it leads. A restart does not end the pause.
    """
    seconds = None if duration is None else parse_duration(duration)
    answer = client(home).post("/pause", seconds=seconds)
    print_json(answer) if as_json else click.echo(f"paused {pause_end(answer['paused'])}")


@click.command()
@with_home
@with_json
def resume(home: Path, as_json: bool) -> None:
    """End a pause: train again."""
    answer = client(home).post("/resume")
    print_json(answer) if as_json else click.echo("training again" if answer["resumed"] else "was not paused")


COMMANDS = (pause, resume)
