"""`forge-peer`: run a peer, submit runs, watch them, take the model home.

Every command takes `--home`; those that print facts take `--json`. Errors are one line with a code and the way out.
Only click and small modules are imported here, so that `--help` answers at once.

IO: the commands' own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from peer.cli import network, presence, runs, start
from peer.cli.base import call, client, print_facts, print_json, print_table, with_home, with_json
from peer.cli.view import credits as in_credits
from peer.cli.view import size
from peer.errors import ForgeError

STOP_S = 10.0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="p2p-llm-forge")
def forge_peer() -> None:
    """Train language models together: run a peer, submit runs, earn and spend credits."""


@forge_peer.command()
@with_home
@with_json
def peers(home: Path, as_json: bool) -> None:
    """List the peers that this one knows now."""
    found = client(home).get("/nodes")
    if as_json:
        print_json(found)
        return
    rows = [
        (
            node["account"][:12],
            node["peer_id"],
            node.get("name") or "–",
            node.get("device") or "–",
            f"{node['tflops']:.3f}" if node.get("tflops") else "–",
            size(node["memory_bytes"]) if node.get("memory_bytes") else "–",
        )
        for node in found
    ]
    print_table(("account", "peer", "name", "device", "TFLOP/s", "memory"), rows)


@forge_peer.group()
def credits() -> None:
    """What accounts own."""


@credits.command()
@click.argument("account", default="me")
@with_home
@with_json
def balance(account: str, home: Path, as_json: bool) -> None:
    """Show the credits of an account; this peer's own by default."""
    answer: dict[str, Any] = client(home).get(f"/tokens/balance/{account}")
    if as_json:
        print_json(answer)
        return
    facts = [(name, in_credits(value) if isinstance(value, int) else value) for name, value in answer.items()]
    print_facts(facts)


@forge_peer.command()
@with_home
@with_json
def stop(home: Path, as_json: bool) -> None:
    """Stop this peer's daemon cleanly."""
    from peer.identity import Home

    client(home).post("/shutdown")
    deadline = time.monotonic() + STOP_S
    while (pid := Home(home).holder()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if pid:
        raise ForgeError("FP-512", f"the daemon in {home} still runs after {STOP_S:.0f} s", f"kill {pid}")
    print_json({"stopped": True}) if as_json else click.echo("stopped")


@forge_peer.command()
@click.option("--corpus", type=click.Path(path_type=Path), help="Text to train on.  [default: the sample corpus]")
@click.option("--peers", "num_peers", default=3, show_default=True, type=click.IntRange(3, 8), help="Daemons.")
@click.option("--rounds", type=click.IntRange(4, 1000), help="Training rounds.")
@click.option("--home", "folder", type=click.Path(path_type=Path), help="Where to put it all.  [default: temporary]")
@click.option("--keep", is_flag=True, help="Keep the folder when the demo ends, also if it fails.")
@click.option("--json", "summary", type=click.Path(path_type=Path), help="Write a summary to this file.")
def demo(**options: Any) -> int:
    """Show the main job: three peers train a model; one joins late, one is killed and comes back; all is verified."""
    from peer.demo.main import run_demo
    from peer.demo.plan import DemoOptions

    return run_demo(DemoOptions(**options))


for _command in (*network.COMMANDS, *start.COMMANDS, *presence.COMMANDS, *runs.COMMANDS):
    forge_peer.add_command(_command)


def main() -> None:
    """The console script."""
    sys.exit(call(forge_peer))


if __name__ == "__main__":
    main()
